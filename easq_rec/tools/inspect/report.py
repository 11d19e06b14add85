"""The report of an inspection, as text and as plain values for report.json."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from easq_rec.data.dataset import TIME
from easq_rec.data.timestamp_units import LATEST_S, day, time_unit, unit_problem
from easq_rec.data.writer import ROW_GROUP
from easq_rec.run_directory.formatting import NONE, duration, short
from easq_rec.tools.inspect.checks import Duplicates, Refusals
from easq_rec.tools.inspect.column import ColumnStats
from easq_rec.tools.inspect.draft import Draft
from easq_rec.tools.inspect.scan import DatasetStats
from easq_rec.tools.inspect.stages import Stages

FEW_ROWS, MANY_ROWS = ROW_GROUP // 8, ROW_GROUP * 8
"""Bounds of the median rows of a row group. Smaller groups read slowly, larger ones take much memory."""
TEXT = ("per request", "column", "stage", "type", "id space", "table", "outcome")
"""Columns of words, by title."""
ASKED = 8
"""Row groups in a shuffle window (the default of data.shuffle_row_groups)."""
EARLY_MS = 315_532_800_000
"""The beginning of 1980: public data sets are older than 2000."""
SHORT_MS = 1_000
"""If no video is longer than this, the column holds seconds."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Everything that was found."""

    datasets: dict[str, DatasetStats]
    """By name, requests first; answers may be missing. A dataset that is inspected by itself is the requests."""
    duplicates: dict[str, Duplicates | None]
    refusals: dict[str, Refusals]
    """Empty if no schema was given."""
    draft: Draft

    @property
    def requests(self) -> DatasetStats:
        return next(iter(self.datasets.values()))

    @property
    def stages(self) -> Stages:
        """Triggered and shown are those of the requests, answers those of the answers if there are any."""
        answers = list(self.datasets.values())[-1].stages
        return replace(answers, triggered=self.requests.stages.triggered, shown=self.requests.stages.shown)

    def advice(self) -> list[str]:
        """Problems that need attention, the worst first."""
        return [*self.draft.problems, *(f"{name}: {line}" for name in self.datasets for line in self._advice(name))]

    def _advice(self, name: str) -> Iterator[str]:
        found, duplicates = self.datasets[name], self.duplicates[name]
        if not found.rows:
            yield "holds no rows"
            return
        if duplicates is not None and duplicates.extra_rows:
            ids = ", ".join(map(str, duplicates.examples))
            first, places = next(iter(duplicates.examples.items()))
            yield (
                f"request_id: {duplicates.extra_rows:,} rows repeat the id of another row: {ids} (id {first} in "
                f"{' and '.join(places)}): the reader refuses repeats within a row group, and trains twice on others"
            )
        for path, count in found.null_structs.items():
            yield f"{path}: {count:,} nulls: the reader refuses those rows; write an empty list, or leave the row out"
        median = float(np.median(found.group_rows))
        if len(found.group_rows) > ASKED and median < FEW_ROWS:
            yield f"row groups of {median:,.0f} rows (median) read slowly and shuffle little: write about {ROW_GROUP:,}"
        if median > MANY_ROWS:
            why = f"take much memory, since a shuffle window holds {ASKED}"
            yield f"row groups of {median:,.0f} rows (median) {why}: write about {ROW_GROUP:,}"
        if found.disorder.row_groups:
            yield (
                f"{found.disorder.row_groups:,} row groups begin before the previous one, the first is "
                f"{found.disorder.first}: data.shuffle=False refuses that; name the files in the order of time"
            )
        elif found.disorder.rows:
            yield f"{found.disorder.rows:,} rows are earlier than the row before them: sort the rows by timestamp_ms"
        for path, column in found.columns.items():
            if column.minimum is None or column.maximum is None or column.kind != "integer":
                continue
            if column.name in (TIME, "answered_at_ms", "known_ms"):
                problem = unit_problem(path, int(column.minimum), int(column.maximum))
                if problem is not None:
                    yield problem
            elif column.name in ("duration_ms", "watch_ms") and 0 < column.maximum < SHORT_MS:
                yield f"{path}: the largest is {column.maximum:,} ms: these look like seconds: multiply by 1,000"
        yield from _stage_advice(found.stages)

    def values(self) -> dict[str, Any]:
        """Plain values for report.json."""
        return {
            "advice": self.advice(),
            "datasets": {name: asdict(stats) for name, stats in self.datasets.items()},
            "duplicates": {name: None if found is None else asdict(found) for name, found in self.duplicates.items()},
            "questionnaire": {"impressions": self.requests.candidates, **asdict(self.stages)},
            "tables": {
                name: {**asdict(table), "ids": self.draft.ids[name]} for name, table in self.draft.tables.items()
            },
            "left_out": self.draft.left_out,
            "refusals": None
            if self.refusals is None
            else {name: asdict(refused) for name, refused in self.refusals.items()},
        }


