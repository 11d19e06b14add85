"""The row of a request contains nothing from after the time of the request."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest

from tests.tools.builder.logs import (
    HOUR_MS,
    START_MS,
    Log,
    Row,
    config,
    random_log,
    read_rows,
    run_build,
    sessions,
    write_log,
)

PLANTED = 999_999
OUTCOMES = ("watch_ms", "long_view", "like", "rate")


def plant(log: Log, after_ms: int, seed: int) -> Log:
    """A copy of the log in which everything that was unknown at `after_ms` is different, in every table."""
    rng = random.Random(seed)
    planted = copy.deepcopy(log)
    for row in planted["users"]:
        if row["since"] > after_ms:
            row |= {"region": PLANTED, "likes": [PLANTED]}
    for row in planted["videos"]:
        if row["since"] > after_ms:
            row |= {"maker": PLANTED, "tags": [PLANTED], "length": PLANTED, "score": float(PLANTED)}
    ids = range(14)
    planted["users"] += [{"uid": i, "since": after_ms + 1, "region": PLANTED, "likes": [PLANTED]} for i in ids]
    new = {"maker": PLANTED, "length": PLANTED, "tags": [PLANTED], "score": 0.0}
    planted["videos"] += [{"vid": ident, "since": after_ms + 1, **new} for ident in ids]
    for row in planted["impressions"]:
        if row["at"] > after_ms:
            row["vid"] = rng.choice(ids)
        if row["at"] + row["watched"] > after_ms:
            # The impression is still running at `after_ms`, or starts later, so its outcome is unknown.
            row |= {"watched": row["watched"] + 4_321.0, "liked": not row["liked"]}
    for row in planted["answers"]:
        if row["at"] > after_ms:
            row["said"] = rng.choice(["bad", "good"])
    return planted


def seen(rows: list[Row], served_ms: dict[int, int], until_ms: int) -> list[dict[str, Any]]:
    """The inputs of a model until `until_ms`: the requests and candidates served by then, without outcomes."""
    names = ("video_id", "author_id", "tags", "quality", "duration_ms", "slot")
    found = []
    for row in rows:
        shown = [entry for entry in row["candidates"] if served_ms[entry["slot"]] <= until_ms]
        if shown and row["timestamp_ms"] <= until_ms:
            candidates = [{name: entry[name] for name in names} for entry in shown]
            found.append(
                {**{name: row[name] for name in ("user", "history", "timestamp_ms")}, "candidates": candidates}
            )
    return found


@pytest.mark.parametrize("values", [config(), sessions()], ids=["request ids", "sessions"])
@pytest.mark.parametrize("hours", [1.0, 1.7])
def test_requests_do_not_depend_on_later_events(tmp_path: Path, values: dict[str, Any], hours: float) -> None:
    log = random_log(5, impressions=200, bad=False)
    after_ms = START_MS + int(hours * HOUR_MS)
    served_ms = {row["slot"]: row["at"] for row in log["impressions"]}
    found, everything = [], []
    for name, one in (("a", log), ("b", plant(log, after_ms, 1)), ("c", plant(log, after_ms, 2))):
        write_log(tmp_path / name, one)
        everything.append(read_rows(run_build(tmp_path / name, values) / "requests"))
        found.append(seen(everything[-1], served_ms, after_ms))
    assert found[0] == found[1] == found[2]
    assert everything[0] != everything[1] != everything[2]
    assert len(found[0]) > 15 and any(row["history"] for row in found[0])


def test_planted_versions_are_not_used_before_their_time(tmp_path: Path) -> None:
    log = plant(random_log(6, impressions=200, bad=False), START_MS + 2 * HOUR_MS, 3)
    write_log(tmp_path, log)
    out = run_build(tmp_path, config())
    ends: dict[tuple[int, int], list[int]] = {}
    for row in log["impressions"]:
        ends.setdefault((row["uid"], row["vid"]), []).append(row["at"] + int(row["watched"]))
    later = 0
    for row in [*read_rows(out / "requests"), *read_rows(out / "answers")]:
        at = row["timestamp_ms"]
        planted = row["user"]["region"] == PLANTED or any(entry["author_id"] == PLANTED for entry in row["candidates"])
        later += planted
        assert not planted or at > START_MS + 2 * HOUR_MS
        began = [entry["timestamp_ms"] for entry in row["history"]]
        assert began == sorted(began)
        for entry in row["history"]:
            assert entry["timestamp_ms"] < at
            assert any(end <= at for end in ends[row["user_id"], entry["video_id"]])
        for entry in row["candidates"]:
            assert entry.get("answered_at_ms") is None or entry["answered_at_ms"] >= at
    assert later > 10, "the planted versions are used after their time"


def test_an_impression_enters_the_history_when_its_watch_ends(tmp_path: Path) -> None:
    """A watch that ends in the millisecond of a request is in its history; one that ends a millisecond later is not."""
    video = {"since": START_MS, "maker": 1, "length": 10_000, "tags": [], "score": 0.0}
    common = {"asked": 0, "liked": False, "rate": 0.0}
    rows = [
        {"uid": 1, "vid": 1, "at": START_MS, "watched": 5_000.0, "rid": 1, "slot": 0, **common},
        {"uid": 1, "vid": 2, "at": START_MS + 4_999, "watched": 0.0, "rid": 2, "slot": 1, **common},
        {"uid": 1, "vid": 3, "at": START_MS + 5_000, "watched": 1.0, "rid": 3, "slot": 2, **common},
    ]
    user = {"uid": 1, "since": START_MS, "region": 1, "likes": []}
    log = {"impressions": rows, "answers": [], "users": [user], "videos": [{"vid": v, **video} for v in (1, 2, 3)]}
    write_log(tmp_path, log)
    requests = read_rows(run_build(tmp_path, config()) / "requests")
    assert [[entry["video_id"] for entry in row["history"]] for row in requests] == [[], [], [1]]
