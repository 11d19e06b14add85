"""What a person reads of an inspection, and the same as plain values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from easq_rec.data import files
from easq_rec.data.dataset import TIME
from easq_rec.data.timestamp_units import day, time_unit, unit_problem
from easq_rec.data.writer import ROW_GROUP
from easq_rec.tools.inspect.checks import Duplicates, Refusals
from easq_rec.tools.inspect.column import ColumnStats
from easq_rec.tools.inspect.draft import Draft
from easq_rec.tools.inspect.scan import Scan
from easq_rec.tools.inspect.sketch import STANDARD_ERROR
from easq_rec.tools.inspect.stages import Stages

FEW_ROWS, MANY_ROWS = ROW_GROUP // 8, ROW_GROUP * 8
"""Median rows of a row group below or above which the reader suffers."""
ASKED = 8
"""Row groups in a shuffle window (the default of data.shuffle_row_groups)."""
SHORT_MS = 1_000
"""No video is so short that the longest of all is: then the column holds seconds."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Everything that was found."""

    scans: dict[str, Scan]
    """By dataset: requests, answers; requests comes first and is always there."""
    duplicates: dict[str, Duplicates | None]
    refusals: dict[str, Refusals] | None
    """None: no schema was given."""
    draft: Draft

    @property
    def requests(self) -> Scan:
        return next(iter(self.scans.values()))

    @property
    def stages(self) -> Stages:
        """Triggered and shown as the requests have it, answers as the answers do, where there are any."""
        first, last = self.requests.stages, list(self.scans.values())[-1].stages
        return Stages(
            scale=last.scale,
            triggered=first.triggered,
            shown=first.shown,
            answers=last.answers,
            other_answers=last.other_answers,
            delays=last.delays,
            early=last.early,
        )

    def advice(self) -> list[str]:
        """What should be looked at, the worst first."""
        return [*self.draft.problems, *(f"{name}: {line}" for name in self.scans for line in self._advice(name))]

    def _advice(self, name: str) -> Iterator[str]:
        found, duplicates = self.scans[name], self.duplicates[name]
        if not found.rows:
            yield "holds no rows"
            return
        if duplicates is not None and duplicates.extra_rows:
            rest = (
                f"{duplicates.extra_rows:,} rows repeat the request_id of another, for instance {duplicates.examples}"
            )
            yield f"{rest}: the reader refuses those within a row group, and trains twice on the others"
        for path, count in found.null_structs.items():
            yield f"{path}: {count:,} nulls: the reader refuses those rows; write an empty list, or leave the row out"
        median = float(np.median(found.group_rows))
        if len(found.group_rows) > ASKED and median < FEW_ROWS:
            yield f"row groups of {median:,.0f} rows (median) read slowly and shuffle little: write about {ROW_GROUP:,}"
        if median > MANY_ROWS:
            why = f"take much memory, since a shuffle window holds {ASKED}"
            yield f"row groups of {median:,.0f} rows (median) {why}: write about {ROW_GROUP:,}"
        if found.unsorted_groups:
            yield f"{found.unsorted_groups:,} row groups begin before the one in front: data.shuffle=False refuses that"
        elif found.unsorted_rows:
            yield f"{found.unsorted_rows:,} rows are earlier than the row in front of them: not in the order of time"
        for path, column in found.columns.items():
            if column.minimum is None or column.maximum is None or column.kind != "integer":
                continue
            if column.name in (TIME, "answered_at_ms"):
                problem = unit_problem(path, int(column.minimum), int(column.maximum))
                if problem is not None:
                    yield problem
            elif column.name in ("duration_ms", "watch_ms") and 0 < column.maximum < SHORT_MS:
                yield f"{path}: the largest is {column.maximum:,} ms: these look like seconds; multiply by 1,000"
        yield from _stage_advice(found.stages)

    def values(self) -> dict[str, Any]:
        """As plain values, for report.json."""
        report: dict[str, Any] = {"advice": self.advice(), "datasets": {}}
        for name, found in self.scans.items():
            duplicates = self.duplicates[name]
            time = found.columns[TIME]
            report["datasets"][name] = {
                "rows": found.rows,
                "files": len(found.files),
                "bytes": found.bytes,
                "row_groups": found.row_groups,
                "row_group_rows": _spread(found.group_rows),
                "first_ms": time.minimum,
                "last_ms": time.maximum,
                "unsorted_rows": found.unsorted_rows,
                "unsorted_row_groups": found.unsorted_groups,
                "duplicate_rows": None if duplicates is None else duplicates.extra_rows,
                "null_structs": found.null_structs,
                "candidates": found.lengths["candidates"].summary(),
                "history": found.lengths["history"].summary(),
                "columns": {path: column.summary() for path, column in found.columns.items()},
            }
        report["questionnaire"] = self.stages.summary(self.requests.candidates)
        report["left_out"] = self.draft.left_out
        if self.refusals is not None:
            report["refusals"] = {name: refusals.summary() for name, refusals in self.refusals.items()}
        return report


