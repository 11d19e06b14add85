"""`easq-rec calibrate`, and its maps in `evaluate` and `score`; probabilities of a model that saw a thinned log."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from easq_rec.config.recipes import quickstart
from easq_rec.config.schema_file import schema_to_toml
from tests.integration.conftest import SMALL, metrics

pytestmark = pytest.mark.integration

Call = Train = Callable[..., subprocess.CompletedProcess[str]]
KEPT = 0.25
# A decaying rate, because the level of the probabilities after 70 steps at a constant one depends on the last batches.
RATE = ("--optim.dense-lr", "0.01", "--optim.schedule", "cosine", "--trainer.max-steps", "70")


@pytest.fixture(scope="module")
def run_dir(call: Call, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the whole log."""
    run_dir = tmp_path_factory.mktemp("calibrated") / "run"
    call("train", "quickstart_main_only", "--data", world, "--run-dir", run_dir, *SMALL, *RATE)
    return run_dir


def evaluated(call: Call, run_dir: Path, *arguments: object) -> dict[str, float]:
    call("evaluate", "--run", run_dir, "--resamples", 50, "--out", run_dir / "values.json", *arguments)
    values: dict[str, float] = json.loads((run_dir / "values.json").read_text())
    return values


def thinned(world: Path, out: Path) -> None:
    """The world without three of four candidates that were not viewed for long. Its time line stays the same."""
    generator = np.random.default_rng(0)
    shutil.copytree(world / "answers", out / "answers")
    (out / "requests").mkdir()
    for file in sorted((world / "requests").glob("*.parquet")):
        table = pq.read_table(file)
        lists = table["candidates"].combine_chunks()
        viewed_N = lists.flatten().field("long_view").to_numpy(zero_copy_only=False).astype(bool)
        kept_N = viewed_N | (generator.random(len(viewed_N)) < KEPT)
        request_N = np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy())
        lengths_R = np.bincount(request_N[kept_N], minlength=len(lists))
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths_R)]).astype(np.int32))
        kept = pa.ListArray.from_arrays(offsets, lists.flatten().filter(pa.array(kept_N)))
        table = table.set_column(table.column_names.index("candidates"), "candidates", kept)
        pq.write_table(table.filter(pa.array(lengths_R > 0)), out / "requests" / file.name)


def test_the_trainer_logs_the_calibration_that_evaluate_reports(run_dir: Path, call: Call) -> None:
    values, final = evaluated(call, run_dir), metrics(run_dir, "final")[0]
    for outcome in ("long_view", "like", "follow"):
        for kind in ("outcome_calibration_error", "outcome_log_loss", "outcome_ratio"):
            assert final[f"{kind}_{outcome}"] == pytest.approx(values[f"{kind}_{outcome}"], abs=1e-4)
    assert values["outcome_ratio_long_view"] == pytest.approx(1, abs=0.2)


def test_two_ranks_log_what_one_process_evaluates(train: Train, call: Call, tmp_path: Path) -> None:
    """Each rank predicts for its share of the held-out requests, and bins are those of all requests."""
    run = tmp_path / "run"
    train(run, "--trainer.max-steps", "3", ranks=2)
    values, final = evaluated(call, run), metrics(run, "final")[0]
    ours = {name: value for name, value in values.items() if name.startswith("outcome_")}
    assert len(ours) == 9 and {name: final[name] for name in ours} == pytest.approx(ours, abs=1e-4)


def test_probabilities_after_training_on_a_thinned_log_are_those_of_the_whole_log(
    run_dir: Path, call: Call, world: Path, tmp_path: Path
) -> None:
    """With the declared share they are about as right as those of the run on the whole log. Without it they are far too
    high. On the thinned log itself, weights give the same answer."""
    thinned(world, tmp_path / "data")
    schema = quickstart().schema
    (first, *others) = schema.outcomes
    assert first.name == "long_view"
    declared = dataclasses.replace(schema, outcomes=(dataclasses.replace(first, negatives_kept=KEPT), *others))
    ratios, on_thinned = {}, {}
    for name, found in (("declared", declared), ("silent", schema)):
        (tmp_path / f"{name}.toml").write_text(schema_to_toml(found))
        run, file = tmp_path / name, tmp_path / f"{name}.toml"
        arguments = ("--data", tmp_path / "data", "--run-dir", run, "--schema", file, *SMALL, *RATE)
        call("train", "quickstart_main_only", *arguments)
        ratios[name] = evaluated(call, run, "--data", world, "--all-negatives")
        on_thinned[name] = evaluated(call, run)
    whole = evaluated(call, run_dir)
    key, error = "outcome_ratio_long_view", "outcome_calibration_error_long_view"
    assert ratios["declared"][key] == pytest.approx(whole[key], abs=0.15)
    assert ratios["declared"][error] < whole[error] + 0.05
    assert ratios["silent"][key] > 1.6 and ratios["silent"][error] > whole[error] + 0.15
    assert on_thinned["declared"][key] == pytest.approx(ratios["declared"][key], abs=0.1)


