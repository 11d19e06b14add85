"""The builder gives the same results as the reference implementation, on random logs with errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tools.builder.logs import (
    Row,
    build_of,
    config,
    quarantined,
    random_log,
    read_rows,
    run_build,
    sessions,
    write_log,
)
from tests.tools.builder.reference import reference

CASES: dict[str, dict[str, Any]] = {
    "request ids": config(),
    "sessions": sessions(),
    "a pause of nothing": sessions(requests={"session_gap_s": 0.0}),
    "answers by user, video and time": config(answers={"columns": {"request_id": None}}),
    "other rules": config(
        answers={"late": "keep", "duplicate": "last", "contradictory": "last", "untriggered": "drop"},
        requests={"history": "long_view", "max_history": 2},
    ),
    "first of contradictory answers": config(answers={"contradictory": "first", "window_h": 1.5}),
    "static tables": config(users={"columns": {"valid_from": None}}, videos={"columns": {"valid_from": None}}),
    "no history": config(requests={"max_history": 0}),
}


def without_made_up_ids(rows: list[Row], values: dict[str, Any]) -> list[Row]:
    """Rows in a canonical order, without the request ids of sessions, because the builder generates those."""
    if "request_id" not in values["impressions"]["columns"]:
        rows = [{**row, "request_id": None} for row in rows]
    return sorted(rows, key=lambda row: (row["timestamp_ms"], row["user_id"], row["candidates"][0]["slot"]))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_the_builder_equals_the_reference(tmp_path: Path, case: str, seed: int) -> None:
    values = CASES[case]
    log = random_log(seed)
    write_log(tmp_path, log)
    out = run_build(tmp_path, values)
    requests, answers, lost = reference(log, build_of(values))
    assert quarantined(out) == lost
    assert without_made_up_ids(read_rows(out / "requests"), values) == without_made_up_ids(requests, values)
    assert without_made_up_ids(read_rows(out / "answers"), values) == without_made_up_ids(answers, values)
    assert len(answers) > (5 if case != "other rules" else 1)


def test_the_random_logs_contain_every_case(tmp_path: Path) -> None:
    """Without full histories and these reasons for quarantine the comparison with the reference would prove little."""
    reasons = set()
    for values in CASES.values():
        for seed in range(3):
            requests, _, lost = reference(random_log(seed), build_of(values))
            reasons |= {reason for _, reason in lost}
            assert any(len(row["history"]) == values["requests"]["max_history"] > 0 for row in requests) or (
                values["requests"]["max_history"] == 0
            )
    assert reasons >= {
        "before its impression", "contradictory", "duplicate", "late", "orphan: no impression for it",
        "its impression did not trigger", "its user has no row at the request's time", "a later row has the same key",
        "its video has no row at the request's time", "watched is not a number", "watched is negative",
    }  # fmt: skip
