"""One call of the trainer: prepares data and run directory, trains, and prints the result."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from easq_rec import doctor
from easq_rec.config import Config
from easq_rec.data import files
from easq_rec.data.count_files import copy_counts, counts_beside
from easq_rec.disk_failures import EXIT_CODE, Lost, merged, reason_of, summary
from easq_rec.errors import UserError
from easq_rec.run_directory import tracking
from easq_rec.run_directory.config_file import check_resumable, write_config
from easq_rec.run_directory.events import event, recorded
from easq_rec.run_directory.paths import RunDirectory, published
from easq_rec.training.checkpoint.copies import restore
from easq_rec.training.health.watchdog import watched
from easq_rec.training.loop import Result, Trainer
from easq_rec.training.process import Runtime, running
from easq_rec.training.signals import StopRequest
from easq_rec.training.single_writer import only_writer

RUNS = Path("runs")
"""Where runs without --run-dir lie."""
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
    """Trains, evaluates and prints the result. Resumes a run directory with a checkpoint.

    Args:
        prepare_data: returns the directory with requests/ and answers/, which it may write first. Every rank calls it.
        stop: whether this process was asked to stop; None: only signals that arrive during training count.

    Returns:
        the exit code: 0, or `disk_failures.EXIT_CODE` if the last step could not be saved.

    Raises:
        UserError: the configuration is not possible here, or is not that of the run that would be resumed; or another
            process writes to the run directory.
    """
    begin = time.perf_counter()
    with running(config.trainer) as runtime:
        phases = runtime.phases
        run_dir = Path(config.run_dir or runtime.share(new_run_dir(config) if runtime.leads else ""))
        with only_writer(run_dir, runtime), watched(run_dir, runtime, config.trainer.timeout_s):
            with phases("preparing the data"):
                directory = prepare_data(config, runtime)
            config = _located(config, run_dir, directory)
            store_config(config, runtime, run_dir)
            with recorded(run_dir, runtime) as recorder:
                report_start(config, runtime, run_dir)
                with phases("building the model"):
                    trainer = Trainer(config, runtime, directory=directory, run_dir=run_dir, stop_request=stop)
                recorder.step = lambda: trainer.step
                trainer.log.say(f"ready after {time.perf_counter() - begin:.1f} s: {config.recipe} in {run_dir}")
                result = trainer.fit()
                lost = merged(runtime.gather(runtime.lost.all()))
                _report_end(result, lost, runtime, run_dir)
        if runtime.leads:
            for line in _result(result, run_dir):
                runtime.lost.say(line)
            if problem := _problem(result, lost, run_dir):
                runtime.lost.say(f"easq-rec: {problem}", error=True)
    return 0 if result.unsaved is None else EXIT_CODE


def _metric_lines(metrics: dict[str, float]) -> Iterator[str]:
    """The most important metrics of a run, as text."""
    yield f"{metrics['requests']:,.0f} held-out requests, ranked by the policy score"
    for label, name in TABLE:
        yield f"  {label:<22}{metrics[name]:.4f}"


def new_run_dir(config: Config) -> str:
    """A new run directory. A launcher that restarts workers sets EASQ_RUN_NAME, so that they find the directory again;
    without it, the name is the time, and the directory is made so that no other run gets the same."""
    if name := os.environ.get("EASQ_RUN_NAME"):
        return str(RUNS / f"{config.recipe}-{name}")
    name, number = f"{config.recipe}-{time.strftime('%Y%m%d-%H%M%S')}", 1
    while True:
        directory = RUNS / (name if number == 1 else f"{name}-{number}")
        try:
            directory.mkdir(parents=True)
            return str(directory)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise UserError(
                f"{directory} cannot be made: {reason_of(error)}; call the command in a directory that you may write "
                "to, or give a --run-dir"
            ) from error


def _located(config: Config, run_dir: Path, directory: files.Location) -> Config:
    """The config with the actual places of the run and of its data."""
    data = dataclasses.replace(config.data, path=str(directory))
    return dataclasses.replace(config, run_dir=str(run_dir), data=data)


def store_config(config: Config, runtime: Runtime, run_dir: Path) -> None:
    """Writes config.json, once every rank has compared the config with that of the run that would be resumed, and
    copies the published counts that lie beside the data, so that the run is complete for serving."""
    with runtime.phases("fetching a checkpoint"):
        _restored(config, runtime, run_dir)
    check_resumable(config, run_dir)
    counts = counts_beside(config.data.path, config.schema) if config.data.path is not None else None
    runtime.barrier()
    with runtime.phases("writing the config"):
        if runtime.leads:
            with runtime.lost.tolerated("the config", RunDirectory(run_dir).config):
                write_config(config, run_dir)
            kept = RunDirectory(run_dir).counts
            if counts is not None and not kept.is_dir():
                with runtime.lost.tolerated("counts", kept):
                    copy_counts(counts, kept)
    runtime.barrier()


def _restored(config: Config, runtime: Runtime, run_dir: Path) -> None:
    """Fetches the newest copy of a checkpoint on rank 0. If that fails, all ranks raise its error."""
    if config.checkpoint.copy_to is None:
        return
    problem = ""
    if runtime.leads:
        try:
            restore(config, run_dir, runtime.lost.say)
        except UserError as error:
            problem = str(error)
    if problem := runtime.share(problem):
        raise UserError(problem)


def report_start(config: Config, runtime: Runtime, run_dir: Path) -> None:
    """Records the start in the log of the rank, and reports it to the trackers."""
    versions, device = doctor.core_versions(), str(runtime.device)
    event("start", recipe=config.recipe, device=device, argv=sys.argv, versions=versions)
    if runtime.leads:
        tracking.report_start(
            run_dir, recipe=config.recipe, world_size=runtime.world_size, device=device, versions=versions
        )


def _report_end(result: Result, lost: Sequence[Lost], runtime: Runtime, run_dir: Path) -> None:
    """Records the end in the log of the rank, and reports it to the trackers."""
    state = "finished" if result.finished else "stopped"
    not_written = {one.kind: one.count for one in lost}
    event(state, step=result.step, metrics=result.metrics, not_written=not_written)
    if runtime.leads:
        tracking.report_end(run_dir, state=state, step=result.step, metrics=result.metrics)


def _result(result: Result, run_dir: Path) -> Iterator[str]:
    if not result.finished:
        saved = "with a checkpoint" if result.unsaved is None else "WITHOUT a checkpoint"
        yield f"stopped after step {result.step} {saved}; the same command with --run-dir {run_dir} goes on"
        return
    yield ""
    if result.metrics:
        yield from _metric_lines(result.metrics)
    else:
        yield "no requests are held out (data.holdout), so there is nothing to evaluate"
    yield f"  {'impressions/s':<22}{result.impressions_per_second:,.0f}"
    yield f"\nrun    {run_dir}"
    yield f"next   {command_name('tensorboard')} --logdir {RunDirectory(run_dir).tensorboard}"
    if result.unsaved is None:
        yield f"       {command_name('easq-rec')} evaluate --run {run_dir}"


def _problem(result: Result, lost: Sequence[Lost], run_dir: Path) -> str | None:
    """What the user must know of writes that a disk refused, on one line; None: there were none."""
    if result.unsaved is not None:
        found = published(RunDirectory(run_dir).checkpoints)
        where = f"from step {found[-1].step}" if found else "from the start"
        return (
            f"step {result.step} has no checkpoint: {result.unsaved}; {summary(lost)}. Once there is room, the same "
            f"command with --run-dir {run_dir} trains again {where}"
        )
    copies = [one for one in lost if one.kind == "copies"]
    written = [one for one in lost if one.kind != "copies"]
    if written:
        return (
            f"warning: the disk of {run_dir} failed; {summary(written)}. The checkpoint of step {result.step} was "
            "written"
        )
    if copies:
        return f"warning: checkpoints of {run_dir} lack a copy; {summary(copies)}"
    return None


def command_name(name: str) -> str:
    """How to call a program of this environment, which may not be activated."""
    if shutil.which(name):
        return name
    return os.path.relpath(Path(sys.executable).parent / name)
