"""Rows from the future are bad rows, and the clock of the stream does not follow them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from easq_rec.config.follow import Follow
from easq_rec.data.bad_rows import BadRows
from easq_rec.data.layout import Layout
from easq_rec.data.quarantine import Quarantine
from easq_rec.data.stream.folder import FolderSource
from easq_rec.data.stream.future import FutureLimit
from easq_rec.data.stream.loader import start_state
from easq_rec.data.stream.planner import Planner
from easq_rec.errors import UserError
from easq_rec.training.follow.sources import open_streams
from tests.data.builders import SCHEMA, Row, arrow_schema, make_answers, make_rows, write_dataset
from tests.data.stream.test_follow_loader import config_of

CENTURY_MS = 100 * 365 * 86_400_000
NOW_S = 10_000.0
LIMIT = FutureLimit(60.0, now=lambda: NOW_S)
LATEST_MS = 10_060_000


def requests_of(rows: list[Row], folder: Path, *, answers: bool = False) -> Path:
    write_dataset(folder, rows, file_sizes=[100], row_group_sizes=[4], schema=arrow_schema(answers=answers))
    return folder


def source_of(folder: Path, *, answers: bool = False, quarantine: Quarantine | None = None) -> FolderSource:
    layout = Layout.of(SCHEMA, answers=answers)
    return FolderSource(folder, layout, max_history=50, quarantine=quarantine, limit=LIMIT)


def rows_until(latest_ms: int, count: int = 6) -> list[Row]:
    """Requests of which the last is at a time."""
    rows = make_rows(np.random.default_rng(0), count)
    for number, row in enumerate(rows):
        row["timestamp_ms"] = latest_ms - 1_000 * (count - 1 - number)
    return rows


def test_the_limit_itself_is_allowed(tmp_path: Path) -> None:
    source = source_of(requests_of(rows_until(LATEST_MS), tmp_path / "requests"))
    chunks = source.poll()
    assert [int(time) for chunk in chunks for time in chunk.time_ms][-1] == LATEST_MS
    for chunk in chunks:
        source.read(chunk.partition, chunk.offset)


def test_a_request_beyond_it_is_a_bad_row_with_its_place_and_remedy(tmp_path: Path) -> None:
    source = source_of(requests_of(rows_until(LATEST_MS + 1), tmp_path / "requests"))
    first, second = source.poll()
    assert second.time_ms.tolist() == [LATEST_MS - 999, -1], "the clock ignores a time that is refused"
    source.read("", first.offset)
    wanted = rf"row group 1, row 1, column timestamp_ms: found {LATEST_MS + 1}, expected .*follow\.most_ahead_minutes"
    with pytest.raises(BadRows, match=wanted):
        source.read("", second.offset)


def test_an_answer_beyond_it_is_a_bad_row(tmp_path: Path) -> None:
    rows = make_answers(np.random.default_rng(0), rows_until(LATEST_MS - 5_000, 4), delay_ms=1)
    answered = next(one for one in rows[2]["candidates"] if one["answer"] is not None)
    answered["answered_at_ms"] = LATEST_MS + 1
    quarantine = Quarantine(tmp_path / "quarantine")
    source = source_of(requests_of(rows, tmp_path / "answers", answers=True), answers=True, quarantine=quarantine)
    (chunk,) = source.poll()
    columns, placed = source.read("", chunk.offset)
    assert placed.tolist() == [0, 1, -1, 2] and len(columns) == 3
    assert quarantine.count() == 1


@pytest.mark.parametrize("minutes", [60.0, None])
def test_the_clock_of_a_run_ignores_a_request_of_the_next_century(tmp_path: Path, minutes: float | None) -> None:
    config = dataclasses.replace(config_of(), follow=Follow(source=str(tmp_path), most_ahead_minutes=minutes))
    rows = rows_until(1_700_000_000_000, 8)
    rows[2]["timestamp_ms"] += CENTURY_MS
    requests_of(rows, tmp_path / "requests")
    requests, answers = open_streams(config, None)
    plan = Planner(requests, answers, start_state(config), config.follow, rows=8).next_plan(5.0)
    assert sum(part.end - part.begin for part in plan.parts) == 8
    assert plan.clock_ms == (rows[-1] if minutes else rows[2])["timestamp_ms"]


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(UserError, match=r"follow\.most_ahead_minutes"):
        Follow(most_ahead_minutes=-1.0)
