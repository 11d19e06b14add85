"""What every training works with: sharded model, step, checkpoints and logs of one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torchrec.distributed.model_parallel import DistributedModelParallel

from easq_rec.config import Config
from easq_rec.data.loader import LoaderState
from easq_rec.data.quarantine import Quarantine
from easq_rec.data.row_assignment import RowAssigner, of_one_rank
from easq_rec.data.stream.state import FollowState
from easq_rec.evaluation.ranking_metrics import require_metric
from easq_rec.losses.objective import Objective
from easq_rec.model.ranker import Ranker
from easq_rec.run_directory.events import event
from easq_rec.run_directory.paths import CheckpointDirectory, RunDirectory
from easq_rec.run_directory.plan_file import write_plan
from easq_rec.run_directory.progress_file import Progress, check_tables
from easq_rec.run_directory.run_log import RunLog
from easq_rec.training.checkpoint.checkpointer import Checkpointer
from easq_rec.training.health.finite_check import FiniteCheck
from easq_rec.training.id_gather import IdGather
from easq_rec.training.memory import HostMemory
from easq_rec.training.process import ProcessGroupRanks, Runtime
from easq_rec.training.sharding.plan_conversion import placement_plan
from easq_rec.training.sharding.tables import cluster_shape, shard, stored_plan
from easq_rec.training.signals import StopRequest
from easq_rec.training.step import Pipeline, TrainingStep
from easq_rec.training.stopping import StopAgreement
from easq_rec.training.training_model import TrainingModel
from easq_rec.training.window_log import WindowLog


@dataclass(frozen=True, kw_only=True)
class TrainingCore:
    """The parts of one run that do not depend on where its data come from."""

    quarantine: Quarantine | None
    """Takes bad rows; None: a bad row is an error."""
    model: DistributedModelParallel
    ranker: Ranker
    objective: Objective
    assign_rows: RowAssigner
    """Gives rows of admitted tables to the ids of each batch."""
    train_step: TrainingStep
    stopping: StopAgreement
    checkpoints: Checkpointer
    start: Progress
    """Where the run starts: step 0, or that of the checkpoint which was loaded."""
    resumed: bool
    """Whether the run goes on from a checkpoint of its own."""
    log: RunLog
    windows: WindowLog
    memory: HostMemory


def quarantine_for(config: Config, runtime: Runtime, run_dir: Path) -> Quarantine | None:
    """Where bad rows go; None: a bad row is an error."""
    if config.data.on_bad_rows != "quarantine":
        return None
    return Quarantine(RunDirectory(run_dir).quarantine, lost=runtime.lost)


def build_core(
    config: Config,
    runtime: Runtime,
    *,
    run_dir: Path,
    quarantine: Quarantine | None,
    total_steps: int | None,
    begin: LoaderState | FollowState,
    fit: Callable[[Ranker], None],
    start_from: CheckpointDirectory | None,
    stop_request: StopRequest,
    pipeline: Pipeline,
) -> TrainingCore:
    """Builds and shards the model, and loads the newest checkpoint. All ranks call it.

    Args:
        total_steps: of the run; None: it has no end.
        begin: state of the data before the first step, for a run without a checkpoint.
        fit: fits what a new model fits to its data before the first step.
        start_from, stop_request, pipeline: as of `easq_rec.training.loop.Trainer`.
    """
    trainer = config.trainer
    require_metric("checkpoint.best", config.checkpoint.best)
    paths = RunDirectory(run_dir)
    checkpoints = Checkpointer(paths.checkpoints, config, runtime)
    own = checkpoints.latest()
    latest = own or start_from
    if latest is not None:
        check_tables(latest, config.schema)
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
    start = Progress(step=0, loader=begin)
    if latest is not None:
        start = checkpoints.load(latest, sharded, train_step.optimizers)
        event("resumed", step=start.step, checkpoint=latest.path.name)
    else:
        fit(model.ranker)
    admits = bool(model.ranker.ids.names) and runtime.world_size > 1
    gather = IdGather(runtime, trainer.timeout_s) if admits else of_one_rank
    log = RunLog(
        run_dir,
        config.logging,
        first_step=start.step,
        total_steps=total_steps,
        speaks=runtime.leads,
        lost=runtime.lost,
    )
    return TrainingCore(
        quarantine=quarantine,
        model=sharded,
        ranker=model.ranker,
        objective=model.objective,
        assign_rows=RowAssigner(config.schema, model.ranker.ids.states, gather),
        train_step=train_step,
        stopping=StopAgreement(stop_request, runtime, finite_check, checkpoints),
        checkpoints=checkpoints,
        start=start,
        resumed=own is not None,
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
    )
