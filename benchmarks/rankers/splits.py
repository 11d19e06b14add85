"""A converted log, divided by time into the files that peers and recipes get."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.rankers.impressions import Impressions, flatten, without_outcomes
from easq_rec.config.recipes import kuairand
from easq_rec.data.dataset import Period, split
from easq_rec.data.writer import PartWriter
from easq_rec.errors import UserError

HOLDOUT = kuairand().data.holdout


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Files of one comparison. `early` and `late` are the training period, split as the whole time line is."""

    train: Path
    early: Path
    late: Path
    test: Path
    """Held-out requests without outcomes."""
    recipes: Path
    """Folder of requests/ and answers/ that recipes train on: see `write_splits`."""
    held: Impressions
    """The held-out impressions with their labels, which only this process has."""
    period: Period
    """The training period."""


def write_splits(data: Path, folder: Path) -> Splits:
    """Divides a converted log by time.

    Recipes train on a copy in which the held-out period has only its last request. This request keeps the time line as
    it is, so that the trainer's own split cuts at the same moment, and training cannot see any other held-out request.

    Raises:
        UserError: no requests, or requests without outcomes.
    """
    if not (data / "requests").is_dir():
        raise UserError(f"--data {data}: it has no folder requests/: write it with datasets/kuairand/prepare.py")
    period, held_out = split(data / "requests", HOLDOUT)
    table = pq.read_table(data / "requests").combine_chunks()
    time_R = table["timestamp_ms"].to_numpy()
    train, test = table.filter(time_R < held_out.start_ms), table.filter(time_R >= held_out.start_ms)
    held = flatten(test, f"--data {data}")
    if held.label_N is None:
        raise UserError(f"--data {data}: candidates have no valid_play and long_view: convert the log again")
    if not len(train) or not 0 < held.label_N.sum() < len(held):
        raise UserError(
            f"--data {data}: both periods need requests, and the held-out one both labels: use a longer log"
        )

    def written(name: str, part: pa.Table) -> Path:
        path = folder / name / "requests" / "part-00000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(part, path)
        return path

    recipes = folder / "recipes"
    write_dataset(recipes / "requests", pa.concat_tables([train, test.slice(len(test) - 1)]))
    if (data / "answers").is_dir():
        answered = pq.read_table(data / "answers").combine_chunks()
        write_dataset(recipes / "answers", answered.filter(answered["timestamp_ms"].to_numpy() < held_out.start_ms))
    assert split(recipes / "requests", HOLDOUT)[0] == period
    train_path = written("train", train)
    cut = split(train_path.parent, HOLDOUT)[1].start_ms
    time_R = train["timestamp_ms"].to_numpy()
    return Splits(
        train=train_path,
        early=written("early", train.filter(time_R < cut)),
        late=written("late", train.filter(time_R >= cut)),
        test=written("test", without_outcomes(test)),
        recipes=recipes,
        held=held,
        period=period,
    )


def write_dataset(folder: Path, requests: pa.Table) -> None:
    """Writes a dataset as the converter does."""
    writer = PartWriter(folder)
    writer.write(requests)
    writer.close()
