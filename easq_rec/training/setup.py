"""Everything that a trainer works with: data, sharded model, step, checkpoints and logs of one run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torchrec.distributed.model_parallel import DistributedModelParallel

from easq_rec.config import Config, TrainerConfig
from easq_rec.cpu_flags import cpu_flags, slow_bf16
from easq_rec.data import files
from easq_rec.data.quarantine import Quarantine
from easq_rec.data.sources import Sources, open_sources
from easq_rec.data.usable_answers import answers_warning
from easq_rec.evaluation.ranking_metrics import require_metric
from easq_rec.losses.objective import Objective
from easq_rec.model.ranker import Ranker
from easq_rec.run_directory.events import event
from easq_rec.run_directory.paths import CheckpointDirectory, RunDirectory
from easq_rec.run_directory.plan_file import write_plan
from easq_rec.run_directory.progress_file import Progress
from easq_rec.run_directory.run_log import RunLog
from easq_rec.training.checkpoint.checkpointer import Checkpointer
from easq_rec.training.float_statistics import fit_floats
from easq_rec.training.health.finite_check import FiniteCheck
from easq_rec.training.holdout_evaluation import HoldoutEvaluation
from easq_rec.training.memory import HostMemory
from easq_rec.training.process import ProcessGroupRanks, Runtime
from easq_rec.training.sharding.plan_conversion import placement_plan
from easq_rec.training.sharding.precision import half_tables
from easq_rec.training.sharding.tables import cluster_shape, plan_table, shard, stored_plan
from easq_rec.training.signals import StopRequest
from easq_rec.training.step import Pipeline, TrainingStep
from easq_rec.training.stopping import StopAgreement
from easq_rec.training.training_model import TrainingModel
from easq_rec.training.window_log import WindowLog


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The parts of one run."""

    sources: Sources
    total_steps: int
    quarantine: Quarantine | None
    """Takes bad rows; None: a bad row is an error."""
    model: DistributedModelParallel
    ranker: Ranker
    objective: Objective
    train_step: TrainingStep
    stopping: StopAgreement
    checkpoints: Checkpointer
    start: Progress
    """Where the run starts: step 0, or that of the checkpoint which was loaded."""
    log: RunLog
    windows: WindowLog
    memory: HostMemory
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
    """
    trainer = config.trainer
    require_metric("checkpoint.best", config.checkpoint.best)
    paths = RunDirectory(run_dir)
    quarantine = None
    if config.data.on_bad_rows == "quarantine":
        quarantine = Quarantine(paths.quarantine, lost=runtime.lost)
    sources = open_sources(config, directory, quarantine=quarantine, rank=runtime.rank, world_size=runtime.world_size)
    total_steps = trainer.max_steps or trainer.epochs * sources.reader.steps_per_epoch

    checkpoints = Checkpointer(paths.checkpoints, config, runtime)
    latest = checkpoints.latest() or start_from
    model = TrainingModel(config, torch.device("meta"), ProcessGroupRanks(runtime))
    plan = stored_plan(latest.plan, model, config, runtime) if latest is not None else None
    sharded = shard(model, config, runtime, plan=plan)
    if runtime.leads:
        with runtime.lost.tolerated("the plan", paths.plan):
            write_plan(paths.plan, placement_plan(sharded.plan, config.schema, cluster_shape(runtime)))
    finite_check = FiniteCheck(runtime, paths.not_finite, stops=trainer.on_not_finite == "stop")
    train_step = TrainingStep(
        sharded, config.optim, runtime, finite_check, stop_request=stop_request, pipeline=pipeline
    )
    start = Progress(step=0, loader=sources.loader.start())
    if latest is not None:
        start = checkpoints.load(latest, sharded, train_step.optimizers)
        event("resumed", step=start.step, checkpoint=latest.path.name)
    else:
        fit_floats(model.ranker.network.tokens, sources.train, config.schema)

    stopping = StopAgreement(stop_request, runtime, finite_check, checkpoints)
    log = RunLog(
        run_dir,
        config.logging,
        first_step=start.step,
        total_steps=total_steps,
        speaks=runtime.leads,
        lost=runtime.lost,
    )
    return Setup(
        sources=sources,
        total_steps=total_steps,
        quarantine=quarantine,
        model=sharded,
        ranker=model.ranker,
        objective=model.objective,
        train_step=train_step,
        stopping=stopping,
        checkpoints=checkpoints,
        start=start,
        log=log,
        windows=WindowLog(
            log,
            model.objective.ranks,
            runtime.phases,
            train_step,
            quarantine,
            answers=config.reads_answers,
            total_steps=total_steps,
        ),
        memory=HostMemory(),
        evaluation=HoldoutEvaluation(config, runtime, sources, model.ranker, train_step, stopping, log),
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
