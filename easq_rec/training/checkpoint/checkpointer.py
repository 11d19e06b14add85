"""Checkpoints of the whole training state by torch.distributed.checkpoint, written while training continues."""

from __future__ import annotations

import datetime
import logging
import math
import shutil
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
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torchrec.distributed.model_parallel import DistributedModelParallel

from easq_rec.config import Config
from easq_rec.disk_failures import reason_of, why_full
from easq_rec.errors import UserError
from easq_rec.run_directory.checkpoint_files import best_of, prune, publish, set_aside
from easq_rec.run_directory.checksums import checksums, damage, write_checksums
from easq_rec.run_directory.events import event
from easq_rec.run_directory.paths import CheckpointDirectory, published, step_name
from easq_rec.run_directory.plan_file import PlacementPlan, write_plan
from easq_rec.run_directory.progress_file import Progress, check_format, read_progress, read_score, write_progress
from easq_rec.training.checkpoint.adagrad_reshard import MomentReshard
from easq_rec.training.checkpoint.copies import CheckpointCopies
from easq_rec.training.checkpoint.random_state import read_random_state, write_random_state
from easq_rec.training.optim import Optimizers
from easq_rec.training.process import GRACE_S, Runtime
from easq_rec.training.sharding.plan_conversion import placement_plan
from easq_rec.training.sharding.tables import cluster_shape
from easq_rec.upstream.torch_checkpoint import CheckpointReader

T = TypeVar("T")


