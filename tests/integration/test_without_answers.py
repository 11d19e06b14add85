"""Training on data without a folder answers/: with weights of evidence by hand, and not with estimated ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.conftest import SMALL, Call, metrics


@pytest.fixture(scope="module")
def requests_alone(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world without its answers."""
    directory = tmp_path_factory.mktemp("silent") / "data"
    shutil.copytree(world / "requests", directory / "requests")
    return directory


@pytest.mark.integration
def test_evidence_by_hand_needs_no_answers(call: Call, requests_alone: Path, tmp_path: Path) -> None:
    """The reference learns from evidence, and steers after the steps of the warm-up."""
    run = tmp_path / "run"
    options = (*SMALL, "--trainer.max-steps", "20", "--losses.dense.weight", "0.3")
    call("train", "quickstart_without_any_answers", "--data", requests_alone, "--run-dir", run, *options)
    steps = metrics(run)
    assert len(steps) == 20 and not any(name.startswith("replay_") for step in steps for name in step)
    aligned = [step for step in steps if "loss_evidence" in step]
    assert len(aligned) == 10 and all(step["pairs_answered"] == 0 for step in aligned)
    assert all(step["loss_evidence"] < 0 and step["pairs_evidence"] > 0 for step in aligned)
    dense = [step["loss_dense"] for step in aligned]
    assert not any(dense[:2]) and all(dense[3:])
    call("evaluate", "--run", run)


@pytest.mark.integration
def test_answers_of_one_class_are_warned_of_before_training(call: Call, world: Path, tmp_path: Path) -> None:
    """The warning comes once, before the first step, and says what follows. Nothing but behaviour is learned."""
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(world, data)
    for file in (data / "answers").rglob("*.parquet"):
        rows = pq.read_table(file).to_pylist()
        for row in rows:
            for candidate in row["candidates"]:
                candidate["answer"] = None if candidate["answer"] is None else 2
        pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(file)), file)
    done = call("train", "quickstart", "--data", data, "--run-dir", run, *SMALL, "--trainer.max-steps", "4")
    lines = done.stdout.splitlines()
    (place,) = (index for index, line in enumerate(lines) if line.startswith("warning: the training period has "))
    assert " satisfied and 0 dissatisfied answers (of " in lines[place]
    assert "does not enter the policy score, which stays that of the main tower" in lines[place]
    assert place < next(index for index, line in enumerate(lines) if line.startswith("step 1/"))
    assert all(step["loss_satisfaction"] == 0 for step in metrics(run) if "loss_satisfaction" in step)


@pytest.mark.integration
@pytest.mark.parametrize("recipe", ["quickstart", "quickstart_without_answers", "quickstart_evidence_on_policy"])
def test_a_variant_that_needs_answers_names_those_that_do_not(
    call: Call, requests_alone: Path, tmp_path: Path, recipe: str
) -> None:
    done = call("train", recipe, "--data", requests_alone, "--run-dir", tmp_path / "run", *SMALL, code=2)
    assert "no folder answers/" in done.stderr and "such as main_only or without_any_answers" in done.stderr