def _stage_advice(stages: Stages) -> Iterator[str]:
    if stages.other_answers:
        other = f"candidates.answer: {stages.other_answers:,} codes other than {stages.scale.expected}"
        yield f"{other}: the reader refuses those rows"
    if stages.early:
        yield f"candidates.answered_at_ms: {stages.early:,} answers are earlier than their request or have no time"


def text(found: Inspection) -> str:
    """The report, as aligned text without colours."""
    lines = []
    for name, scan in found.scans.items():
        lines += [*_dataset(name, scan, found.duplicates[name]), ""]
    requests = found.requests
    lines += _section("Ids and other integers", _integers(requests, found.draft))
    lines += [f"  * estimated, standard error {STANDARD_ERROR:.1%}", ""] if _estimated(requests) else [""]
    lines += [*_section("Numbers", _numbers(requests)), ""]
    lines += [*_section("Outcomes and other columns of 0 and 1", _rates(requests)), ""]
    lines += [*_section("Questionnaire", _stages(found)), ""]
    others = [c for c in requests.columns.values() if c.kind == "other"]
    if others:
        lines += ["Not read", *(f"  {c.path}: {', '.join(sorted(c.types))}" for c in others), ""]
    if found.refusals is not None:
        lines += ["With the given schema", *(f"  {line}" for line in _refused(found.refusals)), ""]
    advice = found.advice()
    lines += ["To look at", *(f"  - {line}" for line in advice)] if advice else ["Nothing to complain of."]
    return "\n".join(lines)


def _dataset(name: str, scan: Scan, duplicates: Duplicates | None) -> list[str]:
    groups, time = _spread(scan.group_rows), scan.columns[TIME]
    repeated = "unknown: no integer column request_id"
    if duplicates is not None:
        repeated = f"{duplicates.extra_rows:,} rows"
    pairs = [
        ("rows", f"{scan.rows:,}"),
        ("files", f"{len(scan.files):,}, {_size(scan.bytes)}"),
        ("row groups", f"{scan.row_groups:,}; rows of one: " + ", ".join(f"{k} {v:,}" for k, v in groups.items())),
        ("time", _time(time, scan)),
        ("repeated ids", repeated),
    ]
    lines = [f"{name} ({files.shown(scan.directory)})", *_aligned([[key, value] for key, value in pairs], left=2)]
    rows = []
    for which in ("candidates", "history"):
        s = scan.lengths[which].summary()
        quantiles = [f"{s[key]:,.0f}" for key in ("min", "median", "p95", "max")]
        rows.append([which, *quantiles, f"{s['mean']:,.1f}", f"{s['empty']:.1%}"])
    return [*lines, *_aligned([["per request", "min", "median", "p95", "max", "mean", "empty"], *rows])]


def _integers(scan: Scan, draft: Draft) -> list[list[str]]:
    rows = [["column", "type", "nulls", "distinct", "min", "max", "negative", "id space", "table", "rows"]]
    for column in scan.columns.values():
        if column.kind not in ("integer", "list") or column.binary:
            continue
        distinct = f"{column.distinct.count():,}{'' if column.distinct.exact else '*'}" if column.counted else "-"
        table = draft.tables.get(draft.table_of.get(column.path, ""))
        suggested = ["-"] * 3 if table is None else [table.id_space, table.name, f"{table.rows:,}"]
        bounds = [_number(column.minimum), _number(column.maximum), f"{column.negative:,}"]
        rows.append([column.path, _types(column), f"{column.nulls:,}", distinct, *bounds, *suggested])
    return rows


