"""The table of an evaluation is written, read back, and compared with the table of another evaluation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from easq_rec.config.schema import Outcome
from easq_rec.evaluation.compare import compare, print_comparison, write_comparison
from easq_rec.evaluation.metrics.intervals import METRICS, estimates
from easq_rec.evaluation.predict import AnswerPredictions, Predictions
from easq_rec.evaluation.results import (
    LABELS,
    Evaluated,
    Origin,
    evaluation_table,
    plain_values,
    print_evaluation,
    read,
    write,
)

REQUESTS, WIDTH = 40, 6


OUTCOMES = (Outcome(name="like", weight=1.0), Outcome(name="watch_s", weight=0.1, kind="amount"))


def predictions(*, seed: int = 0, shuffled: bool = False) -> Predictions:
    """Predictions for 20 users with two requests each. Request ids begin at 100. The score is the logit of a like, and
    a like is worth one unit of utility; predicted amounts are all 1."""
    generator = torch.Generator().manual_seed(9)
    truth_RC = torch.randint(0, 3, (REQUESTS, WIDTH), generator=generator).float()
    utility_RC = torch.randint(0, 2, (REQUESTS, WIDTH), generator=generator).float()
    score_RC = truth_RC + torch.randn(REQUESTS, WIDTH, generator=torch.Generator().manual_seed(seed))
    rows = torch.randperm(REQUESTS, generator=generator) if shuffled else torch.arange(REQUESTS)
    return Predictions(
        main_N=score_RC[rows].flatten(),
        served_N=score_RC[rows].flatten(),
        truth_N=truth_RC[rows].flatten(),
        utility_N=utility_RC[rows].flatten(),
        lengths_R=torch.full((REQUESTS,), WIDTH),
        user_R=rows % 20,
        request_id_R=100 + rows,
        logit_NO=torch.stack([score_RC[rows].flatten(), torch.zeros(REQUESTS * WIDTH)], 1),
        outcome_NO=utility_RC[rows].flatten()[:, None].repeat(1, 2),
    )


def answered(request_ids: list[int], answers: list[list[int]]) -> AnswerPredictions:
    lengths = [len(slate) for slate in answers]
    return AnswerPredictions(
        served_N=torch.arange(sum(lengths)).float(),
        answer_N=torch.tensor([answer for slate in answers for answer in slate], dtype=torch.int64),
        lengths_R=torch.tensor(lengths),
        user_R=torch.tensor(request_ids) % 20,
        request_id_R=torch.tensor(request_ids),
    )


def stored(folder: Path, *, seed: int = 0, shuffled: bool = False, answers: AnswerPredictions | None = None) -> Path:
    evaluated = Evaluated(
        origin=Origin(recipe="easq", step=7, fuse=None),
        table=evaluation_table(predictions(seed=seed, shuffled=shuffled), answers, outcomes=OUTCOMES),
    )
    folder.mkdir()
    write(evaluated, estimates(evaluated.sums(), resamples=50), folder, "evaluation", {"resamples": 50})
    return folder


def test_every_metric_has_a_label() -> None:
    assert set(LABELS) == set(METRICS)


def test_answers_join_their_requests_and_other_answers_get_new_rows() -> None:
    """Request 101 has predictions and request 7 has none. The second answers of 101 must not overwrite the first."""
    table = evaluation_table(predictions(), answered([7, 101, 101], [[2, -1], [-1, 0, 1], [-1, 2]]))
    assert table["request_id"].to_pylist() == [*range(100, 140), 7, 101]
    assert table["answer"].to_pylist() == [[], [0, 1], *[[]] * 38, [2], [2]]
    assert table["answer_score"].to_pylist() == [[], [3.0, 4.0], *[[]] * 38, [0.0], [6.0]]
    ndcg = table["answer_ndcg1"].to_pylist()
    assert ndcg[:40] == [None] * 40 and ndcg[40:] == [0.0, 1.0]
    # The new rows do not count in the other metrics.
    assert table["satisfaction_ndcg5"].to_pylist()[40:] == [None, None]
    assert table["pairs"].to_pylist()[40:] == [0, 0] and table["candidates"].to_pylist()[40:] == [2, 2]
    sums = Evaluated(origin=Origin(recipe="easq", step=1, fuse=None), table=table).sums()
    alone = Evaluated(
        origin=Origin(recipe="easq", step=1, fuse=None), table=evaluation_table(predictions(), None)
    ).sums()
    ours, theirs = (estimates(found, resamples=2) for found in (sums, alone))
    for name in ("satisfaction_ndcg5", "pair_accuracy", "gauc", "calibration_error"):
        assert ours[name].value == pytest.approx(theirs[name].value, abs=1e-12)
    # The scores of satisfied answers are 0 and 6, that of the dissatisfied answer is 3.
    assert ours["answer_auc"].value == 0.5 and math.isnan(theirs["answer_auc"].value)


def test_a_written_evaluation_is_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stored(tmp_path / "run", answers=answered([101], [[0, 2]]))
    found, summary = read(folder), json.loads((folder / "evaluation.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == ["evaluation.json", "evaluation.parquet"]
    assert found.origin == Origin(recipe="easq", step=7, fuse=None)
    intervals = estimates(found.sums(), resamples=50)
    for name in LABELS:
        value = summary["metrics"][name]["value"]
        assert value == pytest.approx(intervals[name].value) if value is not None else math.isnan(intervals[name].value)
    assert summary["metrics"]["answer_auc"] == {"value": 1.0, "low": None, "high": None}
    assert sum(entry["pairs"] for entry in summary["reliability"]) == sum(found.table["engagement_pairs"].to_pylist())
    print_evaluation(found, intervals, 0.95)
    printed = capsys.readouterr().out
    assert "40 held-out requests of 20 users, ranked by the policy score; 2 answers" in printed
    assert "no interval" in printed and "undefined" not in printed.replace("answer GAUC", "")


def test_predicted_outcomes_are_part_of_a_written_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Request 7 has no predictions, so it changes nothing."""
    folder = stored(tmp_path / "run", answers=answered([7], [[2, -1]]))
    found, summary = read(folder), json.loads((folder / "evaluation.json").read_text())
    assert found.outcomes() == ["like", "watch_s"]
    data = predictions()
    assert data.logit_NO is not None and data.outcome_NO is not None
    value_N, like_N = data.logit_NO[:, 0].double().sigmoid(), data.outcome_NO[:, 0].double()
    metrics = summary["metrics"]
    loss = -(like_N * value_N.log() + (1 - like_N) * (1 - value_N).log()).mean().item()
    assert metrics["outcome_log_loss_like"]["value"] == pytest.approx(loss)
    assert metrics["outcome_ratio_like"]["value"] == pytest.approx((value_N.sum() / like_N.sum()).item())
    assert metrics["outcome_ratio_watch_s"]["value"] == pytest.approx(1 / like_N.mean().item())
    assert "outcome_log_loss_watch_s" not in metrics
    like, (watch,) = summary["outcomes"]["like"], summary["outcomes"]["watch_s"]
    assert [one["candidates"] for one in like] == [24] * 10
    assert sum(one["predicted"] * 24 for one in like) == pytest.approx(value_N.sum().item())
    error = sum(abs(one["predicted"] - one["observed"]) for one in like) / 10
    assert metrics["outcome_calibration_error_like"]["value"] == pytest.approx(error)
    # All amounts are in one bin; its interval is that of a mean over users of 12 candidates each.
    by_user = like_N.view(2, 20, WIDTH).sum((0, 2)) / (2 * WIDTH)
    half = 1.96 * ((by_user - by_user.mean()) ** 2).sum().sqrt().item() / 20
    assert watch == pytest.approx(
        {
            "predicted": 1.0,
            "observed": by_user.mean().item(),
            "low": by_user.mean().item() - half,
            "high": by_user.mean().item() + half,
            "candidates": 240,
        }
    )
    intervals = estimates(found.sums(), resamples=50)
    print_evaluation(found, intervals, 0.95)
    printed = capsys.readouterr().out
    assert "  like: calibration error" in printed and "  watch_s: predicted / observed" in printed
    assert plain_values(found, intervals)["outcome_log_loss_like"] == pytest.approx(loss)