class Checkpointer:
    """Writes, finds, prunes and loads the checkpoints of a run. Every rank must call each method.

    Args:
        directory: folder of the checkpoints, in the run directory.
    """

    def __init__(self, directory: Path, config: Config, runtime: Runtime) -> None:
        self._directory = directory
        self._schema = config.schema
        self._keep = config.checkpoint.keep
        self._runtime = runtime
        # A separate group: the exchanges of the thread that writes must not mix with those of a training step.
        timeout = datetime.timedelta(seconds=config.trainer.timeout_s + GRACE_S)
        self._group = dist.new_group(backend="gloo", timeout=timeout)
        copy_to, run_dir = config.checkpoint.copy_to, directory.parent
        self._copies: CheckpointCopies | None = None
        if copy_to is not None and runtime.leads:
            self._copies = CheckpointCopies(copy_to, run_dir, keep=self._keep, lost=runtime.lost)
        self._thread: threading.Thread | None = None
        self._problem: Exception | None = None

    def latest(self) -> CheckpointDirectory | None:
        """The newest undamaged checkpoint of the run; None if there are none. Damaged ones are renamed and reported.

        Raises:
            UserError: all checkpoints are damaged, or the newest has another format.
        """
        rank, ranks = self._runtime.rank, self._runtime.world_size
        skipped: list[str] = []
        for checkpoint in reversed(published(self._directory)):
            name = checkpoint.path.name
            check_format(checkpoint)
            problem = self._try_on_all_ranks(partial(damage, checkpoint, share=rank, shares=ranks))
            if problem is None:
                if skipped:
                    self._print(f"{'; '.join(skipped)}. The run goes on from {name}")
                return checkpoint
            skipped.append(f"checkpoint {name} is damaged ({problem}) and was set aside")
            event("checkpoint_damaged", level=logging.ERROR, checkpoint=name, problem=problem)
            self._try_on_all_ranks(partial(self._on_rank_0, partial(set_aside, checkpoint)))
        if skipped:
            raise UserError(
                f"{self._directory}: {'; '.join(skipped)}. None is left: give another --run-dir to start anew"
            )
        return None

    def best_score(self) -> float | None:
        """The highest score of the existing checkpoints; None if no checkpoint has one."""
        self.wait()
        best = best_of(published(self._directory))
        return read_score(best) if best is not None else None

    def is_best(self, score: float | None) -> bool:
        """Whether a score is higher than those of all checkpoints; None and NaN are not."""
        if score is None or math.isnan(score):
            return False
        best = self.best_score()
        return best is None or score > best

    def save(
        self, model: DistributedModelParallel, optimizers: Optimizers, progress: Progress, *, background: bool
    ) -> str | None:
        """Writes a checkpoint and removes those that are no longer kept.

        If the disk fails, older checkpoints stay as they are, and the failure is reported (`Runtime.lost`).

        Args:
            background: return as soon as the state is copied.

        Returns:
            why the checkpoint could not be written, the same on every rank; None: it was written, or is being written
            in the background.
        """
        self.wait()
        checkpoint = CheckpointDirectory(self._directory / step_name(progress.step))
        if checkpoint.path.exists():
            return None
        state, random_state = _state(model, optimizers), torch.get_rng_state()
        plan = placement_plan(model.plan, self._schema, cluster_shape(self._runtime))
        if background:
            state = BlockingAsyncStager().stage(state)

        def write() -> str | None:
            return self._write(checkpoint, state, progress, plan, random_state)

        if not background:
            return write()

        def write_in_the_background() -> None:
            try:
                write()
            except Exception as error:
                self._problem = error

        # A daemon: a process that fails must not wait for a save whose other ranks are gone.
        self._thread = threading.Thread(target=write_in_the_background, name="checkpoint", daemon=True)
        self._thread.start()
        return None

    def finish(self) -> None:
        """Waits for a save in the background, and until the newest checkpoint is copied."""
        self.wait()
        if self._copies is not None:
            self._copies.finish()

    @property
    def is_writing(self) -> bool:
        """Whether a save in the background is under way on this rank."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Waits for a save in the background. Raises any error of it that is not a failure of the disk."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem

    def _write(
        self,
        checkpoint: CheckpointDirectory,
        state: dict[str, Any],
        progress: Progress,
        plan: PlacementPlan,
        random_state: Tensor,
    ) -> str | None:
        """Writes and publishes a checkpoint; returns the first problem of any rank, the same on every rank."""
        partial_name, rank = CheckpointDirectory(checkpoint.partial), self._runtime.rank

        def begin() -> None:
            shutil.rmtree(partial_name.path, ignore_errors=True)
            partial_name.path.mkdir(parents=True)

        def write_small_files() -> None:
            write_random_state(partial_name.random_state(rank), random_state)
            if self._runtime.leads:
                write_progress(partial_name, progress, self._schema)
                write_plan(partial_name.plan, plan)

        def finish(found: list[dict[str, Any]]) -> None:
            write_checksums(partial_name, {name: value for part in found for name, value in part.items()})
            publish(checkpoint)
            prune(self._directory, self._keep)
            if self._copies is not None:
                self._copies.add(checkpoint)

        begun = time.perf_counter()
        problem = self._try_on_all_ranks(lambda: self._on_rank_0(begin))
        if problem is None:
            problem = self._try_on_all_ranks(lambda: self._save_state(state, partial_name.path))
        if problem is None:
            problem = self._try_on_all_ranks(write_small_files)
        if problem is None:
            mine, problem = self._try(lambda: checksums(partial_name, rank=rank))
            found = self._gather((mine, problem))
            problem = next((one for _, one in found if one is not None), None)
            if problem is None:
                parts = [part for part, _ in found if part]
                problem = self._try_on_all_ranks(lambda: self._on_rank_0(lambda: finish(parts)))
        if problem is not None:
            self._on_rank_0(lambda: shutil.rmtree(partial_name.path, ignore_errors=True))
            self._on_rank_0(partial(self._runtime.lost.add, "checkpoints", checkpoint.path, problem))
            event("checkpoint_not_written", level=logging.ERROR, step=progress.step, problem=problem)
        else:
            event("checkpoint", step=progress.step, seconds=time.perf_counter() - begun)
        return problem

    def _save_state(self, state: dict[str, Any], path: Path) -> str | None:
        try:
            dcp.save(state, checkpoint_id=path, process_group=self._group)
        except CheckpointException as error:
            # It lists the failures of all ranks, and is the same on every rank.
            failure = next(found for found, _ in error.failures.values())
            return self._problem_of(failure)
        return None

    def load(
        self, checkpoint: CheckpointDirectory, model: DistributedModelParallel, optimizers: Optimizers
    ) -> Progress:
        """Fills model and optimizers, and sets torch's random state if this rank stored one; returns the progress.

        The number of ranks and the plan may differ from those that wrote the checkpoint.

        Raises:
            UserError: the checkpoint has another format or other tables than the model, contains more than tensors,
                or the optimizer state of a table cannot be translated to the plan.
        """
        progress = read_progress(checkpoint, self._schema)
        state, reader = _state(model, optimizers), CheckpointReader(checkpoint.path)
        moments = MomentReshard(state, reader.read_metadata())
        # Each rank knows only the moments of the tables that it holds.
        translated = sorted({table for tables in self._gather(moments.tables) for table in tables})
        if translated:
            self._print(
                f"tables {', '.join(translated)} are split between columns in another way than in "
                f"{checkpoint.path.name}: their Adagrad moments are translated, which is not the state that a run "
                "under this plan would have had"
            )
            event("moments_translated", level=logging.WARNING, step=progress.step, tables=translated)
        dcp.load(state, storage_reader=reader)
        moments.finish()
        model.load_state_dict(state["model"])
        optimizers.combined.load_state_dict(state["optimizer"])
        random_state = checkpoint.random_state(self._runtime.rank)
        if random_state.exists():
            torch.set_rng_state(read_random_state(random_state))
        return progress

    def _try_on_all_ranks(self, action: Callable[[], object]) -> str | None:
        """Runs an action on every rank; returns the first problem of any rank, the same on every rank.

        A problem is a string that `action` returns, or an error of the disk.
        """
        value, problem = self._try(action)
        mine = value if isinstance(value, str) else problem
        return next((one for one in self._gather(mine) if one is not None), None)

    def _try(self, action: Callable[[], T]) -> tuple[T | None, str | None]:
        """(what the action returned, None), or (None, its error)."""
        try:
            return action(), None
        except (OSError, RuntimeError) as error:
            return None, self._problem_of(error)

    def _problem_of(self, error: BaseException) -> str:
        if isinstance(error, OSError) and error.errno is not None:
            return reason_of(error)
        # Torch's writer of tensors keeps the system's reason to itself.
        why = why_full(self._directory)
        return f"{type(error).__name__}: {error}" if why is None else why

    def _gather(self, value: T) -> list[T]:
        """The values of all ranks, on every rank."""
        values: list[Any] = [None] * self._runtime.world_size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def _on_rank_0(self, action: Callable[[], object]) -> None:
        """Runs an action on rank 0 only."""
        if self._runtime.leads:
            action()

    def _print(self, text: str) -> None:
        self._on_rank_0(lambda: self._runtime.lost.say(f"easq-rec: {text}", error=True))


def load_unsharded(checkpoint: CheckpointDirectory, module: nn.Module, *, prefix: str) -> None:
    """Fills a module that is not sharded from a checkpoint, in one process.

    Args:
        module: a part of the training model.
        prefix: name of the module within the training model, with a final dot.

    Raises:
        UserError: the checkpoint contains more than tensors.
    """
    plain = {f"{prefix}{name}": value for name, value in module.state_dict().items()}
    with warnings.catch_warnings():
        # The library warns of the single process although no_dist asks for it.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        dcp.load({"model": plain}, storage_reader=CheckpointReader(checkpoint.path), no_dist=True)
    module.load_state_dict({name.removeprefix(prefix): value for name, value in plain.items()})


def _state(model: DistributedModelParallel, optimizers: Optimizers) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimizer": optimizers.combined.state_dict()}
