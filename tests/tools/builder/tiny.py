"""Builds of a single table of impressions, for what one cell, one file or one column becomes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.tools.builder.logs import merge, read_rows, run_build

START_S = 1_767_225_600
START_MS = START_S * 1_000
"""2026-01-01T00:00:00Z."""
HEADER = "user,video,at,watched,length"
ROW: dict[str, Any] = {"user": 7, "video": 101, "at": START_S, "watched": 8, "length": 20}


def config(**changes: Any) -> dict[str, Any]:
    """The parsed TOML of a build of one table, in seconds. `changes` are merged as in `logs.merge`."""
    names = {"user_id": "user", "video_id": "video", "timestamp": "at", "watch": "watched", "duration": "length"}
    units = {"time_unit": "s", "watch_unit": "s", "duration_unit": "s"}
    values: dict[str, Any] = {"impressions": {"path": "imp.csv", "columns": names, **units}}
    values |= {"max_bad_share": 1.0, "engine": {"memory_mb": 256, "threads": 1}}
    # A request for each impression.
    values["requests"] = {"max_candidates": 1}
    merge(values, changes)
    return values


def lines(count: int, *, first: int = 0) -> str:
    """CSV rows of impressions, one a minute."""
    return "".join(f"7,{101 + n},{START_S + 60 * n},8,20\n" for n in range(first, first + count))


def write_rows(file: Path, rows: list[dict[str, Any]], *, delimiter: str = ",") -> None:
    """Writes CSV whose cells are the values' texts, without quotes."""
    names = list(rows[0])
    text = [delimiter.join(names), *(delimiter.join(str(row[name]) for name in names) for row in rows)]
    file.write_text("\n".join(text) + "\n", encoding="utf-8", newline="")


def write_parquet(file: Path, columns: dict[str, Any]) -> None:
    """Writes Parquet of arrays; columns of `ROW` that are not given have its values."""
    count = len(next(iter(columns.values())))
    ready = {name: pa.array([value] * count) for name, value in ROW.items()} | columns
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(ready), file)


def build(folder: Path, values: dict[str, Any], out: str = "out") -> tuple[list[dict[str, Any]], dict[str, int]]:
    """(candidates with user_id and timestamp_ms of their request, in order of time; counts)."""
    target = run_build(folder, values, out=out)
    rows = [
        {"user_id": row["user_id"], "timestamp_ms": row["timestamp_ms"], **candidate}
        for row in read_rows(target / "requests")
        for candidate in row["candidates"]
    ]
    return rows, dict(json.loads((target / "build.json").read_text())["counts"])


def reasons(counts: dict[str, int], table: str = "impressions") -> dict[str, int]:
    """Quarantined rows of a table by reason."""
    prefix = f"{table}.quarantined."
    return {name.removeprefix(prefix): count for name, count in counts.items() if name.startswith(prefix)}
