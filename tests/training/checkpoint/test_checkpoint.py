"""Checkpoints on one rank: writing in the background, a full disk, damaged files, and what the next start loads."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from easq_rec.config import Checkpoint, Config
from easq_rec.config.schema import FeatureSchema
from easq_rec.data.loader import LoaderState
from easq_rec.disk_failures import LostWrites
from easq_rec.run_directory.checkpoint_files import latest_of
from easq_rec.run_directory.paths import CheckpointDirectory, RunDirectory, published
from easq_rec.run_directory.progress_file import Progress, read_progress
from easq_rec.training.checkpoint.checkpointer import Checkpointer
from easq_rec.training.health.finite_check import FiniteCheck
from easq_rec.training.process import Runtime, quiet
from easq_rec.training.sharding.tables import shard
from easq_rec.training.step import TrainingStep
from easq_rec.training.training_model import TrainingModel
from tests.builders import random_batch, small_config
from tests.full_disk import files_of_at_most

Damage = Callable[[Path], None]
PROGRESS, CHECKSUMS = "progress.json", "checksums.json"


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet()


class Run:
    """A model that is trained, and its checkpoints in `run_dir`/checkpoints."""

    def __init__(self, run_dir: Path, runtime: Runtime, *, keep: int = 2, config: Config | None = None) -> None:
        config = dataclasses.replace(config or small_config(), checkpoint=Checkpoint(keep=keep))
        self.run_dir, self.config, self.step = run_dir, config, 0
        self.model = shard(TrainingModel(config, torch.device("meta")), config, runtime)
        finite_check = FiniteCheck(runtime, run_dir / "not_finite", stops=False)
        self.train_step = TrainingStep(self.model, config.optim, runtime, finite_check)
        self.optimizers = self.train_step.optimizers
        self.checkpoints = Checkpointer(RunDirectory(run_dir).checkpoints, config, runtime)

    def train(self) -> None:
        """Trains one step."""
        self.optimizers.before_step(self.step, 100)
        self.train_step.zero_grad()
        loss, _ = self.train_step.forward(random_batch(self.config, self.step))
        loss.backward()
        self.train_step.step()
        self.step += 1

    def save(self, *, background: bool = False, score: float | None = None) -> str | None:
        progress = Progress(step=self.step, loader=LoaderState(clock_ms=self.step), score=score)
        return self.checkpoints.save(self.model, self.optimizers, progress, background=background)

    def load(self, checkpoint: CheckpointDirectory) -> Progress:
        return self.checkpoints.load(checkpoint, self.model, self.optimizers)

    def state(self) -> dict[str, torch.Tensor]:
        """Every tensor of model and optimizers, copied."""
        found = {}
        state = {"model": self.model.state_dict(), "optimizer": self.optimizers.combined.state_dict()["state"]}
        for part, values in state.items():
            for name, value in _leaves(values, part):
                found[name] = (value.local_tensor() if hasattr(value, "local_tensor") else value).detach().clone()
        return found

    @property
    def names(self) -> list[str]:
        return [checkpoint.path.name for checkpoint in published(self.run_dir / "checkpoints")]


def _leaves(values: dict[str, object], where: str) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{where}.{name}")
        elif isinstance(value, torch.Tensor) or hasattr(value, "local_tensor"):
            yield f"{where}.{name}", value


@pytest.mark.parametrize("background", [True, False])
def test_a_loaded_checkpoint_equals_the_saved_state(
    tmp_path: Path, runtime: Runtime, background: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training continues before the checkpoint is written, and changes more than 90% of the tensors."""
    run = Run(tmp_path, runtime)
    write, trained = run.checkpoints._write, threading.Event()
    if background:
        monkeypatch.setattr(run.checkpoints, "_write", lambda *state: write(*state) if trained.wait(60) else "late")
    for _ in range(2):
        run.train()
    run.save(background=background)
    saved = run.state()
    for _ in range(3):
        run.train()
    trained.set()
    run.checkpoints.wait()
    now = run.state()
    assert saved.keys() == now.keys() and len(saved) > 100
    assert sum(not torch.equal(saved[name], now[name]) for name in saved) > 0.9 * len(saved)
    other = Run(tmp_path, runtime)
    path = other.checkpoints.latest()
    assert path is not None
    progress = other.load(path)
    assert (progress.step, progress.loader.clock_ms, progress.score) == (2, 2, None)
    for name, value in other.state().items():
        assert torch.equal(value, saved[name]), name
    for resumed in (run, other):
        resumed.load(path)
        resumed.step = 2
        resumed.train()
    for name, value in other.state().items():
        assert torch.equal(value, run.state()[name]), name


def flip(name: str) -> Damage:
    """Flips one bit of a file."""

    def damage(path: Path) -> None:
        (file,) = path.glob(name)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(bytes(content))

    return damage


def cut(name: str) -> Damage:
    """Removes the second half of a file."""

    def damage(path: Path) -> None:
        (file,) = path.glob(name)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return damage


def remove(name: str) -> Damage:
    def damage(path: Path) -> None:
        (file,) = path.glob(name)
        file.unlink()

    return damage


