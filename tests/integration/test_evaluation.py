"""`easq-rec evaluate` and `compare` on runs of the small world: files, tables, fused serving, and errors."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.conftest import SMALL, metrics

Train = Callable[..., subprocess.CompletedProcess[str]]
Call = Callable[..., subprocess.CompletedProcess[str]]
NO_WARMUP = ("--losses.warmup-steps", "0", "--losses.warmup-per-class", "0")


@pytest.fixture(scope="module")
def runs(train: Train, call: Call, world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An aligned run and one without a satisfaction tower, both evaluated."""
    run, base = (tmp_path_factory.mktemp("evaluated") / name for name in ("run", "base"))
    train(run, "--trainer.max-steps", "20", "--optim.dense-lr", "0.01", *NO_WARMUP)
    call("train", "main_only", "--data", world, "--run-dir", base, *SMALL, "--trainer.max-steps", 2)
    for directory in (run, base):
        call("evaluate", "--run", directory, "--resamples", 200)
    return run, base


@pytest.mark.integration
def test_evaluate_writes_a_summary_and_a_table(runs: tuple[Path, Path], world: Path) -> None:
    from easq_rec.evaluation.results import LABELS

    summary = json.loads((runs[0] / "evaluation.json").read_text())
    table = pq.read_table(runs[0] / "evaluation.parquet")
    kinds = ("outcome_calibration_error", "outcome_log_loss", "outcome_ratio")
    predicted = [f"{kind}_{name}" for kind in kinds for name in ("long_view", "like", "follow")]
    assert set(summary["metrics"]) == {*LABELS, *predicted} and set(summary["outcomes"]) == {
        *("long_view", "like", "follow"),
    }
    for name in ("satisfaction_ndcg5", "engagement_ndcg1", "user_pair_accuracy", "gauc", "answer_auc", "answer_ndcg5"):
        found = summary["metrics"][name]
        assert found["low"] < found["value"] < found["high"], name
    assert summary["requests"] == len(table) and summary["resamples"] == 200
    assert summary["users"] == len(np.unique(table["user_id"])) and summary["candidates"] == 12 * len(table)
    assert {"easq-rec", "torch", "torchrec"} <= set(summary["versions"])
    # The values can be computed from the table.
    assert np.nanmean(table["satisfaction_ndcg5"]) == pytest.approx(summary["metrics"]["satisfaction_ndcg5"]["value"])
    gauc = sum(table["gauc_won"].to_pylist()) / sum(table["gauc_weight"].to_pylist())
    assert gauc == pytest.approx(summary["metrics"]["gauc"]["value"])
    # The table has all answers of the held-out period and no others.
    answers = [
        (row["request_id"], candidate["answer"])
        for file in (world / "answers").rglob("*.parquet")
        for row in pq.read_table(file, columns=["request_id", "candidates"]).to_pylist()
        for candidate in row["candidates"]
        if candidate["answer"] is not None
    ]
    held_out = set(table["request_id"].to_pylist())
    listed = [
        (row["request_id"], answer)
        for row in table.select(["request_id", "answer"]).to_pylist()
        for answer in row["answer"]
    ]
    assert sorted(listed) == sorted(pair for pair in answers if pair[0] in held_out)
    assert len(listed) == sum(summary[f"answers_{name}"] for name in ("dissatisfied", "uncertain", "satisfied")) > 20


