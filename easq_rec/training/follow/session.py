"""One call of continuous training: prepares the run directory, follows the stream, and prints the result."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from easq_rec.config import Config
from easq_rec.disk_failures import EXIT_CODE, merged
from easq_rec.errors import UserError
from easq_rec.evaluation.prequential import MetricBound, metric_names
from easq_rec.run_directory import tracking
from easq_rec.run_directory.checkpoint_files import latest_of
from easq_rec.run_directory.event_file import read_events
from easq_rec.run_directory.events import event, recorded, restarts
from easq_rec.run_directory.paths import RunDirectory
from easq_rec.training.follow.loop import Follower, FollowResult, NothingArrived, Publish
from easq_rec.training.follow.sources import check_followed
from easq_rec.training.health.watchdog import watched
from easq_rec.training.process import Runtime, running
from easq_rec.training.session import new_run_dir, report_start, store_config
from easq_rec.training.signals import StopRequest
from easq_rec.training.single_writer import only_writer

ALARM = 3
"""Exit code of a run that an alarm has ended."""
OpenPublisher = Callable[[Config, Path, Callable[[str], None]], AbstractContextManager[Publish]]
"""Opens what exports checkpoints of a run into `follow.packages`; it says what it does line by line."""


def follow(config: Config, stop: StopRequest | None = None, open_publisher: OpenPublisher | None = None) -> int:
    """Trains on the stream of `config.follow.source` until it is stopped. Resumes a run directory with a checkpoint.

    Args:
        stop: whether this process was asked to stop; None: only signals that arrive during training count.
        open_publisher: opened on rank 0 if the run publishes.

    Returns:
        the exit code: 0, `ALARM`, or `disk_failures.EXIT_CODE` if the last step could not be saved.

    Raises:
        UserError: the configuration is not possible here, or is not that of the run that would be resumed; or another
            process writes to the run directory.
    """
    begin = time.perf_counter()
    check_followed(config)
    _check_conditions(config)
    with running(config.trainer) as runtime:
        run_dir = Path(config.run_dir or runtime.share(new_run_dir(config) if runtime.leads else ""))
        with only_writer(run_dir, runtime), watched(run_dir, runtime, config.trainer.timeout_s):
            config = dataclasses.replace(config, run_dir=str(run_dir))
            store_config(config, runtime, run_dir)
            alarm = runtime.share((ended_by_alarm(run_dir) or "") if runtime.leads and restarts() else "")
            if alarm:
                # torchrun restarts workers that end with an exit code. Only a person can end an alarm.
                if runtime.leads:
                    runtime.lost.say(
                        f"not restarted: an alarm has ended the run: {alarm}; start the job again to go on"
                    )
                return ALARM
            with recorded(run_dir, runtime) as recorder:
                report_start(config, runtime, run_dir)
                other = config.follow.start_from
                start_from = latest_of(Path(other)) if other is not None else None
                opened: AbstractContextManager[Publish | None] = nullcontext()
                if runtime.leads and config.follow.packages is not None and open_publisher is not None:
                    opened = open_publisher(config, run_dir, runtime.lost.say)
                with opened as publish:
                    try:
                        with runtime.phases("building the model"):
                            follower = Follower(
                                config,
                                runtime,
                                run_dir=run_dir,
                                start_from=start_from,
                                stop_request=stop,
                                publish=publish,
                            )
                    except NothingArrived:
                        event("stopped", step=0)
                        if runtime.leads:
                            runtime.lost.say("ended before the first request arrived; nothing was trained")
                        return 0
                    recorder.step = lambda: follower.step
                    if runtime.leads:
                        runtime.lost.say(
                            f"ready after {time.perf_counter() - begin:.1f} s: {config.recipe} in {run_dir} follows "
                            f"{config.follow.source} from step {follower.step}"
                        )
                    result = follower.follow()
                lost = merged(runtime.gather(runtime.lost.all()))
                _report_end(result, runtime, run_dir, {one.kind: one.count for one in lost})
        if runtime.leads:
            for line in _result(result, run_dir):
                runtime.lost.say(line)
    if result.unsaved is not None:
        return EXIT_CODE
    return ALARM if result.ended_by_alarm is not None else 0


def ended_by_alarm(run_dir: Path) -> str | None:
    """The alarm that has ended the latest process of a run with `follow.on_alarm=stop`; None: something else has."""
    file = RunDirectory(run_dir).log(0)
    events = read_events(file).events if file.exists() else []
    last = events[-1] if events else None
    return last.fields.get("ended_by_alarm") if last is not None and last.name == "stopped" else None


def _check_conditions(config: Config) -> None:
    for name in ("publish_if", "alarm_if"):
        text = getattr(config.follow, name)
        if text is None:
            continue
        bound, known = MetricBound.of(text), metric_names(config.schema.outcomes, answers=config.reads_answers)
        if bound is None:
            raise UserError(f"follow.{name}={text!r} is not allowed: METRIC>BOUND or METRIC<BOUND, as auc_like>0.6")
        if bound.metric not in known:
            raise UserError(f"follow.{name}={text!r} is not allowed: the metrics are {', '.join(known)}")


def _report_end(result: FollowResult, runtime: Runtime, run_dir: Path, not_written: dict[str, int]) -> None:
    level = logging.INFO if result.alarm is None else logging.ERROR
    event("stopped", level=level, step=result.step, ended_by_alarm=result.ended_by_alarm, not_written=not_written)
    if runtime.leads:
        tracking.report_end(run_dir, state="stopped", step=result.step, metrics={})


def _result(result: FollowResult, run_dir: Path) -> list[str]:
    state = result.state
    saved = "with a checkpoint" if result.unsaved is None else f"WITHOUT a checkpoint ({result.unsaved})"
    lines = [
        f"stopped after step {result.step} {saved}: {state.rows:,} requests, {state.held.admitted:,} answers; the same "
        f"command with --run-dir {run_dir} goes on"
    ]
    if state.requests.passed_rows:
        lines.append(f"{state.requests.passed_rows:,} requests were older than follow.since_ms and passed over")
    if result.alarm is not None:
        lines.append(f"alarm: {result.alarm}")
    return lines