def _stage_advice(stages: Stages) -> Iterator[str]:
    if stages.other_answers:
        other = f"candidates.answer: {stages.other_answers:,} codes other than {stages.scale.expected}"
        yield f"{other}: the reader refuses those rows"
    if stages.early:
        yield f"candidates.answered_at_ms: {stages.early:,} answers are earlier than their request or have no time"


def text(found: Inspection) -> str:
    """The report, as aligned text without colours."""
    lines = []
    for name, stats in found.datasets.items():
        lines += [*_dataset(name, stats, found.duplicates[name]), ""]
    requests = found.requests
    lines += _section("Ids and other integers", _integers(requests, found.draft))
    lines += ["", *_section("Numbers", _numbers(requests)), ""]
    lines += [*_section("Outcomes and other columns of 0 and 1", _rates(requests)), ""]
    lines += [*_section("Numbers and the outcome that each correlates with most", _links(requests)), ""]
    lines += [*_section("Questionnaire", _stages(found)), ""]
    others = [c for c in requests.columns.values() if c.kind == "other"]
    if others:
        lines += ["Not read", *(f"  {c.path}: {', '.join(c.types)}" for c in others), ""]
    if found.refusals:
        lines += ["With the given schema", *(f"  {line}" for line in _refused(found.refusals)), ""]
    advice = found.advice()
    lines += ["To look at", *(f"  - {line}" for line in advice)] if advice else ["No problems found."]
    return "\n".join(lines)


def _dataset(name: str, stats: DatasetStats, duplicates: Duplicates | None) -> list[str]:
    low, median, high = np.quantile(stats.group_rows or [0], [0, 0.5, 1])
    repeated = "unknown: no integer column request_id" if duplicates is None else f"{duplicates.extra_rows:,} rows"
    facts = {
        "rows": f"{stats.rows:,}",
        "files": f"{stats.files:,}, {short(round(stats.bytes / 2**20, 2))} MiB",
        "row groups": f"{len(stats.group_rows):,} of {low:,.0f} to {high:,.0f} rows, median {median:,.0f}",
        "time": _time(stats),
        "repeated ids": repeated,
    }
    rows = [["per request", "min", "median", "p95", "max", "mean", "empty"]]
    for which in ("candidates", "history"):
        lengths = stats.lengths[which]
        quantiles = [f"{lengths.quantile(share):,}" for share in (0, 0.5, 0.95, 1)]
        rows.append([which, *quantiles, f"{lengths.mean:,.1f}", f"{lengths.empty:.1%}"])
    lines = [f"  {key.ljust(12)}  {value}" for key, value in facts.items()]
    return [f"{name} ({stats.location})", *lines, *_aligned(rows)]


def _integers(stats: DatasetStats, draft: Draft) -> list[list[str]]:
    rows = [["column", "type", "nulls", "distinct", "min", "max", "negative", "id space", "table", "rows"]]
    for column in stats.columns.values():
        if column.kind not in ("integer", "list") or column.binary:
            continue
        distinct = NONE if column.distinct is None else f"{column.distinct:,}"
        table = draft.tables.get(draft.table_of.get(column.path, ""))
        suggested = [NONE] * 3 if table is None else [table.id_space, table.name, f"{table.rows:,}"]
        bounds = [short(column.minimum), short(column.maximum), f"{column.negative:,}"]
        rows.append([column.path, _types(column), f"{column.nulls:,}", distinct, *bounds, *suggested])
    return rows


