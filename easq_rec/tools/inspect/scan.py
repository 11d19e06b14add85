"""The figures of one dataset, from one query per list and a few over single columns."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from tqdm import tqdm

from easq_rec.config.answer_scale import THREE_ANSWERS, AnswerScale
from easq_rec.data import files
from easq_rec.data.dataset import TIME
from easq_rec.tools.builder.sql import identifier
from easq_rec.tools.inspect.column import LISTS, ColumnStats, Kind, is_counted
from easq_rec.tools.inspect.lengths import Lengths
from easq_rec.tools.inspect.links import strongest_links
from easq_rec.tools.inspect.sql_dataset import FILE, REQUEST_MS, ROW, ROW_GROUP, Relation, SqlDataset, struct
from easq_rec.tools.inspect.stages import Stages, stage_figures

WIDTHS = {
    1_000: "second",
    10_000: "10 seconds",
    60_000: "minute",
    600_000: "10 minutes",
    3_600_000: "hour",
    21_600_000: "6 hours",
    86_400_000: "day",
    604_800_000: "week",
}
"""Widths of spans of time in milliseconds, and their names. Wider spans are 10, 100, ... weeks."""
SPANS = 400
"""Spans of time in which requests are counted, at most."""


@dataclass(frozen=True, kw_only=True)
class Spans:
    """Requests in spans of time of equal width, without gaps."""

    start_ms: int
    """Of the first span."""
    width_ms: int
    counts: list[int]


@dataclass(frozen=True, kw_only=True)
class Disorder:
    """Rows and row groups that are out of the order of time."""

    rows: int
    """Rows that are earlier than the row before them in their row group."""
    row_groups: int
    """Row groups that begin before the previous row group, in the order of the files' names."""
    first: str | None
    """Place of the first such row group."""


@dataclass(frozen=True, kw_only=True)
class DatasetStats:
    """All figures of one dataset."""

    location: str
    files: int
    bytes: int
    group_rows: list[int]
    """Rows of every row group."""
    columns: dict[str, ColumnStats]
    """By path."""
    lengths: dict[str, Lengths]
    """By path, of lists of structs, history and candidates included."""
    null_structs: dict[str, int]
    """Null structs, lists of structs, and entries of such lists, by path; only paths that have some."""
    spans: Spans | None
    """None: there are no requests."""
    disorder: Disorder
    stages: Stages
    links: dict[str, tuple[str, float]]
    """By path, the outcome that a number of the candidates correlates with most, and the correlation."""

    @property
    def rows(self) -> int:
        return sum(self.group_rows)

    @property
    def candidates(self) -> int:
        return self.lengths["candidates"].entries


def scan(dataset: SqlDataset, *, answers: AnswerScale = THREE_ANSWERS, progress: bool = False) -> DatasetStats:
    """Reads a dataset. Raises UserError for damaged files."""
    figures: dict[str, dict[str, Any]] = {}
    lengths = {name: Lengths(counts={}) for name in ("history", "candidates")}
    nulls: dict[str, int] = {}
    stages = Stages(scale=answers)
    # disable=None: no bar unless there is a terminal.
    title = files.display_name(dataset.location)
    for relation in tqdm(dataset.relations, unit="list", desc=title, disable=None if progress else True):
        found = dataset.select(_queries(dataset, relation, answers), relation.sql)
        figures |= found.get("columns", {})
        lengths |= {path: Lengths.of(counts) for path, counts in found.get("lengths", {}).items()}
        nulls |= found.get("nulls", {})
        if "stages" in found:
            stages = Stages(scale=answers, **found["stages"])
    columns: dict[str, ColumnStats] = {}
    for path, kind in dataset.kinds.items():
        known = figures.get(path, {})
        if kind in LISTS:
            known |= {"nulls": known["nulls"] + nulls.pop(path), "lengths": lengths.pop(path)}
        columns[path] = ColumnStats(path=path, kind=kind, types=sorted(dataset.types[path]), **known)
    return DatasetStats(
        location=files.display_name(dataset.location),
        files=len(dataset.files),
        bytes=dataset.bytes,
        group_rows=list(chain.from_iterable(dataset.group_rows)),
        columns=columns,
        lengths=lengths,
        null_structs={path: null for path, null in nulls.items() if null},
        spans=_spans(dataset, columns[TIME]),
        disorder=_disorder(dataset),
        stages=stages,
        links=strongest_links(dataset, columns),
    )


