"""The days of the closed loop: simulated users are served, what they did is committed, the follower learns from it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from easq_rec.data.writer import PartWriter, published
from easq_rec.errors import UserError
from easq_rec.export.versions import MANIFEST
from easq_rec.tools.loop.ranked_over_http import RankedOverHttp
from easq_rec.tools.loop.retraining import Retrainer
from easq_rec.tools.simulation.online import Arm, Day, Served, Stage
from easq_rec.tools.simulation.time_line import DAY_MS
from easq_rec.tools.simulation.world import to_table

CATCH_UP_S = 120.0
"""Longest wait for a package that has learned from a day."""


@dataclass(frozen=True, kw_only=True)
class LoopDay:
    """What happened to the users of one ranker on a day."""

    ranker: str
    day: int
    """From 1."""
    sums: Day
    age_days: float
    """Time between the last request from which the served package has learned and the beginning of the day."""
    fresh_s: float | None
    """Longest time from the commit of a part of the day until a package that has learned from it is served, in seconds;
    None: the ranker does not learn."""

    def values(self) -> dict[str, Any]:
        """Means over the users, per day, for the table."""
        day = self.sums
        return {
            "ranker": self.ranker,
            "day": self.day,
            "active_percent": 100 * day.active / day.users,
            "satisfaction": day.grades / day.long_views if day.long_views else None,
            "long_view_share": day.long_views / day.impressions if day.impressions else None,
            "likes_per_user": day.likes / day.users,
            "stay_s_per_user": day.stay_s / day.users,
            "requests": day.requests,
            "answers": day.answers,
            "model_age_days": self.age_days,
            "fresh_seconds": self.fresh_s,
            "sums": asdict(day),
        }


@dataclass(kw_only=True)
class ServedRanker:
    """A ranker with a server and a copy of the world's users of its own."""

    name: str
    arm: Arm
    rank: RankedOverHttp
    packages: Path
    learned_ms: int
    """Time of the last request from which it has learned, unless its package says so."""
    live: Path | None = None
    """Data directory into which what its users do is committed; None: it stays as it is."""
    follower: subprocess.Popen[bytes] | None = None
    """Learns from `live` as it grows."""
    retrainer: Retrainer | None = None
    """Trains it anew on `live` at the end of each day."""

    def version(self) -> str:
        """The package that its server uses."""
        (version,) = self.rank.model()["versions"].values()
        return str(version)


def run_day(
    ranker: ServedRanker, stage: Stage, parts: int, say: Callable[[str], None], *, last: bool = False
) -> LoopDay:
    """Serves one day over HTTP in parts. Each is committed, and a ranker that follows learns from it before the next
    one is served. A ranker that is trained anew is trained at the end of the day.

    Args:
        last: no day follows, for which a ranker would be trained anew.

    Raises:
        UserError: the follower has ended, or a server did not take a package over in time.
    """
    number, begin_ms = ranker.arm.day + 1, stage.start_ms + ranker.arm.day * DAY_MS
    age_days = (begin_ms - served_clock_ms(ranker)) / DAY_MS
    committed_ms: list[int] = []
    waits: list[float] = []

    def after(served: Served) -> None:
        if ranker.live is None or not len(served.seen):
            return
        name = f"day={number:05d}-{len(committed_ms):02d}"
        committed_ms.append(commit(served, stage, ranker.live, name))
        if ranker.follower is not None:
            waits.append(_wait(ranker, lambda: served_clock_ms(ranker) >= committed_ms[-1]))

    sums = ranker.arm.serve_day_in_parts(ranker.rank, parts, after)
    if ranker.retrainer is not None and committed_ms and not last:
        before, begun = ranker.version(), time.monotonic()
        ranker.retrainer.train(number, begin_ms + DAY_MS)
        _wait(ranker, lambda: ranker.version() != before)
        ranker.learned_ms = max(committed_ms)
        waits.append(time.monotonic() - begun)
    fresh_s = max(waits) if waits else None
    day = LoopDay(ranker=ranker.name, day=number, sums=sums, age_days=age_days, fresh_s=fresh_s)
    values = day.values()
    learned = "" if fresh_s is None else f"  learned and served after {fresh_s:.1f} s"
    say(
        f"day {number:>2}  {ranker.name:<10} satisfaction {values['satisfaction']:.3f}  long views "
        f"{values['long_view_share']:.3f}  active {values['active_percent']:.1f}%  answers {sums.answers:>4}  "
        f"model age {age_days:.1f} days{learned}"
    )
    return day


def _wait(ranker: ServedRanker, done: Callable[[], bool]) -> float:
    """Seconds until the ranker's server has the package that is waited for."""
    begun = time.monotonic()
    while not done():
        if ranker.follower is not None and ranker.follower.poll() is not None:
            raise UserError(f"{ranker.name}: the follower has ended with exit code {ranker.follower.returncode}")
        if time.monotonic() - begun > CATCH_UP_S:
            raise UserError(f"{ranker.name}: its server has no newer package after {CATCH_UP_S:.0f} s")
        time.sleep(0.1)
    return time.monotonic() - begun


def commit(served: Served, stage: Stage, live: Path, name: str) -> int:
    """Writes a part of a day into the folder that is followed; returns the time of its last request.

    The answers come first, so that they are known when the clock reaches them.
    """
    for table, part in (("answers", served.answered()), ("requests", served)):
        with published(live / table / name) as folder:
            writer = PartWriter(folder / "part")
            writer.write(to_table(part.requests, stage.latents, answers=table == "answers", lengths=part.seen))
            writer.close()
    return int(served.requests.timestamp_ms.max(initial=0))


def served_clock_ms(ranker: ServedRanker) -> int:
    """Time of the last request from which the package that the server uses has learned."""
    folder = ranker.packages / ranker.version()
    stream = json.loads((folder / MANIFEST).read_text()).get("stream") if folder.is_dir() else None
    return ranker.learned_ms if stream is None else int(stream["clock_ms"])
