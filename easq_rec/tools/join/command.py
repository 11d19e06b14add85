"""`easq-rec data join`: adds what happened to served requests, so that they can be trained on.

Legend: R requests, N candidates.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from easq_rec.config.schema import FeatureSchema
from easq_rec.data.dataset import parquet_files
from easq_rec.data.decode import one_chunk
from easq_rec.data.writer import PartWriter, check_unused, published
from easq_rec.errors import UserError
from easq_rec.tools.builder.config import Engine
from easq_rec.tools.builder.tables import connect
from easq_rec.tools.join.in_time import rows_in_time
from easq_rec.tools.join.outcomes import ANSWER, ANSWERED, REQUEST, ImpressionEvents, read_events
from easq_rec.tools.join.repeats import CANDIDATES, repeated_rows

Shown = Literal["all", "listed"]


@dataclass(kw_only=True)
class Joined:
    """What a join did."""

    repeats: int = 0
    """Requests that a later call repeated, and that were left out."""
    requests: int = 0
    candidates: int = 0
    """Those that are written."""
    not_shown: int = 0
    """Candidates that no row lists, and that were left out."""
    empty: int = 0
    """Requests without a candidate that was shown: they are left out."""
    matched: int = 0
    """Impressions of the table that belong to a served candidate."""
    answers: int = 0


def join(log: Path, outcomes: Path, out: Path, schema: FeatureSchema, *, shown: Shown) -> str:
    """Writes a data directory with the requests of a log and their outcomes, in the order of time; returns a summary.

    Of a request that is there several times, the last is kept: see `repeated_rows`.

    Args:
        log: data directory that `easq-rec serve --log` wrote.
        outcomes: see `read_events`.
        shown: all: every candidate was shown, and one without a row has no outcome. listed: those without a row were
            not shown, and are left out.

    Raises:
        UserError: the log or the table cannot be read; requests that differ have the same id; a request lists an item
            twice; or no row belongs to a served candidate.
    """
    check_unused(out)
    names = parquet_files(log / "requests")
    found = Joined()
    with tempfile.TemporaryDirectory(prefix="easq-rec-join-") as temp, published(out) as folder:
        events = read_events(outcomes, schema, Path(temp))
        with connect(Engine(), Path(temp)) as connection:
            repeats = repeated_rows(connection, names, schema)
        found.repeats = sum(map(len, repeats.values()))
        requests = PartWriter(folder / "requests")
        answers: PartWriter | None = None
        for table in rows_in_time(names, repeats):
            joined, answered = _join_rows(table, events.between(table[REQUEST].to_numpy()), schema, shown, found)
            requests.write(joined)
            if len(answered):
                answers = answers or PartWriter(folder / "answers")
                answers.write(answered)
        requests.close()
        if answers is not None:
            answers.close()
        if not found.matched:
            raise UserError(
                f"--outcomes {outcomes}: none of its {events.rows:,} rows belongs to a request of {log}: {REQUEST} and "
                f"{schema.item} must be those that were served"
            )
    return _summary(out, found, events)


def _join_rows(
    table: pa.Table, events: ImpressionEvents, schema: FeatureSchema, shown: Shown, found: Joined
) -> tuple[pa.Table, pa.Table]:
    """(requests, those of them with an answer) of a part of the log."""
    lists = one_chunk(table[CANDIDATES])
    length_R = pc.list_value_length(lists).to_numpy()
    owner_N = np.repeat(np.arange(len(table)), length_R)
    entries = lists.flatten()
    request_N, item_N = table[REQUEST].to_numpy()[owner_N], entries.field(schema.item).to_numpy()
    _check_once(request_N, item_N, schema)
    place_N = events.places(request_N, item_N)
    outcome_N = {outcome.name: _of(events.columns[outcome.name], place_N) for outcome in schema.outcomes}
    entries = _with(entries, {name: pa.array(column.astype(np.float32)) for name, column in outcome_N.items()})
    kept_N = np.ones(len(place_N), np.bool_) if shown == "all" else place_N >= 0
    full_R = np.ones(len(table), np.bool_) if shown == "all" else np.bincount(owner_N, kept_N, len(table)) > 0
    found.requests += int(full_R.sum())
    found.empty += int((~full_R).sum())
    found.candidates += int(kept_N.sum())
    found.not_shown += int((~kept_N).sum())
    found.matched += int((place_N >= 0).sum())
    requests = _chosen(table, full_R, entries, kept_N, owner_N)
    if not events.answered:
        return requests, requests.slice(0, 0)
    answer_N, time_N = (_optional(events.columns[name], place_N) for name in (ANSWER, ANSWERED))
    found.answers += len(answer_N) - answer_N.null_count
    answered_R = np.bincount(owner_N, ~np.asarray(answer_N.is_null()), len(table)) > 0
    entries = _with(entries, {ANSWER: answer_N, ANSWERED: time_N})
    return requests, _chosen(table, answered_R, entries, kept_N & answered_R[owner_N], owner_N)


def _check_once(request_N: NDArray[np.int64], item_N: NDArray[np.int64], schema: FeatureSchema) -> None:
    order = np.lexsort((item_N, request_N))
    same = (np.diff(request_N[order]) == 0) & (np.diff(item_N[order]) == 0)
    if same.any():
        twice = order[np.flatnonzero(same)[0]]
        raise UserError(
            f"request {request_N[twice]}: {schema.item} {item_N[twice]} is there twice, so its outcomes cannot be "
            "told apart: remove one"
        )


def _of(column_K: NDArray[Any], place_N: NDArray[np.int64]) -> NDArray[Any]:
    """The values of candidates; 0 where no row says more."""
    found_N = np.zeros(len(place_N), column_K.dtype)
    found_N[place_N >= 0] = column_K[place_N[place_N >= 0]]
    return found_N


def _optional(column_K: NDArray[Any], place_N: NDArray[np.int64]) -> pa.Array:
    """The same of answers; null where there is none."""
    values_N = _of(np.ma.getdata(column_K), place_N)
    missing_N = _of(np.ma.getmaskarray(column_K), place_N).astype(np.bool_) | (place_N < 0)
    return pa.array(values_N, pa.int64(), mask=missing_N)


def _with(entries: pa.StructArray, columns: dict[str, pa.Array]) -> pa.StructArray:
    names = [field.name for field in entries.type]
    kept = {name: entries.field(name) for name in names if name not in columns}
    both = {**kept, **columns}
    return pa.StructArray.from_arrays(list(both.values()), names=list(both))


def _chosen(
    table: pa.Table,
    chosen_R: NDArray[np.bool_],
    entries: pa.StructArray,
    kept_N: NDArray[np.bool_],
    owner_N: NDArray[np.int64],
) -> pa.Table:
    """Some requests with some of their candidates."""
    length_R = np.bincount(owner_N[kept_N], minlength=len(table))[chosen_R]
    offsets = np.concatenate([[0], np.cumsum(length_R)]).astype(np.int32)
    lists = pa.ListArray.from_arrays(offsets, entries.filter(pa.array(kept_N)))
    place = table.schema.get_field_index(CANDIDATES)
    return table.filter(pa.array(chosen_R)).set_column(place, CANDIDATES, lists)


def _summary(out: Path, found: Joined, events: ImpressionEvents) -> str:
    unmatched = len(events.request_K) - found.matched
    lines = [
        f"{out}: {found.requests:,} requests with {found.candidates:,} candidates, {found.answers:,} answers",
        f"  {found.matched:,} impressions of the table were served, {unmatched:,} were not found among the requests",
    ]
    if found.repeats:
        lines.append(f"  {found.repeats:,} repeats of requests are left out; the last of each is kept")
    if found.not_shown:
        lines.append(
            f"  {found.not_shown:,} candidates were not shown and are left out, and so are {found.empty:,} requests "
            "without any other"
        )
    return "\n".join(lines)