def test_maps_lower_the_error_of_later_requests(run_dir: Path, call: Call) -> None:
    """The command tries the maps on the requests that `evaluate --calibrated` takes: the figures agree."""
    printed = call("calibrate", "--run", run_dir, "--method", "temperature", "--resamples", 50).stdout
    (line,) = [line for line in printed.splitlines() if "long_view: log loss" in line]
    before, after = map(float, line.split()[3:5])
    values = evaluated(call, run_dir, "--calibrated", "--name", "calibrated")
    assert values["outcome_log_loss_long_view"] == pytest.approx(after, abs=1e-4) and after < before + 0.01
    summary = json.loads((run_dir / "calibrated.json").read_text())
    later = len(pq.read_table(run_dir / "calibrated.parquet"))
    assert summary["calibration"] == "temperature" and f"tried on {later} later requests" in printed
    assert later < metrics(run_dir, "final")[0]["requests"]


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_scores_have_the_predicted_outcomes_beside_them(
    run_dir: Path, call: Call, world: Path, tmp_path: Path, method: str
) -> None:
    """Maps change the outcomes and neither score nor rank."""
    call("calibrate", "--run", run_dir, "--method", method, "--resamples", 10)
    tables = []
    for name, options in (("plain", []), ("raw", ["--outcomes"]), ("mapped", ["--outcomes", "--calibrated"])):
        output = tmp_path / f"{name}.parquet"
        call("score", "--run", run_dir, "--input", world, "--output", output, *options)
        tables.append(pq.read_table(output))
    plain, raw, mapped = tables
    assert raw.column_names == [*plain.column_names, "long_view", "like", "follow"]
    assert raw.select(plain.column_names).equals(plain) and mapped.select(plain.column_names).equals(plain)
    p = {name: raw[name].to_numpy().astype(np.float64) for name in ("long_view", "like", "follow")}
    utility = (p["long_view"] + 0.5 * p["like"] + 0.5 * p["follow"]) / 2
    np.testing.assert_allclose(np.log(utility / (1 - utility)), raw["score"].to_numpy(), atol=1e-4)
    order = np.argsort(p["long_view"], kind="stable")
    assert (np.diff(mapped["long_view"].to_numpy()[order]) >= -1e-7).all()
    assert abs(mapped["long_view"].to_numpy() - p["long_view"]).max() > 1e-3


def test_errors_name_the_remedy(run_dir: Path, call: Call, world: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    (other / "calibration.json").unlink(missing_ok=True)
    said = call("evaluate", "--run", other, "--calibrated", code=2).stderr
    assert f"run `easq-rec calibrate --run {other}` first" in said
    call("calibrate", "--run", other, "--resamples", 10)
    out = tmp_path / "s.parquet"
    said = call("score", "--run", other, "--input", world, "--output", out, "--calibrated", code=2).stderr
    assert "give --outcomes, too" in said and not out.exists()
    assert "--share=1.5 is not allowed" in call("calibrate", "--run", other, "--share", 1.5, code=2).stderr
    config = json.loads((other / "config.json").read_text())
    config["model"]["policy_score"] = "single"
    config["losses"]["pointwise"]["weight"] = 0.0
    (other / "config.json").write_text(json.dumps(config))
    assert "predicts no outcomes" in call("calibrate", "--run", other, code=2).stderr
    said = call("score", "--run", other, "--input", world, "--output", out, "--outcomes", code=2).stderr
    assert "predicts no outcomes: omit --outcomes" in said