def _numbers(scan: Scan) -> list[list[str]]:
    rows = [["column", "type", "nulls", "NaN", "inf", "min", "mean", "max"]]
    for column in scan.columns.values():
        if column.kind == "float":
            counts = [f"{column.nulls:,}", f"{column.nan:,}", f"{column.infinite:,}"]
            spread = [_number(column.minimum), _number(column.mean), _number(column.maximum)]
            rows.append([column.path, _types(column), *counts, *spread])
    return rows


def _rates(scan: Scan) -> list[list[str]]:
    rows = [["column", "type", "nulls", "rate"]]
    for column in scan.columns.values():
        if column.binary:
            rate = "-" if column.mean is None else f"{column.mean:.3%}"
            rows.append([column.path, _types(column), f"{column.nulls:,}", rate])
    return rows


def _stages(found: Inspection) -> list[list[str]]:
    stages, impressions = found.stages, found.requests.candidates
    rows = [["stage", "impressions", "of the stage before"], ["impressions", f"{impressions:,}", "-"]]
    before = impressions
    for name, count in (("triggered", stages.triggered), ("shown", stages.shown)):
        if count is None:
            missing = "watch_ms or duration_ms" if name == "triggered" else "shown"
            rows.append([name, "-", f"unknown: no column {missing}"])
        else:
            rows.append([name, f"{count:,}", _share(count, before)])
            before = count
    if stages.answers is None:
        rows.append(["answered", "-", "no column answer"])
        return rows
    answered = sum(stages.answers)
    rows.append(["answered", f"{answered:,}", _share(answered, before)])
    rows += [
        [f"  {name}", f"{n:,}", _share(n, answered)] for name, n in zip(stages.scale.names, stages.answers, strict=True)
    ]
    delays = [stages.delays.quantile(share) for share in (0.5, 0.95)]
    if delays[0] is not None and delays[1] is not None:
        rows.append(["delay", f"median {_duration(delays[0])}", f"p95 {_duration(delays[1])}"])
    return rows


def _refused(refusals: dict[str, Refusals]) -> Iterator[str]:
    for name, refused in refusals.items():
        if not refused.any:
            yield f"{name}: every file and every row is accepted"
        for message in refused.files:
            yield from message.splitlines()
        for (column, expected), count in refused.bad_rows.most_common():
            yield f"{name}: {count:,} rows: {column}: expected {expected}; first {refused.first[column, expected]}"


# ---------------------------------------------------------------------------------------------------------------------
# Words and columns


def _section(title: str, rows: list[list[str]]) -> list[str]:
    return [title, *(_aligned(rows) if len(rows) > 1 else ["  none"])]


def _aligned(rows: list[list[str]], *, left: int = 1) -> list[str]:
    """Lines of a table; the first `left` columns and words are flush left, numbers flush right."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if index < left or rows[0][index] in ("type", "id space", "table") else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def _time(column: ColumnStats, scan: Scan) -> str:
    if column.minimum is None or column.maximum is None:
        return "none"
    first, last = int(column.minimum), int(column.maximum)
    ordered = "in order" if not scan.unsorted_rows and not scan.unsorted_groups else "not in order"
    unit = time_unit(first, last)
    if unit is None:
        return f"{first} to {last}, {ordered}"
    return f"{day(first, unit)} to {day(last, unit)} UTC, {ordered}"


def _spread(values: list[int]) -> dict[str, int]:
    return {
        "min": min(values, default=0),
        "median": int(np.median(values)) if values else 0,
        "max": max(values, default=0),
    }


def _estimated(scan: Scan) -> bool:
    return any(column.counted and not column.distinct.exact for column in scan.columns.values())


def _types(column: ColumnStats) -> str:
    return ", ".join(sorted(column.types)).replace("element: ", "").replace("item: ", "")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3%}" if whole else "-"


def _size(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def _duration(ms: float) -> str:
    for name, length in (("days", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if ms >= length:
            return f"{ms / length:,.1f} {name}"
    return f"{ms:,.0f} ms"
