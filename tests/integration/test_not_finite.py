"""A NaN on one of two ranks does not reach the model, and its batch is written.

The run skips the step or stops, as configured.
"""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.chaos import tensors
from easq_rec.data.batch_file import read_batch
from tests.conftest import Warm
from tests.integration.conftest import REPOSITORY, SMALL, metrics

WORKER = Path(__file__).with_name("worker_planted.py")
STEP, STEPS = 3, 7
SEEN = {
    "loss": "the loss (pointwise, main) is not finite",
    "embeddings": "the gradient of embeddings is not finite",
    "network": "the gradient of embeddings is not finite",
}


def run(
    world: Path, warm: Warm, run_dir: Path, planted: str, *options: str, ranks: int = 2
) -> subprocess.CompletedProcess[str]:
    launcher = warm.torchrun(ranks) if ranks > 1 else (warm.python,)
    command = (str(WORKER), planted, str(ranks - 1), "quickstart", "--data", str(world), "--run-dir", str(run_dir))
    steps = ("--trainer.max-steps", str(STEPS), "--checkpoint.every-steps", "1", "--checkpoint.keep", "9")
    return warm.run(*launcher, *command, *SMALL, *steps, *options, check=False)


@pytest.mark.integration
@pytest.mark.parametrize("late", [False, True], ids=["at_once", "a_step_later"])
def test_steps_that_are_not_finite_are_skipped(world: Path, warm: Warm, tmp_path: Path, late: bool) -> None:
    """The first step, before any optimizer has a state, and later steps are skipped.

    The run succeeds, and the batches of these steps can be read. Steps 1 and 5 do not align, so only one loss is named.
    """
    planted = {1: "loss", 2: "embeddings", 4: "network", 5: "loss"}
    text = ",".join(["late"] * late + [f"{what}@{step}" for step, what in planted.items()])
    # A checkpoint waits for the finite checks of all steps before it.
    options = ("--trainer.on-not-finite", "skip", *(("--checkpoint.every-steps", "100") if late else ()))
    done = run(world, warm, tmp_path / "run", text, *options)
    assert done.returncode == 0, done.stderr
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert all((line["loss_main"] is None) == (planted.get(int(line["step"])) == "loss") for line in lines)
    final = metrics(tmp_path / "run", "final")[0]
    assert 0 < final["engagement_ndcg5"] < 1
    written = {path.name for path in (tmp_path / "run" / "not_finite").iterdir()}
    for step, what in planted.items():
        assert f"step {step}, rank 1: {SEEN[what]}" in done.stderr
        # Ranks exchange the gradients of the network, so both write their batch.
        for rank in (0, 1) if what == "network" else (1,):
            written.remove(f"step_{step:08d}_rank_{rank}.npz")
        found = read_batch(tmp_path / "run" / "not_finite" / f"step_{step:08d}_rank_1.npz")
        assert (found.about["step"], found.about["rank"]) == (step, 1)
        assert len(found.batch.keys.request_id_R) == found.batch.total.requests
        assert bool(found.batch.float_NF.isnan().any()) == (what == "loss")
    assert not written


@pytest.mark.integration
@pytest.mark.parametrize("where", ["loss", "embeddings", "network"])
def test_the_run_stops_at_a_step_that_is_not_finite(world: Path, warm: Warm, tmp_path: Path, where: str) -> None:
    """All ranks stop, each with one readable message.

    The checkpoints before that step are complete, and the run resumes from them.
    """
    run_dir = tmp_path / "run"
    stopped = run(world, warm, run_dir, f"{where}@{STEP}")
    told(stopped, where)
    saved = sorted(path.name for path in (run_dir / "checkpoints").iterdir() if not path.name.startswith("."))
    assert saved[:2] == ["step_00000001", "step_00000002"] and len(saved) <= STEP
    going = run(world, warm, run_dir, "nothing", "--trainer.on-not-finite", "skip", ranks=1)
    assert going.returncode == 0, going.stderr
    assert [line["step"] for line in metrics(run_dir)] == list(range(1, STEPS + 1))


@pytest.mark.integration
@pytest.mark.parametrize("where", ["loss", "embeddings"])
def test_the_run_stops_before_a_checkpoint_if_flags_are_read_later(
    world: Path, warm: Warm, tmp_path: Path, where: str
) -> None:
    """The run stops with the next step or, for a gradient of one rank, with the step after that.

    It writes a checkpoint of neither step.
    """
    run_dir = tmp_path / "run"
    stopped = run(world, warm, run_dir, f"late,{where}@{STEP}", "--checkpoint.every-steps", "2")
    told(stopped, where)
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step_00000002"]


def told(stopped: subprocess.CompletedProcess[str], where: str) -> None:
    assert stopped.returncode != 0
    assert f"step {STEP}, rank 1: {SEEN[where]}" in stopped.stderr and "--trainer.on-not-finite skip" in stopped.stderr
    assert "To enable traceback see" not in stopped.stderr, "torchrun did not receive the error"
    assert f'File "{REPOSITORY / "easq_rec"}' not in stopped.stderr, "there is a traceback from easq_rec"


@pytest.mark.integration
def test_a_skipped_step_does_not_change_the_network(world: Path, warm: Warm, tmp_path: Path) -> None:
    """On one rank, the checkpoints before and after a skipped step have the same network."""
    run_dir = tmp_path / "run"
    done = run(world, warm, run_dir, "loss@3,network@5", "--trainer.on-not-finite", "skip", ranks=1)
    assert done.returncode == 0, done.stderr
    saved = [
        (run_dir / "checkpoints" / f"step_{step:08d}" / "__0_0.distcp").read_bytes() for step in range(1, STEPS + 1)
    ]
    # The file has weights, moments and step counts of AdamW. A step that is not skipped changes most of its bytes.
    changed = [sum(one != two for one, two in zip(*pair, strict=True)) for pair in itertools.pairwise(saved)]
    for step in (3, 5):
        assert changed[step - 2] < 0.01 * changed[step - 1]


@pytest.mark.integration
def test_a_loss_that_is_not_finite_on_one_rank_changes_no_table(world: Path, warm: Warm, tmp_path: Path) -> None:
    """The gradients of the other rank are finite, and are for tables on both ranks."""
    run_dir = tmp_path / "run"
    done = run(world, warm, run_dir, "loss@3", "--trainer.on-not-finite", "skip")
    assert done.returncode == 0, done.stderr
    before, after, later = (dict(tensors(run_dir / "checkpoints" / f"step_{step:08d}")) for step in (2, 3, 4))
    assert before.keys() == after.keys() == later.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert sum(not torch.equal(after[name], later[name]) for name in after if ".embeddings." in name) > 10
