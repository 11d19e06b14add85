"""The table of counts that `easq-rec data counts` publishes beside the data, and that serving looks candidates up in.

`counts/NAME.parquet` has the ids of a count, `shown` and `happened`. `counts/counts.json` declares the counts, and says
which moment they are of and what all impressions together are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from easq_rec.config.schema import Count
from easq_rec.config.serialization import load_json, to_dict
from easq_rec.data.columns import Rows
from easq_rec.data.counts import CountState
from easq_rec.data.writer import open_writer
from easq_rec.errors import UserError

FOLDER = "counts"
"""Name of the folder, beside `requests/`."""
DESCRIPTION = "counts.json"
SHOWN, HAPPENED = "shown", "happened"


@dataclass(frozen=True, kw_only=True)
class OverallCount:
    """All impressions together."""

    name: str
    """Of the count."""
    shown: float
    happened: float
    prior: float
    """(happened + 1/2) / (shown + 1)."""


@dataclass(frozen=True, kw_only=True)
class CountTable:
    """The content of `counts.json`."""

    now_ms: int
    """The counts hold what was known before this time, in milliseconds since 1970, and are decayed to it."""
    bucket_minutes: int
    counts: tuple[Count, ...]
    overall: tuple[OverallCount, ...]


def write_counts(state: CountState, folder: Path) -> None:
    """Writes the table to a new folder."""
    folder.mkdir(parents=True)
    overall = []
    for count in state.counts:
        every = state.overall(count.outcome, count.half_life_h, state.now_ms)
        overall.append(OverallCount(name=count.name, shown=every.shown, happened=every.happened, prior=every.prior))
        ids, shown, happened = state.table(count)
        fields = [*((name, pa.int64()) for name in ids), (SHOWN, pa.float64()), (HAPPENED, pa.float64())]
        schema = pa.schema([pa.field(name, dtype, nullable=False) for name, dtype in fields])
        with open_writer(folder / f"{count.name}.parquet", schema) as writer:
            writer.write_table(pa.table([*ids.values(), shown, happened], schema=schema))
    described = CountTable(
        now_ms=state.now_ms, bucket_minutes=state.bucket_minutes, counts=state.counts, overall=tuple(overall)
    )
    (folder / DESCRIPTION).write_text(json.dumps(to_dict(described), indent=2) + "\n")


def read_counts(folder: Path) -> CountState:
    """The counts of a folder, for `CountState.lookup`.

    Raises:
        UserError: a file is missing, damaged, or does not hold what `counts.json` declares.
    """
    described = load_json(CountTable, folder / DESCRIPTION, "the description of counts")
    state = CountState(described.counts, described.bucket_minutes)
    state.add(None, described.now_ms)
    overall = {entry.name: entry for entry in described.overall}
    for count in described.counts:
        file = folder / f"{count.name}.parquet"
        try:
            table = pq.read_table(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{file}: not a readable Parquet file: {error}") from error
        expected = [*count.keys, SHOWN, HAPPENED]
        if table.column_names != expected or count.name not in overall:
            raise UserError(f"{file}: has columns {table.column_names}, expected {expected}: write the counts again")
        ids: dict[str, Rows] = {name: table[name].to_numpy() for name in count.keys}
        state.restore(count, ids, table[SHOWN].to_numpy(), table[HAPPENED].to_numpy())
        every = overall[count.name]
        together = Count(name=count.name, outcome=count.outcome, half_life_h=count.half_life_h)
        state.restore(together, {}, np.array([every.shown]), np.array([every.happened]))
    return state