@pytest.mark.integration
def test_known_and_new_users_are_evaluated_apart(
    runs: tuple[Path, Path], call: Call, world: Path, tmp_path: Path
) -> None:
    """On a log in which users with odd ids have no request in the training period."""
    held_out = pq.read_table(runs[0] / "evaluation.parquet", columns=["request_id"])["request_id"].to_numpy()
    for folder in ("requests", "answers"):
        table = pq.read_table(world / folder)
        kept = np.isin(table["request_id"].to_numpy(), held_out) | (table["user_id"].to_numpy() % 2 == 0)
        (tmp_path / folder).mkdir()
        pq.write_table(table.filter(pa.array(kept)).sort_by("timestamp_ms"), tmp_path / folder / "part.parquet")
    # The time line must end and be divided as before.
    times = pq.read_table(tmp_path / "requests", columns=["timestamp_ms", "user_id"])
    assert times["timestamp_ms"].to_numpy().min() == pq.read_table(world / "requests")["timestamp_ms"].to_numpy().min()
    found = {}
    for users in ("all", "known", "new"):
        options = ("--users", users, "--name", users, "--resamples", 20, "--data", tmp_path)
        printed = call("evaluate", "--run", runs[0], *options).stdout
        found[users] = pq.read_table(runs[0] / f"{users}.parquet")
        summary = json.loads((runs[0] / f"{users}.json").read_text())
        assert summary["user_group"] == users and summary["users"] == len(np.unique(found[users]["user_id"]))
        assert users == "all" or f"{users} users" in printed
    requests = pq.read_table(tmp_path / "requests", columns=["request_id", "user_id"])
    earlier = requests.filter(pa.array(~np.isin(requests["request_id"].to_numpy(), held_out)))
    trained = set(earlier["user_id"].to_pylist())
    assert set(found["known"]["user_id"].to_pylist()) <= trained and len(found["known"])
    assert not set(found["new"]["user_id"].to_pylist()) & trained and len(found["new"])
    assert len(found["known"]) + len(found["new"]) == len(found["all"]) == len(held_out)
    rows = {row["request_id"]: row for row in found["all"].to_pylist()}
    assert all(rows[row["request_id"]] == row for row in found["new"].to_pylist())
    known = pq.read_table(tmp_path / "requests" / "part.parquet")
    known = known.filter(pa.array(np.isin(known["user_id"].to_numpy(), list(trained))))
    (tmp_path / "known" / "requests").mkdir(parents=True)
    pq.write_table(known, tmp_path / "known" / "requests" / "part.parquet")
    refused = call("evaluate", "--run", runs[0], "--users", "new", "--data", tmp_path / "known", code=2)
    assert "--users new: no held-out request of" in refused.stderr


@pytest.mark.integration
def test_studies_and_evaluate_rank_alike_by_a_fused_score(runs: tuple[Path, Path], call: Call) -> None:
    from easq_rec.run_directory.config_file import load_config
    from easq_rec.serving.evaluate import rank_fused

    call("evaluate", "--run", runs[0], "--fuse", 0.7, "--name", "fused", "--resamples", 50)
    expected = json.loads((runs[0] / "fused.json").read_text())["metrics"]
    found = rank_fused(load_config(runs[0]), [0.2, 0.7])[0.7].metrics()
    plain = json.loads((runs[0] / "evaluation.json").read_text())["metrics"]
    for name in ("satisfaction_ndcg5", "engagement_ndcg5", "pair_accuracy"):
        assert getattr(found, name) == pytest.approx(expected[name]["value"])
        assert getattr(found, name) != pytest.approx(plain[name]["value"])


@pytest.mark.integration
def test_no_weight_counts_before_the_warmup_has_ended(train: Train, tmp_path: Path) -> None:
    from easq_rec.run_directory.config_file import load_config
    from easq_rec.serving.evaluate import rank_fused

    train(tmp_path, "--trainer.max-steps", "2", *NO_WARMUP[:2], "--losses.warmup-per-class", "100000")
    found = rank_fused(load_config(tmp_path), [0.0, 0.2, 0.7])
    assert found[0.0].metrics() == found[0.2].metrics() == found[0.7].metrics()


