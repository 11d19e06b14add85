"""Options of continuous training: `easq-rec train --follow SOURCE`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from easq_rec.config.schema import require


@dataclass(frozen=True, kw_only=True)
class Follow:
    """Continuous training on logs that grow."""

    source: Annotated[str | None, tyro.conf.arg(aliases=("--follow",))] = None
    """Directory or URL of requests/ and answers/ into which other jobs commit Parquet files by a rename; or
    kafka://HOST:PORT/REQUESTS,ANSWERS with the names of two topics. The run first trains on the data that exist,
    then on new data. None: training reads a fixed directory."""
    start_from: str | None = None
    """Run directory from whose newest checkpoint a new run starts: the same recipe, trained on the log so far. None: it
    starts untrained."""
    since_ms: int | None = None
    """Requests older than this are not trained on, up to the first younger one of a row group or message. Give the end
    of the training period of the run that `start_from` names, if the source holds that period, too. None: all requests
    are trained on."""
    poll_seconds: float = 0.5
    """Time between two looks at the source while it has nothing new."""
    wait_seconds: float = 5.0
    """Time after which requests that do not fill a step are trained all the same."""
    idle_seconds: float = 30.0
    """Time without data after which the other partitions no longer wait for a partition."""
    disorder_ms: int = 0
    """How much earlier than its predecessors a request of a partition may be; the clock stays behind by so much."""
    most_ahead_minutes: float | None = 60.0
    """A request or an answer whose time is further ahead of this machine's clock is a bad row (data.on_bad_rows): the
    clock of the run never goes back. None: any time is accepted."""
    stop_when_idle_seconds: float | None = None
    """End the run once nothing has arrived for so long; None: it waits for more."""
    checkpoint_minutes: float = 10.0
    """Time between checkpoints, in addition to checkpoint.every_steps; 0: none."""
    packages: str | None = None
    """Directory of packages into which the run exports itself for serving; None: it does not."""
    copy_packages_to: str | None = None
    """URL of a folder in an object store, as s3://bucket/packages, into which every package is copied; servers read it
    there. None: they stay in `packages`."""
    publish_minutes: float = 10.0
    """Time between two packages."""
    publish_if: str | None = None
    """METRIC>BOUND or METRIC<BOUND, for example auc_long_view>0.6: a package is only served if the metric of the last
    hour of requests fulfils it. None: every package is served."""
    alarm_if: str | None = None
    """METRIC>BOUND or METRIC<BOUND: raises an alarm once the metric of an hour fulfils it. None: there is no alarm."""
    keep_packages: int = 5
    """Number of newest packages to keep, with the one that is served."""
    on_alarm: Literal["log", "stop"] = "log"
    """log: an event and a line. stop: the run also ends, with a checkpoint and exit code 3."""

    def __post_init__(self) -> None:
        for name in ("poll_seconds", "wait_seconds", "idle_seconds", "publish_minutes"):
            require(getattr(self, name) > 0, f"follow.{name}", getattr(self, name), "more than 0")
        if self.copy_packages_to is not None:
            url, name = self.copy_packages_to, "follow.copy_packages_to"
            require("://" in url, name, url, "a URL, as s3://bucket/packages")
            require(self.packages is not None, name, url, "given together with follow.packages")
        require(self.keep_packages >= 2, "follow.keep_packages", self.keep_packages, "at least 2")
        require(self.disorder_ms >= 0, "follow.disorder_ms", self.disorder_ms, "0 or more")
        require(self.checkpoint_minutes >= 0, "follow.checkpoint_minutes", self.checkpoint_minutes, "0 or more")
        if self.most_ahead_minutes is not None:
            most, name = self.most_ahead_minutes, "follow.most_ahead_minutes"
            require(most >= 0, name, most, "0 or more, or None")
        if self.stop_when_idle_seconds is not None:
            allowed = "more than 0, or None"
            require(
                self.stop_when_idle_seconds > 0, "follow.stop_when_idle_seconds", self.stop_when_idle_seconds, allowed
            )
