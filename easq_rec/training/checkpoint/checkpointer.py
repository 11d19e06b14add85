"""Snapshots of the whole training state by torch.distributed.checkpoint, written beside the training."""

from __future__ import annotations

import datetime
import logging
import math
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardingPlan

from easq_rec.config import Config
from easq_rec.run_directory import checkpoint_files as files
from easq_rec.run_directory.checkpoint_files import PLAN, Progress, read_progress
from easq_rec.run_directory.events import event
from easq_rec.training.checkpoint.adagrad_reshard import Resplit
from easq_rec.training.optim import Optimizers
from easq_rec.training.process import GRACE_S, Runtime

T = TypeVar("T")


class NotWritten(OSError):
    """A checkpoint could not be written; those before it are whole."""


class Checkpointer:
    """Writes, finds, prunes and loads the checkpoints of a run. All ranks call its methods alike."""

    def __init__(self, directory: Path, config: Config, runtime: Runtime) -> None:
        self._directory = directory
        self._schema = config.schema
        self._keep = config.checkpoint.keep
        self._runtime = runtime
        # What the ranks agree on while a checkpoint is written must not come between the exchanges of a training step.
        timeout = datetime.timedelta(seconds=config.trainer.timeout_s + GRACE_S)
        self._group = dist.new_group(backend="gloo", timeout=timeout)
        self._thread: threading.Thread | None = None
        self._problem: Exception | None = None

    def latest(self) -> Path | None:
        """The newest whole checkpoint of the run; None: there is none at all. Damaged ones are set aside, loudly.

        Raises:
            ValueError: there are checkpoints, and every one is damaged, or the newest has a format of another version.
        """
        rank, ranks = self._runtime.rank, self._runtime.world_size
        passed: list[str] = []
        for path in reversed(files.published(self._directory)):
            files.check_format(path)
            problem = self._first(partial(files.damage, path, share=rank, shares=ranks))
            if problem is None:
                if passed:
                    self._say(f"{'; '.join(passed)}. The run goes on from {path.name}")
                return path
            passed.append(f"checkpoint {path.name} is damaged ({problem}) and was set aside")
            event("checkpoint_damaged", level=logging.ERROR, checkpoint=path.name, problem=problem)
            self._first(partial(self._lead, partial(files.set_aside, path)))
        if passed:
            raise ValueError(
                f"{self._directory}: {'; '.join(passed)}. None is left: give another --run-dir to start anew"
            )
        return None

    def best_score(self) -> float | None:
        """The highest score of the checkpoints that there are."""
        self.wait()
        best = files.best_of(files.published(self._directory))
        return read_progress(best).score if best is not None else None

    def is_best(self, score: float | None) -> bool:
        """Whether a score is higher than those of all checkpoints; None and NaN are not."""
        if score is None or math.isnan(score):
            return False
        best = self.best_score()
        return best is None or score > best

    def save(
        self, model: DistributedModelParallel, optimizers: Optimizers, progress: Progress, *, background: bool
    ) -> None:
        """Writes a checkpoint, all ranks together, and removes those that are no longer kept.

        Args:
            background: come back once the state is copied; where writing it fails, the run goes on, and says so.

        Raises:
            NotWritten: without `background`.
        """
        self.wait()
        final = self._directory / f"step_{progress.step:08d}"
        if final.exists():
            return
        state, rng = _state(model, optimizers), torch.get_rng_state()
        plan = (_setting(self._runtime), model.plan)
        if background:
            state = BlockingAsyncStager().stage(state)

        def write() -> str | None:
            return self._write(final, state, progress, plan, rng)

        if not background:
            problem = write()
            if problem is not None:
                raise NotWritten(f"{final} could not be written: {problem}")
            return

        def work() -> None:
            try:
                problem = write()
            except Exception as error:
                self._problem = error
                return
            if problem is not None:
                self._say(
                    f"checkpoint {final.name} was NOT written: {problem}. The run goes on; those before are whole"
                )

        # A process that fails must not wait for a save whose peers are gone.
        self._thread = threading.Thread(target=work, name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until what is being written is written. Raises what writing it raised beyond failures of the disk."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem

    def _write(
        self, final: Path, state: dict[str, Any], progress: Progress, plan: object, rng: torch.Tensor
    ) -> str | None:
        """What went wrong, the same on every rank; None: the checkpoint is there."""
        unnamed, rank = final.with_name(f".{final.name}.partial"), self._runtime.rank

        def begin() -> None:
            shutil.rmtree(unnamed, ignore_errors=True)
            unnamed.mkdir(parents=True)

        def write_own() -> None:
            torch.save(rng, unnamed / f"rng_{rank}.pt")
            if self._runtime.leads:
                files.write_progress(unnamed, progress, self._schema)
                torch.save(plan, unnamed / PLAN)

        def finish(found: list[dict[str, Any]]) -> None:
            files.write_checksums(unnamed, {name: value for part in found for name, value in part.items()})
            files.publish(unnamed, final)
            files.prune(self._directory, self._keep)

        begun = time.perf_counter()
        problem = self._first(lambda: self._lead(begin))
        if problem is None:
            problem = self._first(lambda: self._save_state(state, unnamed))
        if problem is None:
            problem = self._first(write_own)
        if problem is None:
            mine, problem = self._tried(lambda: files.checksums(unnamed, rank=rank))
            found = self._exchange((mine, problem))
            problem = next((one for _, one in found if one is not None), None)
            if problem is None:
                problem = self._first(lambda: self._lead(lambda: finish([part for part, _ in found if part])))
        if problem is not None:
            self._lead(lambda: shutil.rmtree(unnamed, ignore_errors=True))
            event("checkpoint_not_written", level=logging.ERROR, step=progress.step, problem=problem)
        else:
            event("checkpoint", step=progress.step, seconds=time.perf_counter() - begun)
        return problem

    def _save_state(self, state: dict[str, Any], unnamed: Path) -> str | None:
        try:
            dcp.save(state, checkpoint_id=unnamed, process_group=self._group)
        except CheckpointException as error:
            # The same on every rank: by rank what failed there.
            return next(f"{type(found).__name__}: {found}" for found, _ in error.failures.values())
        return None

    def load(self, path: Path, model: DistributedModelParallel, optimizers: Optimizers) -> Progress:
        """Fills model and optimizers; returns where the run stood.

        Ranks and plan may be others than those that it was written by.

        Raises:
            ValueError: the checkpoint has a format of another version, or other tables than the model, or the optimizer
                state of a table cannot be translated to the plan.
        """
        progress = read_progress(path, self._schema)
        state = _state(model, optimizers)
        moments = Resplit(state, FileSystemReader(path).read_metadata())
        # A rank knows the moments of its own tables.
        translated = sorted({table for tables in self._exchange(moments.tables) for table in tables})
        if translated:
            self._say(
                f"tables {', '.join(translated)} are split between columns in another way than in {path.name}: "
                "their Adagrad moments are translated, which is not the state that a run under this plan would have had"
            )
            event("moments_translated", level=logging.WARNING, step=progress.step, tables=translated)
        dcp.load(state, checkpoint_id=path)
        moments.finish()
        model.load_state_dict(state["model"])
        optimizers.combined.load_state_dict(state["optimizer"])
        rng = path / f"rng_{self._runtime.rank}.pt"
        if rng.exists():
            torch.set_rng_state(torch.load(rng, weights_only=True))
        return progress

    def _first(self, action: Callable[[], object]) -> str | None:
        """Does something on every rank; the first problem of any rank, the same on every rank.

        A string that `action` returns is a problem, and so is a failure of the disk.
        """
        value, problem = self._tried(action)
        mine = value if isinstance(value, str) else problem
        return next((one for one in self._exchange(mine) if one is not None), None)

    @staticmethod
    def _tried(action: Callable[[], T]) -> tuple[T | None, str | None]:
        """(what it returned, None), or (None, what went wrong)."""
        try:
            return action(), None
        except (OSError, RuntimeError) as error:
            return None, f"{type(error).__name__}: {error}"

    def _exchange(self, value: T) -> list[T]:
        """The values of all ranks."""
        values: list[Any] = [None] * self._runtime.world_size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def _lead(self, action: Callable[[], object]) -> None:
        """Does something on rank 0 alone."""
        if self._runtime.leads:
            action()

    def _say(self, text: str) -> None:
        self._lead(lambda: print(f"easq-rec: {text}", file=sys.stderr, flush=True))


def read_plan(path: Path, runtime: Runtime) -> ShardingPlan | None:
    """The sharding plan that a checkpoint was written under; None where it does not fit these ranks and devices."""
    # The plan is an object of TorchRec's; checkpoints are read by the run that wrote them.
    setting, plan = torch.load(path / PLAN, weights_only=False)
    return plan if setting == _setting(runtime) else None


def _setting(runtime: Runtime) -> tuple[int, str]:
    return runtime.world_size, runtime.device.type


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
