"""The names of all files in a run directory. No other module spells them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from easq_rec.upstream.torch_checkpoint_names import rank_of_shard

STEP = re.compile(r"step_\d{8}")
"""The name of a complete checkpoint."""
RANDOM_STATE = re.compile(r"rng_(\d+)\.npy")
"""The name of the file with the random state of a rank."""

WRITER = re.compile(r"([1-9]\d*)\.json")
"""The name of a file with the identity of a process that writes."""


CHECKSUMS = "checksums.json"
"""The file of a checkpoint that names all others."""


def step_name(step: int) -> str:
    """What a file or directory is called that belongs to one training step."""
    return f"step_{step:08d}"


@dataclass(frozen=True)
class RunDirectory:
    """RUN_DIR, the directory in which one training run keeps everything that it writes."""

    path: Path

    @property
    def config(self) -> Path:
        """The configuration, see `config_file`."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One line per record of metrics, see `metrics_file`."""
        return self.path / "metrics.jsonl"

    @property
    def plan(self) -> Path:
        """Where the tables of the newest start lie, see `plan_file`."""
        return self.path / "plan.json"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints, see `checkpoint_files`."""
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> CheckpointDirectory:
        return CheckpointDirectory(self.checkpoints / step_name(step))

    @property
    def logs(self) -> Path:
        """Folder of the ranks' logs and of the watchdogs' files."""
        return self.path / "logs"

    def log(self, rank: int) -> Path:
        """Events of a rank, see `event_file`."""
        return self.logs / f"rank_{rank}.jsonl"

    def all_logs(self) -> list[Path]:
        """Logs of all ranks that have written one."""
        return sorted(self.logs.glob("rank_*.jsonl"))

    @property
    def writer(self) -> Path:
        """Folder with the identity of the process that writes to the directory, see `writer_lock`."""
        return self.path / "writer"

    @property
    def quarantine(self) -> Path:
        """Folder of the rows that were set aside, see `easq_rec.data.quarantine`."""
        return self.path / "quarantine"

    @property
    def not_finite(self) -> Path:
        """Folder of the batches whose loss or gradient was NaN or infinite, see `easq_rec.data.batch_file`."""
        return self.path / "not_finite"

    @property
    def evaluation(self) -> Path:
        """Summary of an evaluation, see `easq_rec.evaluation.results`."""
        return self.path / f"{EVALUATION}.json"

    @property
    def evaluation_table(self) -> Path:
        """One row per evaluated request, see `easq_rec.evaluation.results`."""
        return self.path / f"{EVALUATION}.parquet"

    @property
    def calibration(self) -> Path:
        """Maps of the predicted outcomes of one checkpoint, see `calibration_file`."""
        return self.path / "calibration.json"

    @property
    def counts(self) -> Path:
        """Folder of the published counts that the run was trained with, see `easq_rec.data.count_files`."""
        return self.path / "counts"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def fused(self) -> Path:
        """Written by studies: ranking metrics of other served scores, by the weight of the reference score or by name
        and weight of another score."""
        return self.path / "fused.json"

    @property
    def user_metrics(self) -> Path:
        """Written by studies: what every user adds to the metrics of all served scores."""
        return self.path / "user_metrics.npz"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders in which no other run lies."""
        return (
            self.checkpoints,
            self.tensorboard,
            self.logs,
            self.writer,
            self.quarantine,
            self.not_finite,
            self.counts,
        )

    def looks_like_a_run(self) -> bool:
        """Whether a training wrote here. Its config may be missing, which reading it reports."""
        return self.metrics.is_file() or self.checkpoints.is_dir() or (self.config.is_file() and self.logs.is_dir())


EVALUATION = "evaluation"
"""Name without suffix of the files of an evaluation, unless the user chooses another."""


def position_name(rank: int) -> str:
    """File in `RunDirectory.logs` in which the watchdog of a rank writes where that rank is."""
    return f"position_{rank}.json"


def hang_name(job: str) -> str:
    """File in `RunDirectory.logs` with the report on a job that hung."""
    return f"hang_{job}.txt"


def stacks_name(rank: int) -> str:
    """File in `RunDirectory.logs` with the stacks of a rank's threads when a rank hung."""
    return f"stacks_{rank}.txt"


def writer_name(number: int) -> str:
    """File in `RunDirectory.writer` of one process that writes, or wrote."""
    return f"{number}.json"


def writer_number(name: str) -> int | None:
    """The number of a file in `RunDirectory.writer`; None if the name is not that of such a file."""
    found = WRITER.fullmatch(name)
    return int(found[1]) if found else None


def not_finite_name(step: int, rank: int) -> str:
    """File in `RunDirectory.not_finite` with a rank's batch of a step."""
    return f"{step_name(step)}_rank_{rank}.npz"


@dataclass(frozen=True)
class CheckpointDirectory:
    """RUN_DIR/checkpoints/step_XXXXXXXX. torch.distributed.checkpoint names the shards and their metadata."""

    path: Path

    @property
    def step(self) -> int:
        """Training steps, by the name of the directory."""
        return int(self.path.name.removeprefix("step_"))

    @property
    def progress(self) -> Path:
        """Step, position in the data and tables, see `progress_file`."""
        return self.path / "progress.json"

    @property
    def stream(self) -> Path:
        """The answers that continuous training holds, see `easq_rec.data.stream.state`; only of such a run."""
        return self.path / "stream.npz"

    @property
    def plan(self) -> Path:
        """Where the tables lay, see `plan_file`."""
        return self.path / "plan.json"

    @property
    def checksums(self) -> Path:
        """Sizes and SHA-256 of all other files, see `checksums`."""
        return self.path / CHECKSUMS

    def random_state(self, rank: int) -> Path:
        """Torch's random state on a rank."""
        return self.path / f"rng_{rank}.npy"

    def files_of(self, rank: int) -> Iterator[Path]:
        """Files that this rank has written. Rank 0 writes those that bear no rank."""
        for file in sorted(self.path.iterdir()):
            owner = rank_of_shard(file.name)
            if owner is None and (found := RANDOM_STATE.fullmatch(file.name)):
                owner = int(found[1])
            if rank == (owner or 0):
                yield file

    @property
    def partial(self) -> Path:
        """The name of this checkpoint while it is written."""
        return self.path.with_name(f".{self.path.name}.partial")

    @property
    def damaged(self) -> Path:
        """The name of this checkpoint once it is found damaged."""
        return self.path.with_name(f"{self.path.name}.damaged")


def published(checkpoints: Path) -> list[CheckpointDirectory]:
    """The complete checkpoints in a folder, oldest first."""
    if not checkpoints.is_dir():
        return []
    found = sorted(entry for entry in checkpoints.iterdir() if STEP.fullmatch(entry.name))
    return [CheckpointDirectory(path) for path in found]


def damaged(checkpoints: Path) -> list[Path]:
    """The checkpoints in a folder that were set aside because they are damaged."""
    return sorted(checkpoints.glob("step_*.damaged"))