def test_a_comparison_pairs_requests_in_any_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, base = stored(tmp_path / "run", seed=1), stored(tmp_path / "base", seed=1, shuffled=True)
    ours, theirs, found = compare(run, base, resamples=20, seed=0)
    for name in ("satisfaction_ndcg5", "pair_accuracy", "gauc", "calibration_error"):
        difference = found[name].difference
        assert [difference.value, difference.low, difference.high] == pytest.approx([0, 0, 0], abs=1e-12)
    print_comparison(ours, theirs, found)
    assert "calibration gap" in capsys.readouterr().out
    write_comparison(ours, theirs, found, tmp_path / "new" / "out.json")
    assert json.loads((tmp_path / "new" / "out.json").read_text())["metrics"]["answer_auc"]["run"] is None


def test_errors_of_a_comparison_name_the_remedy(tmp_path: Path) -> None:
    run = stored(tmp_path / "run")
    table = pq.read_table(run / "evaluation.parquet")
    other = tmp_path / "other.parquet"
    with pytest.raises(ValueError, match=rf"run `easq-rec evaluate --run {tmp_path}` first"):
        compare(run, tmp_path, resamples=5, seed=0)
    with pytest.raises(ValueError, match=r"run `easq-rec evaluate --run RUN` first"):
        compare(run, other, resamples=5, seed=0)
    pq.write_table(table.slice(3), other)
    with pytest.raises(ValueError, match=r"have different requests: 37 in both, 3 only in the first, 0 only in the s"):
        compare(run, other, resamples=5, seed=0)
    changed = np.array(table["candidates"]) + 1
    at = table.column_names.index("candidates")
    pq.write_table(table.set_column(at, "candidates", [changed]), other)
    with pytest.raises(ValueError, match=r"requests of the same ids that differ in candidates: evaluate both on"):
        compare(run, other, resamples=5, seed=0)
    pq.write_table(table.replace_schema_metadata(None), other)
    with pytest.raises(ValueError, match=r"format None, expected 2\): run `easq-rec evaluate` again"):
        compare(run, other, resamples=5, seed=0)
    other.write_text("no parquet")
    with pytest.raises(ValueError, match=r"not a readable Parquet file"):
        compare(run, other, resamples=5, seed=0)