def _queries(dataset: SqlDataset, relation: Relation, answers: AnswerScale) -> dict[str, str]:
    """SQL aggregates over a relation, as structs."""
    parts = {
        "columns": {
            path: _figures(expression, path, dataset.kinds[path]) for path, expression in relation.columns.items()
        },
        "lengths": {path: f"histogram(len({expression}))" for path, expression in relation.lists.items()},
        "nulls": {path: f"count(*) - count({what})" for path, what in (relation.lists | relation.structs).items()},
        "stages": stage_figures(relation, dataset.kinds, answers) if relation.path == "candidates" else {},
    }
    return {name: struct(fields) for name, fields in parts.items() if fields}


def _figures(expression: str, path: str, kind: Kind) -> str:
    """SQL of a struct with fields of `ColumnStats`."""
    floating = kind in ("float", "float_list")
    finite = f"{expression}::TINYINT" if kind == "boolean" else expression
    if floating:
        finite = f"CASE WHEN isfinite({expression}) THEN {expression} END"
    figures = {
        "values": f"count({expression})",
        "nulls": f"count(*) - count({expression})",
        "minimum": f"min({finite})",
        "maximum": f"max({finite})",
        "mean": f"avg(({finite})::DOUBLE)",
        "negative": f"count(*) FILTER ({finite} < 0)",
    }
    if floating:
        figures["nan"] = f"count(*) FILTER (isnan({expression}))"
        figures["infinite"] = f"count(*) FILTER (isinf({expression}))"
    if is_counted(path, kind):
        figures["distinct"] = f"count(DISTINCT {expression})"
    return struct(figures)


def _spans(dataset: SqlDataset, time: ColumnStats) -> Spans | None:
    if time.minimum is None or time.maximum is None:
        return None
    first, last = int(time.minimum), int(time.maximum)
    widths = chain(WIDTHS, (max(WIDTHS) * 10**power for power in count(1)))
    width = next(width for width in widths if last // width - first // width < SPANS)
    start = first // width * width
    rows = dataset.ask(
        f"SELECT ({identifier(TIME)}::HUGEINT - {start}) // {width} AS span, count(*) FROM {dataset.view} "
        f"WHERE span IS NOT NULL GROUP BY span"
    )
    counts = [0] * (last // width - first // width + 1)
    for span, requests in rows:
        counts[span] = requests
    return Spans(start_ms=start, width_ms=width, counts=counts)


def _disorder(dataset: SqlDataset) -> Disorder:
    # In Parquet, row groups and their rows have an order; SQL sees it in the numbers of file, row group and row.
    ((rows, row_groups, first),) = dataset.ask(f"""
        WITH timed AS (
            SELECT {FILE} AS file, {ROW_GROUP} AS row_group, {REQUEST_MS} AS time,
                   lag(time) OVER (PARTITION BY file, row_group ORDER BY {ROW}) AS previous
            FROM {dataset.view} WHERE {REQUEST_MS} IS NOT NULL
        ), grouped AS (
            SELECT file, row_group, count(*) FILTER (time < previous) AS late, min(time) AS start,
                   lag(start) OVER (ORDER BY file, row_group) AS previous_start
            FROM timed GROUP BY file, row_group
        )
        SELECT coalesce(sum(late), 0), count(*) FILTER (start < previous_start),
               min([file, row_group]) FILTER (start < previous_start)
        FROM grouped
    """)
    return Disorder(rows=int(rows), row_groups=row_groups, first=None if first is None else dataset.place(*first))
