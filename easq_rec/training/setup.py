"""Everything that a trainer on a fixed log works with."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from easq_rec.config import Config, TrainerConfig
from easq_rec.cpu_flags import cpu_flags, slow_bf16
from easq_rec.data import files
from easq_rec.data.loader import LoaderState
from easq_rec.data.sources import Sources, open_sources
from easq_rec.data.usable_answers import answers_warning
from easq_rec.errors import UserError
from easq_rec.run_directory.events import event
from easq_rec.run_directory.paths import CheckpointDirectory
from easq_rec.training.core import TrainingCore, build_core, quarantine_for
from easq_rec.training.float_statistics import fit_floats
from easq_rec.training.holdout_evaluation import HoldoutEvaluation
from easq_rec.training.process import Runtime
from easq_rec.training.sharding.precision import half_tables
from easq_rec.training.sharding.tables import plan_table
from easq_rec.training.signals import StopRequest
from easq_rec.training.step import Pipeline


@dataclass(frozen=True, kw_only=True)
class Setup(TrainingCore):
    """The parts of a run on a fixed log."""

    sources: Sources
    total_steps: int
    state: LoaderState
    """Where the run starts in its data."""
    evaluation: HoldoutEvaluation


def set_up(
    config: Config,
    runtime: Runtime,
    *,
    directory: files.Location,
    run_dir: Path,
    start_from: CheckpointDirectory | None,
    stop_request: StopRequest,
    pipeline: Pipeline,
) -> Setup:
    """Opens the data, builds and shards the model, and loads the newest checkpoint. All ranks call it.

    Arguments as of `easq_rec.training.loop.Trainer`.

    Raises:
        UserError: the run directory is that of a run that follows a stream.
    """
    trainer, quarantine = config.trainer, quarantine_for(config, runtime, run_dir)
    sources = open_sources(config, directory, quarantine=quarantine, rank=runtime.rank, world_size=runtime.world_size)
    total_steps = trainer.max_steps or trainer.epochs * sources.reader.steps_per_epoch
    core = build_core(
        config,
        runtime,
        run_dir=run_dir,
        quarantine=quarantine,
        total_steps=total_steps,
        begin=sources.loader.start(),
        fit=lambda ranker: fit_floats(ranker.network.tokens, sources.train, config.schema),
        start_from=start_from,
        stop_request=stop_request,
        pipeline=pipeline,
    )
    if not isinstance(core.start.loader, LoaderState):
        raise UserError(f"{run_dir}: this run follows a stream: resume it with --follow, or give another --run-dir")
    return Setup(
        **{field.name: getattr(core, field.name) for field in fields(TrainingCore)},
        sources=sources,
        total_steps=total_steps,
        state=core.start.loader,
        evaluation=HoldoutEvaluation(config, runtime, sources, core.ranker, core.train_step, core.stopping, core.log),
    )


def announce(setup: Setup, config: Config, runtime: Runtime) -> None:
    """Prints where the tables lie, what is trained, whether the CPU is slow at it, and whether answers are lacking."""
    half = half_tables(config)
    plan = "  ".join(
        f"{table}:{kind}{',fp16' if table in half else ''}@{ranks}" for table, kind, ranks in plan_table(setup.model)
    )
    setup.log.say(f"tables  {plan}")
    where = f"from step {setup.start.step} " if setup.start.step else ""
    setup.log.say(
        f"training {where}to step {setup.total_steps} on {runtime.world_size} x {runtime.device.type}, "
        f"{config.trainer.batch_size} requests per step and rank"
    )
    sources = setup.sources
    for warning in (
        slow_precision(config.trainer, runtime.device, cpu_flags()),
        answers_warning(config, sources.answers, sources.train_period.end_ms),
    ):
        if warning is not None:
            setup.log.say(f"warning: {warning}")
            event("warning", level=logging.WARNING, problem=warning)


def slow_precision(trainer: TrainerConfig, device: torch.device, flags: frozenset[str]) -> str | None:
    """A line that says that the run's precision is slow on this CPU, and what to do; None if it is not.

    Args:
        flags: of the CPU (`easq_rec.cpu_flags`).
    """
    asks_for_bf16 = trainer.precision == "bf16" or trainer.matmul == "medium"
    return slow_bf16(flags) if asks_for_bf16 and device.type == "cpu" else None
