"""The table of counts that `easq-rec data counts` publishes beside the data, and that serving looks candidates up in.

`counts/NAME.parquet` has the ids of a count, `shown` and `happened`. `counts/counts.json` declares the counts, and says
which moment they are of and what all impressions together are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from easq_rec import json_file
from easq_rec.config.schema import Count, FeatureSchema, NumberRange
from easq_rec.config.serialization import from_dict, load_json, to_dict
from easq_rec.data import files
from easq_rec.data.columns import Rows
from easq_rec.data.count_lookup import check_declarations
from easq_rec.data.counts import CountState
from easq_rec.data.published_counts import PublishedCounts, by_impressions
from easq_rec.data.writer import open_writer, published
from easq_rec.disk_failures import is_disk_failure
from easq_rec.errors import UserError

FOLDER = "counts"
"""Name of the folder, beside `requests/`."""
DESCRIPTION = "counts.json"
WHAT = "the description of counts"
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
    """Time of the publication, in milliseconds since 1970. A count holds what was known before the beginning of that of
    its buckets which holds this time, and is decayed to it."""
    bucket_minutes: int
    counts: tuple[Count, ...]
    overall: tuple[OverallCount, ...]
    ranges: tuple[NumberRange, ...] = ()


def write_counts(counts: PublishedCounts, folder: Path) -> None:
    """Writes the table to a new folder."""
    folder.mkdir(parents=True)
    overall = []
    for count in counts.counts:
        every = counts.overall(count)
        overall.append(OverallCount(name=count.name, shown=every.shown, happened=every.happened, prior=every.prior))
        ids, shown, happened = counts.state_of(count).table(count)
        fields = [*((name, pa.int64()) for name in ids), (SHOWN, pa.float64()), (HAPPENED, pa.float64())]
        schema = pa.schema([pa.field(name, dtype, nullable=False) for name, dtype in fields])
        with open_writer(folder / f"{count.name}.parquet", schema) as writer:
            writer.write_table(pa.table([*ids.values(), shown, happened], schema=schema))
    described = CountTable(
        now_ms=counts.now_ms,
        bucket_minutes=counts.bucket_minutes,
        counts=counts.counts,
        overall=tuple(overall),
        ranges=counts.ranges,
    )
    (folder / DESCRIPTION).write_text(json_file.text(to_dict(described), indent=2) + "\n")


def read_counts(folder: Path) -> PublishedCounts:
    """The counts of a folder, for `PublishedCounts.lookup`.

    Raises:
        UserError: a file is missing, damaged, or does not hold what `counts.json` declares.
    """
    described = load_json(CountTable, folder / DESCRIPTION, WHAT)
    overall = {entry.name: entry for entry in described.overall}
    states = []
    for (_, minutes), counts in by_impressions(described.counts, described.bucket_minutes).items():
        state = CountState(counts, minutes)
        state.add(None, state.bucket_ms(described.now_ms))
        for count in counts:
            _restore(state, count, folder / f"{count.name}.parquet", overall.get(count.name))
        states.append(state)
    return PublishedCounts(
        described.counts,
        described.ranges,
        states,
        bucket_minutes=described.bucket_minutes,
        now_ms=described.now_ms,
    )


def _restore(state: CountState, count: Count, file: Path, every: OverallCount | None) -> None:
    try:
        table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file}: not a readable Parquet file: {error}") from error
    expected = [*count.keys, SHOWN, HAPPENED]
    if table.column_names != expected or every is None:
        raise UserError(f"{file}: has columns {table.column_names}, expected {expected}: write the counts again")
    ids: dict[str, Rows] = {name: table[name].to_numpy() for name in count.keys}
    state.restore(count, ids, table[SHOWN].to_numpy(), table[HAPPENED].to_numpy())
    together = replace(count, keys=())
    state.restore(together, {}, np.array([every.shown]), np.array([every.happened]))


def counts_beside(directory: files.Location, schema: FeatureSchema) -> str | None:
    """The folder with the published counts of a data directory, if a schema reads counts and there is one.

    Raises:
        UserError: its declarations are not those of the schema.
    """
    if not schema.count_features or (declared := declared_beside(directory)) is None:
        return None
    source = files.join(directory, FOLDER)
    check_declarations(declared, schema, files.display_name(source))
    return source


def declared_beside(directory: files.Location) -> CountTable | None:
    """What the published counts of a data directory are; None: it has none. Raises UserError if the file is damaged."""
    source = files.join(directory, FOLDER)
    if not files.is_dir(source):
        return None
    where = f"{files.display_name(source)}/{DESCRIPTION}"
    try:
        with files.open_file(files.join(source, DESCRIPTION)) as file:
            values = json.loads(file.read())
    except (ValueError, pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{where}: cannot be read: {error}") from error
    return from_dict(CountTable, values, f"{where} is not {WHAT}")


def copy_counts(source: files.Location, target: Path) -> None:
    """Copies published counts to a folder of this machine, which appears when it is complete.

    Raises:
        UserError: a file cannot be read.
        OSError: the disk failed.
    """
    with published(target) as folder:
        for name in files.all_files(source):
            try:
                files.copy_file(files.join(source, name), folder / name)
            except (pa.ArrowInvalid, OSError) as error:
                if is_disk_failure(error):
                    raise
                raise UserError(f"{files.display_name(source)}/{name}: cannot be copied: {error}") from error