def _numbers(stats: DatasetStats) -> list[list[str]]:
    rows = [["column", "type", "nulls", "NaN", "inf", "min", "mean", "max"]]
    for column in stats.columns.values():
        if column.kind in ("float", "float_list"):
            counts = [f"{column.nulls:,}", f"{column.nan:,}", f"{column.infinite:,}"]
            spread = [short(column.minimum), short(column.mean), short(column.maximum)]
            rows.append([column.path, _types(column), *counts, *spread])
    return rows


def _links(stats: DatasetStats) -> list[list[str]]:
    links = sorted(stats.links.items(), key=lambda item: -abs(item[1][1]))
    rows = [[path, outcome, f"{correlation:.2f}"] for path, (outcome, correlation) in links]
    return [["column", "outcome", "correlation"], *rows]


def _rates(stats: DatasetStats) -> list[list[str]]:
    rows = [["column", "type", "nulls", "rate"]]
    for column in stats.columns.values():
        if column.binary:
            rate = NONE if column.mean is None else f"{column.mean:.3%}"
            rows.append([column.path, _types(column), f"{column.nulls:,}", rate])
    return rows


def _stages(found: Inspection) -> list[list[str]]:
    stages, impressions = found.stages, found.requests.candidates
    rows = [["stage", "impressions", "of the stage before"], ["impressions", f"{impressions:,}", NONE]]
    before = impressions
    for name, count in (("triggered", stages.triggered), ("shown", stages.shown)):
        if count is None:
            missing = "watch_ms or duration_ms" if name == "triggered" else "shown"
            rows.append([name, NONE, f"unknown: no column {missing}"])
        else:
            rows.append([name, f"{count:,}", _share(count, before)])
            before = count
    if stages.answers is None:
        rows.append(["answered", NONE, "no column answer"])
        return rows
    answered = sum(stages.answers.values())
    rows.append(["answered", f"{answered:,}", _share(answered, before)])
    rows += [[f"  {name}", f"{n:,}", _share(n, answered)] for name, n in stages.answers.items()]
    if stages.delays is not None:
        median, p95 = (f"≈{duration(delay / 1_000)}" for delay in stages.delays)
        rows.append(["delay", f"median {median}", f"p95 {p95}"])
    return rows


def _refused(refusals: dict[str, Refusals]) -> Iterator[str]:
    for name, refused in refusals.items():
        if refused.columns is None and not refused.rows:
            yield f"{name}: every file and every row is accepted"
        if refused.columns is not None:
            yield from refused.columns.splitlines()
        for bad in refused.rows:
            yield f"{name}: {bad.rows:,} rows: {bad.column}: expected {bad.expected}; first {bad.first}"


# ---------------------------------------------------------------------------------------------------------------------
# Alignment, and values as words


def _section(title: str, rows: list[list[str]]) -> list[str]:
    return [title, *(_aligned(rows) if len(rows) > 1 else ["  none"])]


def _aligned(rows: list[list[str]]) -> list[str]:
    """Lines of a table with its titles in the first row. Words are flush left, numbers flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    words = [title in TEXT for title in rows[0]]
    cells = [
        [cell.ljust(width) if left else cell.rjust(width) for cell, width, left in zip(row, widths, words, strict=True)]
        for row in rows
    ]
    return ["  " + "  ".join(row).rstrip() for row in cells]


def clock(first: int, last: int) -> str | None:
    """The unit of points in time. Milliseconds may lie in 1980 to 2099, other units in 2000 to 2099; None: unknown."""
    return "milliseconds" if first >= EARLY_MS and last < LATEST_S * 1_000 else time_unit(first, last)


def _time(stats: DatasetStats) -> str:
    column = stats.columns[TIME]
    if column.minimum is None or column.maximum is None:
        return "none"
    first, last = int(column.minimum), int(column.maximum)
    order = "not in order" if stats.disorder.rows or stats.disorder.row_groups else "in order"
    unit = clock(first, last)
    span = f"{first} to {last}" if unit is None else f"{day(first, unit)} to {day(last, unit)} UTC"
    return f"{span}, {order}"


def _types(column: ColumnStats) -> str:
    return ", ".join(column.types).replace("element: ", "").replace("item: ", "")


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3%}" if whole else NONE
