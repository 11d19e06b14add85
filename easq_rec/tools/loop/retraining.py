"""Trains a ranker of the closed loop anew at the end of a day, as a nightly job does."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from easq_rec.tools.loop.programs import call
from easq_rec.tools.simulation.time_line import DAY_MS

ROW_GROUP = 1_024
HOLDOUT = "0.01"
"""Share of the window that is not trained on: the last requests, with which the package is compared."""


@dataclass(frozen=True, kw_only=True)
class Retrainer:
    """Trains on a window of the log up to now, and exports the result.

    It takes no simulated time: the new ranker serves from midnight on, as if training and export were instant.
    """

    recipe: str
    options: tuple[str, ...]
    logs: tuple[Path, ...]
    """Data directories: the log before, and what was served since."""
    folder: Path
    """Takes windows, runs and logs."""
    packages: Path
    window_days: float

    def train(self, number: int, now_ms: int) -> None:
        """Publishes a package of a ranker that was trained on the last days before `now_ms`.

        Raises:
            UserError: training or export failed.
        """
        data, run = self.folder / f"data-{number}", self.folder / f"run-{number}"
        first_ms = int(now_ms - self.window_days * DAY_MS)
        for name in ("requests", "answers"):
            (data / name).mkdir(parents=True)
            paths = [path for log in self.logs for path in sorted((log / name).rglob("*.parquet"))]
            for place, path in enumerate(paths):
                found = pq.ParquetFile(path).read().filter(pc.field("timestamp_ms") >= first_ms)
                if len(found):
                    pq.write_table(found, data / name / f"{place:05d}.parquet", row_group_size=ROW_GROUP)
        words = ["--data", str(data), "--run-dir", str(run), "--data.holdout", HOLDOUT, *self.options]
        call(["train", self.recipe, *words], self.folder / f"train-{number}.log")
        call(["export", "--run", str(run), "--output", str(self.packages)], self.folder / f"export-{number}.log")
        shutil.rmtree(data)
