"""One call of the trainer: prepares data and run directory, trains, and prints the result."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from easq_rec import doctor
from easq_rec.config import Config
from easq_rec.data import files
from easq_rec.data.count_files import copy_counts, counts_beside
from easq_rec.run_directory import tracking
from easq_rec.run_directory.config_file import check_resumable, write_config
from easq_rec.run_directory.events import event, recorded
from easq_rec.run_directory.paths import RunDirectory
from easq_rec.training.health.watchdog import watched
from easq_rec.training.loop import Result, Trainer
from easq_rec.training.process import Runtime, running
from easq_rec.training.signals import StopRequest

PrepareData = Callable[[Config, Runtime], files.Location]

TABLE = (
    ("satisfaction NDCG@5", "satisfaction_ndcg5"),
    ("satisfaction NDCG@10", "satisfaction_ndcg10"),
    ("engagement NDCG@5", "engagement_ndcg5"),
    ("engagement NDCG@10", "engagement_ndcg10"),
    ("pair accuracy", "pair_accuracy"),
    ("GAUC", "gauc"),
)
"""(label, metric) of the lines of the result."""


def train(config: Config, prepare_data: PrepareData, stop: StopRequest | None = None) -> int:
    """Trains, evaluates and prints the result; returns the exit code. Resumes a run directory with a checkpoint.

    Args:
        prepare_data: returns the directory with requests/ and answers/, which it may write first. Every rank calls it.
        stop: whether this process was asked to stop; None: only signals that arrive during training count.

    Raises:
        UserError: the configuration is not possible here, or is not that of the run that would be resumed.
    """
    begin = time.perf_counter()
    with running(config.trainer) as runtime:
        phases = runtime.phases
        run_dir = Path(config.run_dir or runtime.share(_new_run_dir(config)))
        with watched(run_dir, runtime, config.trainer.timeout_s):
            with phases("preparing the data"):
                directory = prepare_data(config, runtime)
            config = _located(config, run_dir, directory)
            _write_config(config, runtime, run_dir)
            with recorded(run_dir, runtime) as recorder:
                _report_start(config, runtime, run_dir)
                with phases("building the model"):
                    trainer = Trainer(config, runtime, directory=directory, run_dir=run_dir, stop_request=stop)
                recorder.step = lambda: trainer.step
                trainer.log.say(f"ready after {time.perf_counter() - begin:.1f} s: {config.recipe} in {run_dir}")
                result = trainer.fit()
                _report_end(result, runtime, run_dir)
        if runtime.leads:
            _print_result(result, run_dir)
    return 0


def print_metrics(metrics: dict[str, float]) -> None:
    """Prints the most important metrics of a run."""
    print(f"{metrics['requests']:,.0f} held-out requests, ranked by the policy score")
    for label, name in TABLE:
        print(f"  {label:<22}{metrics[name]:.4f}")


def _new_run_dir(config: Config) -> str:
    """A new run directory. A launcher that restarts workers sets EASQ_RUN_NAME, so that they find the directory again;
    without it, the name is the time."""
    name = os.environ.get("EASQ_RUN_NAME") or time.strftime("%Y%m%d-%H%M%S")
    return str(Path("runs") / f"{config.recipe}-{name}")


def _located(config: Config, run_dir: Path, directory: files.Location) -> Config:
    """The config with the actual places of the run and of its data."""
    data = dataclasses.replace(config.data, path=str(directory))
    return dataclasses.replace(config, run_dir=str(run_dir), data=data)


def _write_config(config: Config, runtime: Runtime, run_dir: Path) -> None:
    """Writes config.json, once every rank has compared the config with that of the run that would be resumed, and
    copies the published counts that lie beside the data, so that the run is complete for serving."""
    check_resumable(config, run_dir)
    counts = counts_beside(config.data.path, config.schema) if config.data.path is not None else None
    runtime.barrier()
    with runtime.phases("writing the config"):
        if runtime.leads:
            write_config(config, run_dir)
            kept = RunDirectory(run_dir).counts
            if counts is not None and not kept.is_dir():
                copy_counts(counts, kept)
    runtime.barrier()


def _report_start(config: Config, runtime: Runtime, run_dir: Path) -> None:
    """Records the start in the log of the rank, and reports it to the trackers."""
    versions, device = doctor.core_versions(), str(runtime.device)
    event("start", recipe=config.recipe, device=device, argv=sys.argv, versions=versions)
    if runtime.leads:
        tracking.report_start(
            run_dir, recipe=config.recipe, world_size=runtime.world_size, device=device, versions=versions
        )


def _report_end(result: Result, runtime: Runtime, run_dir: Path) -> None:
    """Records the end in the log of the rank, and reports it to the trackers."""
    state = "finished" if result.finished else "stopped"
    event(state, step=result.step, metrics=result.metrics)
    if runtime.leads:
        tracking.report_end(run_dir, state=state, step=result.step, metrics=result.metrics)


def _print_result(result: Result, run_dir: Path) -> None:
    if not result.finished:
        print(f"stopped after step {result.step} with a checkpoint; the same command with --run-dir {run_dir} goes on")
        return
    print()
    if result.metrics:
        print_metrics(result.metrics)
    else:
        print("no requests are held out (data.holdout), so there is nothing to evaluate")
    print(f"  {'impressions/s':<22}{result.impressions_per_second:,.0f}")
    print(f"\nrun    {run_dir}")
    print(f"next   {_command('tensorboard')} --logdir {RunDirectory(run_dir).tensorboard}")
    print(f"       {_command('easq-rec')} evaluate --run {run_dir}")


def _command(name: str) -> str:
    """How to call a program of this environment, which may not be activated."""
    if shutil.which(name):
        return name
    return os.path.relpath(Path(sys.executable).parent / name)
