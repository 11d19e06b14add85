"""A ranker in a closed loop: it serves simulated users and is trained daily on their behaviour.

An arm's data directory follows the data contract and grows by a partition per day, `requests/day=00007/` and
`answers/day=00007/`; day 0 is the log on which the ranker was first trained. Every night training continues in time
order on the requests of the day and on the answers that have arrived by then; answers that arrive later are used later.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from easq_rec.config import Config
from easq_rec.data.batch import collate
from easq_rec.data.dataset import Period, split
from easq_rec.data.encode import encode
from easq_rec.data.layout import Layout
from easq_rec.data.sources import open_sources
from easq_rec.data.writer import PartWriter
from easq_rec.evaluation.predict import Score, served
from easq_rec.run_directory.checkpoint_files import latest_of
from easq_rec.tools.simulation.latents import Int, Latents
from easq_rec.tools.simulation.online import WEEK, Arm, Day, Experiment, Floats, Served, Stage, groups
from easq_rec.tools.simulation.requests import as_columns
from easq_rec.tools.simulation.rounds import Round
from easq_rec.tools.simulation.time_line import DAY_MS
from easq_rec.tools.simulation.world import to_table
from easq_rec.training.loop import Trainer
from easq_rec.training.process import Runtime, running

BY_DAY = ("active", "watch_s", "stay_s", "likes", "satisfaction", "answers", "requests")
"""Metrics of each day and of the measured week."""
LT7 = "lt7"
CPU = torch.device("cpu")


class ServedByModel:
    """Ranks by a model's policy score or by a fused score."""

    def __init__(
        self, score: Score, config: Config, latents: Latents, *, fuse: float | None, device: torch.device = CPU
    ) -> None:
        self._score = score
        self._config = config
        self._latents = latents
        self._fuse = fuse
        self._device = device
        self._layout = Layout.of(config.schema, outcomes=False)

    def __call__(self, pool: Round) -> Floats:
        columns = as_columns(pool, self._latents, max_history=self._config.data.max_history)
        encoded, size = encode(self._layout, columns), self._config.evaluation.batch_size
        found = []
        for begin in range(0, len(encoded), size):
            part = encoded.slice(begin, min(begin + size, len(encoded)))
            batch = collate(self._config.schema, part).to(self._device)
            found.append(served(self._score(batch), self._fuse).numpy())
        return np.concatenate(found, dtype=np.float64).reshape(pool.video.shape)


class ArmData:
    """The data directory of an arm, which links to the log."""

    def __init__(self, folder: Path, log: Path, latents: Latents) -> None:
        self.folder = folder
        self._latents = latents
        self._days = 0
        for name in ("requests", "answers"):
            first = folder / name / _partition(0)
            first.mkdir(parents=True)
            for part in (log / name).glob("*.parquet"):
                (first / part.name).symlink_to(part.absolute())

    def append(self, day: Served) -> None:
        """Writes the next day's partition."""
        self._days += 1
        for name, part in (("requests", day), ("answers", day.answered())):
            writer = PartWriter(self.folder / name / _partition(self._days))
            writer.write(to_table(part.requests, self._latents, answers=name == "answers", lengths=part.seen))
            writer.close()


def _partition(day: int) -> str:
    return f"day={day:05d}"


@dataclass(frozen=True, kw_only=True)
class Course:
    """Measured behaviour of an arm's users."""

    days: list[Day]
    active_days: float
    """Metrics of the measured week: means over users."""


def run(
    config: Config, experiment: Experiment, *, fuse: float | None
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Runs the experiment of one trained ranker on both halves of the users, one after the other.

    On each half the ranker starts from its training on the log and then learns only from that half, as if another
    ranker served the other half. Together the halves contain all users of the world.

    Args:
        fuse: weight of the reference score in the served score; None: the policy score is served.

    Returns:
        (metrics of each day, metrics of the measured week).
    """
    stage = Stage.of(config.world)
    with running(config.trainer) as runtime:
        halves = [
            _serve(config, runtime, stage, experiment, users, half, fuse)
            for half, users in enumerate(groups(config.world))
        ]
    days = [averages(same) for same in zip(*(half.days for half in halves), strict=True)]
    week = averages([day for half in halves for day in half.days[-WEEK:]])
    users = [half.days[0].users for half in halves]
    active_days = sum(half.active_days * size for half, size in zip(halves, users, strict=True)) / sum(users)
    return days, week | {LT7: active_days}


def _serve(
    config: Config, runtime: Runtime, stage: Stage, experiment: Experiment, users: Int, half: int, fuse: float | None
) -> Course:
    """Simulates all days of a group of users."""
    run_dir, log = Path(str(config.run_dir)), Path(str(config.data.path))
    folder = run_dir / f"half-{half}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    data, arm = ArmData(folder / "data", log, stage.latents), Arm(stage, experiment, users)
    trainer = Trainer(config, runtime, directory=log, run_dir=folder, start_from=latest_of(run_dir))
    online = dataclasses.replace(config, data=dataclasses.replace(config.data, shuffle=False))

    def train(period: Period) -> None:
        trainer.continue_training(open_sources(online, data.folder, period=period))

    if config.data.holdout:
        # The last days of the log, held out before, are now used for training.
        train(split(log / "requests", config.data.holdout)[1])
    days = []
    for day in range(experiment.days):
        with trainer.setup.evaluation.serving() as score:
            rank = ServedByModel(score, config, stage.latents, fuse=fuse, device=runtime.device)
            caused, sums = arm.serve_day(rank)
        data.append(caused)
        days.append(sums)
        begin = stage.start_ms + day * DAY_MS
        # No day is simulated after the last night, so its training is skipped.
        if sums.requests and day < experiment.days - 1:
            train(Period(start_ms=begin, end_ms=begin + DAY_MS))
    trainer.log.close()
    shutil.rmtree(data.folder)
    return Course(days=days, active_days=float(np.sum(arm.active_days[-WEEK:], axis=0).mean()))


def averages(days: Sequence[Day]) -> dict[str, float]:
    """Means over the user-days of some days, `BY_DAY`; every user counts on each day, active or not.

    `active` is in percent. Only `satisfaction`, the mean true grade, is per long view; NaN if there are none.
    """
    users = sum(day.users for day in days)
    long_views = sum(day.long_views for day in days)
    sums = {name: sum(getattr(day, name) for day in days) for name in BY_DAY if name != "satisfaction"}
    means: Mapping[str, float] = {name: value / users for name, value in sums.items()}
    grade = sum(day.grades for day in days) / long_views if long_views else float("nan")
    return {**means, "active": 100 * means["active"], "satisfaction": grade}
