"""A resumed run gives the same results as an uninterrupted run, after a stop or a signal."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.chaos import tensors
from easq_rec.training.optim import PATHWAY, parameter_group
from tests.conftest import Warm
from tests.integration.conftest import REPOSITORY, SMALL, metrics

Train = Callable[..., subprocess.CompletedProcess[str]]
Losses = Callable[[Path], list[tuple[float | None, ...]]]
STEPS = "24"
NETWORK = "model.ranker.network."


@pytest.mark.integration
@pytest.mark.parametrize(("ranks", "stop"), [(1, "7"), (3, "13")])
def test_resumed_losses_are_bit_identical(
    train: Train, losses: Losses, tmp_path: Path, ranks: int, stop: str, uninterrupted: Callable[[int], Path]
) -> None:
    """A run that stops at any step and is resumed has exactly the same losses and metrics as an uninterrupted run.

    Only the resumed run has evaluations during training, which start while batches are in transit between the ranks.
    They do not change its losses. Three ranks are used, because a sum of two values is the same in any order.
    """
    whole, parts = uninterrupted(ranks), tmp_path / "parts"
    options = ("--trainer.max-steps", STEPS, "--evaluation.every-steps", "5")
    train(parts, *options, "--trainer.stop-at-step", stop, ranks=ranks)
    assert len(losses(parts)) == int(stop)
    resumed = train(parts, *options, ranks=ranks)
    assert f"from step {stop}" in resumed.stdout
    assert losses(parts) == losses(whole)
    dense, evidence = ([line[index] for line in losses(whole) if line[index] is not None] for index in (4, 5))
    assert any(dense) and any(evidence), "a loss is 0 in every step, so the run proves too little"
    assert len(dense) == len(losses(whole)) // 2, "every other step is aligned"
    assert _final(parts) == _final(whole)
    assert [line["step"] for line in metrics(parts, "holdout")] == [5, 10, 15, 20]


@pytest.mark.integration
def test_a_run_resumes_with_other_threads_and_moved_data(
    train: Train, losses: Losses, world: Path, tmp_path: Path, uninterrupted: Callable[[int], Path]
) -> None:
    """Neither the threads nor the directory changes what is read or the dataset's fingerprint."""
    parts, moved = tmp_path / "parts", tmp_path / "moved"
    train(parts, "--trainer.max-steps", STEPS, "--trainer.stop-at-step", "7")
    shutil.copytree(world, moved)
    threads = ("--data.workers", "3", "--data.prefetch", "0")
    train(parts, "--trainer.max-steps", STEPS, "--data.path", str(moved), *threads)
    assert losses(parts) == losses(uninterrupted(1))


@pytest.mark.integration
def test_reference_average_and_routers_are_resumed(train: Train, losses: Losses, tmp_path: Path) -> None:
    """The average of the satisfaction tower and the routers' statistics and biases continue from the checkpoint."""
    guards = (
        "--losses.reference-smoothing", "0.9", "--losses.divergence-bound", "0.001", "--losses.warmup-per-class", "3",
        "--losses.align-every", "1", "--model.main.activity", "0.3", "--optim.pathway-lr", "3",
        "--trainer.max-steps", "14",
    )  # fmt: skip
    train(tmp_path / "whole", *guards)
    train(tmp_path / "parts", *guards, "--trainer.stop-at-step", "9")
    train(tmp_path / "parts", *guards)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


@pytest.mark.integration
def test_groups_of_users_are_resumed(train: Train, losses: Losses, tmp_path: Path) -> None:
    """Runs of a user's requests continue where they stopped, and a batch compares more pairs with them."""
    options = (
        "--losses.groups", "user", "--data.user-requests", "4", "--losses.dpo.weight", "0.5",
        "--losses.main.pairs", "equal", "--trainer.max-steps", "14",
    )  # fmt: skip
    train(tmp_path / "whole", *options)
    train(tmp_path / "parts", *options, "--trainer.stop-at-step", "9")
    train(tmp_path / "parts", *options)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    train(tmp_path / "apart", *options, "--data.user-requests", "1")
    together, apart = (sum(line["pairs_main"] for line in metrics(tmp_path / name)) for name in ("whole", "apart"))
    assert together > 2 * apart


@pytest.mark.integration
def test_steering_waits_for_answers(train: Train, losses: Losses, tmp_path: Path) -> None:
    """L_dense is still 0 after the warm-up steps, because the run never has the required number of answers."""
    train(tmp_path / "run", "--losses.warmup-per-class", "1000000", "--trainer.max-steps", "10")
    assert {line[4] for line in losses(tmp_path / "run")} == {0.0, None}
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    aligned = [line for line in lines if line["split"] == "train" and "loss_dense" in line]
    assert aligned and all(line["divergence"] > 0 for line in aligned)


