"""Snapshots of the whole training state by torch.distributed.checkpoint.

A checkpoint is a directory ``step_00000100``. It is written under another name and published by one rename, so that
whatever bears such a name is whole, and the latest is found by looking at the names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardingPlan

from easq_rec.data.loader import LoaderState
from easq_rec.training.optim import Optimizers
from easq_rec.training.runtime import Runtime

NAME = re.compile(r"step_(\d{8})")
FORMAT = 3
PLAN = "plan.pt"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come."""

    step: int
    loader: LoaderState


class Checkpointer:
    """Writes, finds, prunes and loads the checkpoints of a run."""

    def __init__(self, directory: Path, runtime: Runtime, *, keep: int) -> None:
        self._directory = directory
        self._runtime = runtime
        self._keep = keep

    def latest(self) -> Path | None:
        """The newest checkpoint of the run."""
        found = _published(self._directory)
        return found[-1] if found else None

    def save(self, model: DistributedModelParallel, optimizers: Optimizers, progress: Progress) -> Path:
        """Writes a checkpoint, all ranks together, and removes those that are no longer kept."""
        final = self._directory / f"step_{progress.step:08d}"
        partial = self._directory / f".{final.name}.partial"
        if final.exists():
            return final
        if self._runtime.leads:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self._runtime.barrier()
        dcp.save(_state(model, optimizers), checkpoint_id=partial)
        torch.save(torch.get_rng_state(), partial / f"rng_{self._runtime.rank}.pt")
        if self._runtime.leads:
            content = {"format": FORMAT, "step": progress.step, "loader": progress.loader.to_dict()}
            (partial / "progress.json").write_text(json.dumps(content))
            torch.save((_setting(self._runtime), model.plan), partial / PLAN)
        self._runtime.barrier()
        if self._runtime.leads:
            _sync(partial)
            os.rename(partial, final)
            _sync(self._directory)
            for old in _published(self._directory)[: -self._keep]:
                shutil.rmtree(old)
        self._runtime.barrier()
        return final

    def load(self, path: Path, model: DistributedModelParallel, optimizers: Optimizers) -> Progress:
        """Fills model and optimizers; returns where the run stood.

        Raises:
            ValueError: the checkpoint has a format of another version.
        """
        progress = read_progress(path)
        state = _state(model, optimizers)
        dcp.load(state, checkpoint_id=path)
        model.load_state_dict(state["model"])
        optimizers.combined.load_state_dict(state["optimizer"])
        rng = path / f"rng_{self._runtime.rank}.pt"
        if rng.exists():
            torch.set_rng_state(torch.load(rng, weights_only=True))
        return progress


def read_plan(path: Path, runtime: Runtime) -> ShardingPlan | None:
    """The sharding plan that a checkpoint was written under; None where it does not fit these ranks and devices."""
    # The plan is an object of TorchRec's; checkpoints are read by the run that wrote them.
    setting, plan = torch.load(path / PLAN, weights_only=False)
    return plan if setting == _setting(runtime) else None


def _setting(runtime: Runtime) -> tuple[int, str]:
    return runtime.world_size, runtime.device.type


def read_progress(path: Path) -> Progress:
    """How far the run had come when a checkpoint was written."""
    content = json.loads((path / "progress.json").read_text())
    if content["format"] != FORMAT:
        raise ValueError(f"{path}: checkpoint format {content['format']}, this version reads format {FORMAT}")
    return Progress(step=content["step"], loader=LoaderState.from_dict(content["loader"]))


def latest_of(run_dir: Path) -> Path:
    """The newest checkpoint of a run directory. Raises ValueError where there is none."""
    found = _published(run_dir / "checkpoints")
    if not found:
        raise ValueError(f"{run_dir} holds no checkpoint: --run names a directory that `easq-rec train` wrote")
    return found[-1]


def load_unsharded(path: Path, module: nn.Module, *, prefix: str) -> None:
    """Loads the part of a checkpoint's model that a plain module has, in this process alone.

    Args:
        prefix: name of the module within the training model, with a final dot.
    """
    plain = {f"{prefix}{name}": value for name, value in module.state_dict().items()}
    with warnings.catch_warnings():
        # What no_dist asks for is announced as if it were an accident.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        dcp.load({"model": plain}, checkpoint_id=path, no_dist=True)
    module.load_state_dict({name.removeprefix(prefix): value for name, value in plain.items()})


def _state(model: DistributedModelParallel, optimizers: Optimizers) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimizer": optimizers.combined.state_dict()}


def _published(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(entry for entry in directory.iterdir() if NAME.fullmatch(entry.name))


def _sync(path: Path) -> None:
    """Flushes a directory's files and entries to the disk."""
    files = list(path.iterdir()) if NAME.search(path.name) else []
    for entry in [*files, path]:
        handle = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