@pytest.mark.integration
def test_compare_prints_and_writes_paired_differences(runs: tuple[Path, Path], call: Call, tmp_path: Path) -> None:
    run, base = runs
    out = tmp_path / "comparison.json"
    table = call("compare", run, base, "--json", out).stdout
    found = json.loads(out.read_text())["metrics"]
    values = [json.loads((directory / "evaluation.json").read_text())["metrics"] for directory in runs]
    for label, name in (("satisfaction NDCG@5", "satisfaction_ndcg5"), ("GAUC", "gauc"), ("answer AUC", "answer_auc")):
        entry, ours, theirs = found[name], values[0][name]["value"], values[1][name]["value"]
        assert (entry["run"], entry["base"]) == pytest.approx((ours, theirs))
        assert entry["difference"]["value"] == pytest.approx(ours - theirs)
        assert entry["relative"]["value"] == pytest.approx(ours / theirs - 1)
        assert entry["difference"]["low"] < entry["difference"]["value"] < entry["difference"]["high"]
        line = next(line for line in table.splitlines() if line.strip().startswith(label))
        assert f"{ours:.4f}" in line and f"{ours - theirs:+.4f}" in line


@pytest.mark.integration
def test_fused_serving_ranks_alike_in_evaluate_and_score(
    runs: tuple[Path, Path], call: Call, world: Path, tmp_path: Path
) -> None:
    run, _ = runs
    table = call("evaluate", "--run", run, "--fuse", 0.7, "--name", "fused", "--resamples", 50).stdout
    assert "main score + 0.7 * satisfaction score" in table
    fused, plain = (pq.read_table(run / f"{name}.parquet") for name in ("fused", "evaluation"))
    assert fused["calibration_pairs"].equals(plain["calibration_pairs"])
    assert not fused["engagement_ndcg5"].equals(plain["engagement_ndcg5"])
    call("compare", run / "fused.parquet", run)
    out = tmp_path / "scores.parquet"
    call("score", "--run", run, "--input", world, "--output", out, "--fuse", 0.7)
    scores = pq.read_table(out)
    score_RC = scores["score"].to_numpy().reshape(-1, 12)
    assert (np.diff(score_RC, axis=1) <= 0).all()
    by_request = dict(zip(scores["request_id"].to_pylist()[::12], score_RC.tolist(), strict=True))
    for row in fused.select(["request_id", "answer_score"]).to_pylist():
        for value in row["answer_score"]:
            assert min(abs(value - other) for other in by_request[row["request_id"]]) < 1e-4


@pytest.mark.integration
def test_errors_are_one_line_that_names_the_remedy(runs: tuple[Path, Path], call: Call, tmp_path: Path) -> None:
    run, base = runs

    def refused(*arguments: object) -> str:
        (line,) = call(*arguments, code=2).stderr.splitlines()
        return line

    assert "has no satisfaction tower to fuse with: omit --fuse" in refused("evaluate", "--run", base, "--fuse", 0.5)
    assert f"run `easq-rec evaluate --run {tmp_path}` first" in refused("compare", run, tmp_path)


@pytest.mark.integration
def test_the_best_checkpoint_is_evaluated(runs: tuple[Path, Path], train: Train, call: Call, tmp_path: Path) -> None:
    """The newest checkpoint is not the best one, because the run has a high learning rate and gets worse."""
    run = tmp_path / "run"
    how = ("--checkpoint.best", "engagement_ndcg5", "--checkpoint.keep", "1", "--evaluation.every-steps", "4")
    train(run, "--trainer.max-steps", "24", "--optim.dense-lr", "0.05", *how)
    scores = {line["step"]: line["engagement_ndcg5"] for line in metrics(run, "holdout")}
    best = max(scores, key=lambda step: scores[step])
    assert best < 24
    call("evaluate", "--run", run, "--best", "--resamples", 50, "--name", "best")
    found = json.loads((run / "best.json").read_text())
    assert found["step"] == best
    assert found["metrics"]["engagement_ndcg5"]["value"] == pytest.approx(scores[best], abs=1e-6)
    refused = call("evaluate", "--run", runs[0], "--best", code=2)
    assert "--best: no checkpoint of" in refused.stderr and "--checkpoint.best METRIC" in refused.stderr