@pytest.fixture(scope="module")
def uninterrupted(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """uninterrupted(ranks): the run directory of an uninterrupted run."""
    done: dict[int, Path] = {}

    def get(ranks: int) -> Path:
        if ranks not in done:
            done[ranks] = tmp_path_factory.mktemp(f"whole{ranks}") / "run"
            train(done[ranks], "--trainer.max-steps", STEPS, ranks=ranks)
        return done[ranks]

    return get


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_a_checkpoint_and_ends_the_run(
    world: Path, warm: Warm, train: Train, tmp_path: Path, number: signal.Signals, losses: Losses,
    uninterrupted: Callable[[int], Path],
) -> None:  # fmt: skip
    """A signal ends the run with a checkpoint and exit code 0.

    The resumed run has the losses of an uninterrupted run.
    """
    run_dir = tmp_path / "run"
    command = [warm.python, "easq_rec/train.py", "quickstart", "--data", str(world), "--run-dir", str(run_dir)]
    process = subprocess.Popen(
        [*command, *SMALL, "--losses.dense.weight", "0.3", "--trainer.max-steps", STEPS],
        cwd=REPOSITORY,
        env=warm.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = run_dir / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") >= 2):
        time.sleep(0.02)
    process.send_signal(number)
    if number == signal.SIGTERM:
        # A process may get the signal twice: a scheduler may signal each process, and torchrun forwards its signal.
        process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "stopped after step" in out
    assert len(losses(run_dir)) < int(STEPS)
    train(run_dir, "--trainer.max-steps", STEPS)
    assert losses(run_dir) == losses(uninterrupted(1))


@pytest.mark.integration
def test_checkpoint_loads_on_another_number_of_ranks(train: Train, losses: Losses, tmp_path: Path) -> None:
    """A run of two ranks resumes on one rank."""
    run_dir = tmp_path / "run"
    train(run_dir, "--trainer.max-steps", STEPS, "--trainer.stop-at-step", "6", ranks=2)
    done = train(run_dir, "--trainer.max-steps", STEPS, ranks=1)
    assert "from step 6" in done.stdout
    assert [line[0] for line in losses(run_dir)] == list(range(1, int(STEPS) + 1))


@pytest.mark.integration
def test_weights_are_kept_on_another_number_of_ranks(train: Train, tmp_path: Path) -> None:
    """One rank loads the tables and the network that two ranks saved, and has the same held-out metrics."""
    run_dir = tmp_path / "run"
    train(run_dir, "--trainer.max-steps", "6", ranks=2)
    saved = _final(run_dir)
    train(run_dir, "--trainer.max-steps", "6", ranks=1)
    assert _final(run_dir) == pytest.approx(saved, abs=1e-5, nan_ok=True)


@pytest.mark.integration
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_pathway_is_unchanged_in_a_step_that_does_not_align(train: Train, tmp_path: Path, ranks: int) -> None:
    """Step 2 aligns, steps 1 and 3 do not.

    In step 3 neither a gradient nor the moments of AdamW change the pathway.
    """
    run_dir = tmp_path / "run"
    steps = ("--trainer.max-steps", "3", "--checkpoint.every-steps", "1", "--checkpoint.keep", "3")
    train(run_dir, *steps, ranks=ranks)
    one, two, three = (_dense(run_dir / "checkpoints" / f"step_0000000{step}") for step in (1, 2, 3))
    pathway = {name for name in one if parameter_group(name) in PATHWAY}
    assert {name for name in one if not torch.equal(two[name], three[name])}.isdisjoint(pathway)
    moved = {name for name in pathway if not torch.equal(one[name], two[name])}
    # B starts at zero, so parameters below another adapter have no gradient yet.
    assert len(moved) > 10 and {parameter_group(name) for name in moved} == set(PATHWAY)
    assert all(
        not torch.equal(two[name], three[name])
        for name in one
        if parameter_group(name) == "backbone" and "_numbers." not in name and not name.endswith("steering")
    )


def _dense(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The network's parameters in a checkpoint."""
    return {name: value for name, value in tensors(checkpoint) if name.startswith(NETWORK)}


@pytest.mark.integration
def test_resume_with_another_configuration_is_refused(train: Train, tmp_path: Path) -> None:
    """The message names the field and both values. The exit code is 2, and there is no traceback."""
    run_dir = tmp_path / "run"
    train(run_dir, "--trainer.max-steps", "2")
    done = train(run_dir, "--trainer.max-steps", "2", "--optim.dense-lr", "0.5", check=False)
    assert done.returncode == 2
    assert "optim.dense_lr is 0.001 there, 0.5 here" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.integration
def test_interrupted_save_is_never_loaded(train: Train, tmp_path: Path) -> None:
    """The files of a killed save are not in a folder with the name of a checkpoint, and the next save removes them."""
    run_dir = tmp_path / "run"
    train(run_dir, "--trainer.max-steps", STEPS, "--trainer.stop-at-step", "3")
    torn = run_dir / "checkpoints" / ".step_00000024.partial"
    torn.mkdir()
    (torn / "progress.json").write_text("{")
    train(run_dir, "--trainer.max-steps", STEPS)
    names = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert names == ["step_00000003", "step_00000024"]


def _final(run_dir: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return next(line for line in lines if line["split"] == "final")