DAMAGES = {
    "a flipped bit in the weights": (flip("__0_0.distcp"), "__0_0.distcp does not match its checksum"),
    "half of the weights": (cut("__0_0.distcp"), "__0_0.distcp has "),
    "no metadata": (remove(".metadata"), ".metadata: No such file"),
    "a flipped bit in the position": (flip(PROGRESS), f"{PROGRESS} does not match its checksum"),
    "torn checksums": (cut(CHECKSUMS), f"{CHECKSUMS} is missing or torn"),
    "no checksums": (remove(CHECKSUMS), f"{CHECKSUMS} is missing or torn"),
    "a flipped bit in the random state": (flip("rng_0.npy"), "rng_0.npy does not match its checksum"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside(
    tmp_path: Path, runtime: Runtime, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The previous checkpoint is loaded with a warning. The damaged one is kept, and its step can be saved again."""
    damage, problem = DAMAGES[name]
    run = Run(tmp_path, runtime)
    for _ in range(2):
        run.train()
        run.save()
    newest = tmp_path / "checkpoints" / "step_00000002"
    damage(newest)
    content = {file.name: file.read_bytes() for file in newest.iterdir()}
    assert latest_of(tmp_path).path.name == "step_00000001", "evaluation also falls back, and changes no file"
    assert newest.exists() and problem in capsys.readouterr().err
    found = run.checkpoints.latest()
    assert found is not None and found.path.name == "step_00000001"
    said = capsys.readouterr().err
    assert "step_00000002 is damaged" in said and problem in said and "goes on from step_00000001" in said
    aside = newest.with_name("step_00000002.damaged")
    assert not newest.exists() and {file.name: file.read_bytes() for file in aside.iterdir()} == content
    run.save()
    assert run.names == ["step_00000001", "step_00000002"]
    assert run.checkpoints.latest() == CheckpointDirectory(newest) and not capsys.readouterr().err


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(tmp_path: Path, runtime: Runtime) -> None:
    run = Run(tmp_path, runtime)
    run.train()
    run.save()
    flip("plan.json")(tmp_path / "checkpoints" / "step_00000001")
    with pytest.raises(ValueError, match="every checkpoint is damaged"):
        latest_of(tmp_path)
    with pytest.raises(ValueError, match=r"step_00000001 is damaged .* None is left: give another --run-dir"):
        run.checkpoints.latest()


@pytest.mark.parametrize("room", [100, 5_000])
@pytest.mark.parametrize("background", [True, False])
def test_a_full_disk_neither_stops_the_run_nor_damages_the_old_checkpoint(
    tmp_path: Path, runtime: Runtime, room: int, background: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, dataclasses.replace(runtime, lost=LostWrites(speaks=True)))
    run.train()
    run.save()
    run.train()
    with files_of_at_most(room):
        problem = run.save(background=background)
        run.checkpoints.wait()
    why = "File too large (EFBIG)"
    assert problem == (None if background else why)
    said = capsys.readouterr().err
    assert f"step_00000002: {why}. The run goes on" in said
    assert [entry.name for entry in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]
    assert run.checkpoints.latest() == RunDirectory(tmp_path).checkpoint(1)
    run.train()
    run.save(background=background)
    run.checkpoints.wait()
    assert run.names == ["step_00000001", "step_00000003"]


def test_the_newest_and_the_best_checkpoints_are_kept(tmp_path: Path, runtime: Runtime) -> None:
    run = Run(tmp_path, runtime, keep=2)
    for score in (0.3, 0.7, None, 0.5, 0.7):
        run.train()
        run.save(score=score, background=True)
    run.checkpoints.wait()
    assert run.names == ["step_00000002", "step_00000004", "step_00000005"]
    assert run.checkpoints.best_score() == 0.7
    run.train()
    run.save(score=0.8)
    assert run.names == ["step_00000005", "step_00000006"]


def test_a_checkpoint_with_other_tables_is_refused(tmp_path: Path, runtime: Runtime) -> None:
    run = Run(tmp_path, runtime)
    run.train()
    run.save()
    checkpoint = RunDirectory(tmp_path).checkpoint(1)

    def refused(change: Callable[[FeatureSchema], FeatureSchema], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            read_progress(checkpoint, change(run.config.schema))

    refused(
        lambda schema: dataclasses.replace(
            schema,
            tables=tuple(
                dataclasses.replace(table, rows=48) if table.name == "user" else table for table in schema.tables
            ),
        ),
        r"has other tables than the model: user has 40 x 8 values in the checkpoint, 48 x 8 values in the model",
    )
    refused(
        lambda schema: dataclasses.replace(
            schema,
            tables=tuple(
                dataclasses.replace(table, id_space="admitted", admit_after=2) if table.name == "video" else table
                for table in schema.tables
            ),
        ),
        r"video has 64 x 8 values in the checkpoint, 64 x 8 values, for ids admitted after 2, in the model",
    )
    refused(
        lambda schema: dataclasses.replace(schema, satisfaction_dim=0), "satisfaction_author is only in the checkpoint"
    )


def test_a_checkpoint_of_another_format_is_refused_and_kept(tmp_path: Path, runtime: Runtime) -> None:
    run = Run(tmp_path, runtime)
    run.train()
    run.save()
    path = tmp_path / "checkpoints" / "step_00000001"
    content = json.loads((path / PROGRESS).read_text())
    (path / PROGRESS).write_text(json.dumps({**content, "format": 4}))
    for take in (lambda: latest_of(tmp_path), run.checkpoints.latest, lambda: run.load(CheckpointDirectory(path))):
        with pytest.raises(ValueError, match="checkpoint format 4, this version reads format 5; use the version"):
            take()
    assert path.exists()
