"""A reference implementation of the builder in plain loops over rows, written independently of its code."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from easq_rec.tools.builder.config import Build
from tests.tools.builder.logs import Log, Row

Found = list[tuple[str, str]]


def reference(log: Log, build: Build) -> tuple[list[Row], list[Row], Found]:
    """Requests, answered requests, and (table, reason) of the quarantined rows, of a log of `logs.SCHEMAS`."""
    lost: Found = []
    assert build.users is not None and build.videos is not None
    users = versions(log["users"], "uid", bad_user, "users", lost, timed=build.users.columns.valid_from is not None)
    videos = versions(
        log["videos"], "vid", bad_video, "videos", lost, timed=build.videos.columns.valid_from is not None
    )
    shown = []
    for number, row in enumerate(log["impressions"]):
        reason = bad_impression(row)
        if reason:
            lost.append(("impressions", reason))
        else:
            shown.append({**row, "number": number, "watched": round(row["watched"])})
    groups = by_request(shown, lost) if build.impressions.columns.request_id else by_session(shown, build, lost)
    served = []
    for group in groups:
        at = min(row["at"] for row in group)
        user = as_of(users, group[0]["uid"], at)
        for row in group:
            row["video"] = as_of(videos, row["vid"], at)
            row["request_at"] = at
        if user is None:
            lost += [("impressions", "its user has no row at the request's time")] * len(group)
            continue
        kept = [row for row in group if row["video"] is not None]
        lost += [("impressions", "its video has no row at the request's time")] * (len(group) - len(kept))
        if kept:
            served.append({"at": at, "user": user, "rows": kept})
    everything = [row for request in served for row in request["rows"]]
    attribute(log["answers"], everything, build, lost)
    requests, answered = [], []
    for request in sorted(served, key=lambda r: (r["at"], r["rows"][0]["rid"])):
        row = as_request(request, everything, build, answers=False)
        requests.append(row)
        if any("answer" in entry for entry in request["rows"]):
            answered.append(as_request(request, everything, build, answers=True))
    return requests, answered, sorted(lost)


def bad_impression(row: Row) -> str | None:
    if row["uid"] is None:
        return "uid is null"
    if math.isnan(row["watched"]):
        return "watched is not a number"
    if row["watched"] < 0:
        return "watched is negative"
    return "slot is null" if row["slot"] is None else None


def bad_user(row: Row) -> str | None:
    return "region is null" if row["region"] is None else None


def bad_video(row: Row) -> str | None:
    if row["vid"] is None:
        return "vid is null"
    return "length is less than 1 ms" if row["length"] == 0 else None


def versions(
    rows: list[Row], key: str, bad: Any, table: str, lost: Found, *, timed: bool
) -> dict[int, list[tuple[float, Row]]]:
    """Valid rows by key, each with its start time, oldest first. Of rows with equal times only the last is kept."""
    found: dict[int, dict[float, Row]] = {}
    for row in rows:
        reason = bad(row)
        if reason:
            lost.append((table, reason))
            continue
        since = row["since"] if timed else -math.inf
        if since in found.setdefault(row[key], {}):
            lost.append((table, "a later row has the same key"))
        found[row[key]][since] = row
    return {ident: sorted(rows_of.items(), key=lambda item: item[0]) for ident, rows_of in found.items()}


def as_of(table: dict[int, list[tuple[float, Row]]], key: int, at: int) -> Row | None:
    before = [row for since, row in table.get(key, []) if since <= at]
    return before[-1] if before else None


def by_request(rows: list[Row], lost: Found) -> list[list[Row]]:
    groups: dict[tuple[int, int], list[Row]] = {}
    for row in sorted(rows, key=lambda r: (r["at"], r["number"])):
        group = groups.setdefault((row["uid"], row["rid"]), [])
        if any(other["vid"] == row["vid"] for other in group):
            lost.append(("impressions", "duplicate"))
        else:
            group.append(row)
    return list(groups.values())


def by_session(rows: list[Row], build: Build, lost: Found) -> list[list[Row]]:
    groups: list[list[Row]] = []
    for user in sorted({row["uid"] for row in rows}):
        before: Row | None = None
        seen: list[Row] = []
        for row in sorted((r for r in rows if r["uid"] == user), key=lambda r: (r["at"], r["number"])):
            pause = before is not None and row["at"] - before["at"] > build.requests.session_gap_s * 1_000
            fresh = before is None or pause
            before = row
            if fresh:
                seen = []
            if any(other["vid"] == row["vid"] and other["at"] == row["at"] for other in seen):
                lost.append(("impressions", "duplicate"))
                continue
            seen.append(row)
            if fresh or len(groups[-1]) == build.requests.max_candidates:
                groups.append([])
            groups[-1].append(row)
    return groups


def triggered(row: Row) -> bool:
    return bool(row["watched"] > 7_000 or row["watched"] > 0.5 * row["video"]["length"])


def attribute(answers: list[Row], shown: list[Row], build: Build, lost: Found) -> None:
    """Adds `answer` and `answered_at` to the answered impressions."""
    rules = build.answers
    assert rules is not None
    about: dict[int, list[Row]] = {}
    for row in answers:
        verdict, target = judge(row, shown, build)
        if verdict:
            lost.append(("answers", verdict))
        else:
            assert target is not None
            about.setdefault(target["number"], []).append(row)
    for target in shown:
        replies = sorted(about.get(target["number"], []), key=lambda r: r["at"])
        if not replies:
            continue
        same = len({reply["said"] for reply in replies}) == 1
        rule = rules.duplicate if same else rules.contradictory
        lost += [("answers", "duplicate" if same else "contradictory")] * (len(replies) - (rule != "drop"))
        if rule != "drop":
            winner = replies[0] if rule == "first" else replies[-1]
            target["answer"] = build.questionnaire.codes[winner["said"]]
            target["answered_at"] = winner["at"]


def judge(row: Row, shown: list[Row], build: Build) -> tuple[str | None, Row | None]:
    rules = build.answers
    assert rules is not None
    if row["vid"] is None:
        return "vid is null", None
    if row["said"] not in build.questionnaire.codes:
        return "said is not an option of the questionnaire", None
    same = [other for other in shown if other["uid"] == row["uid"] and other["vid"] == row["vid"]]
    if rules.columns.request_id:
        same = [other for other in same if other["rid"] == row["rid"]]
    before = [other for other in same if other["at"] <= row["at"]]
    if not same:
        return "orphan: no impression for it", None
    if not before:
        return "before its impression", None
    target = max(before, key=lambda other: other["at"])
    if row["at"] - target["at"] > rules.window_h * 3_600_000 and rules.late == "drop":
        return "late", None
    if not triggered(target) and rules.untriggered == "drop":
        return "its impression did not trigger", None
    return None, target


def as_request(request: Row, everything: list[Row], build: Build, *, answers: bool) -> Row:
    first, at = request["rows"][0], request["at"]
    past = []
    for row in everything:
        counts = triggered(row) if build.requests.history == "long_view" else row["watched"] > 0
        if row["uid"] == first["uid"] and counts and row["at"] + row["watched"] <= at:
            past.append(row)
    past.sort(key=lambda r: (r["at"] + r["watched"], r["at"], order_of(r, build)))
    past = past[max(len(past) - build.requests.max_history, 0) :]
    past.sort(key=lambda r: r["at"])
    return {
        "request_id": first["rid"],
        "user_id": first["uid"],
        "timestamp_ms": at,
        "user": {"region": request["user"]["region"], "likes": request["user"]["likes"]},
        "history": [
            {"video_id": r["vid"], "author_id": r["video"]["maker"], "timestamp_ms": r["at"], "watch_ratio": ratio(r)}
            for r in past
        ],
        "candidates": [candidate(row, answers=answers) for row in request["rows"]],
    }


def order_of(row: Row, build: Build) -> tuple[int, ...]:
    """Sort key of history entries with equal times: the order of requests, then of the log."""
    return (row["rid"], row["number"]) if build.impressions.columns.request_id else (row["number"],)


def candidate(row: Row, *, answers: bool) -> Row:
    made = {
        "video_id": row["vid"],
        "author_id": row["video"]["maker"],
        "tags": row["video"]["tags"],
        "quality": float(np.float32(row["video"]["score"])),
        "duration_ms": row["video"]["length"],
        "slot": row["slot"],
        "watch_ms": row["watched"],
        "known_ms": row["at"] + row["watched"],
        "long_view": int(triggered(row)),
        "like": int(row["liked"]),
        "rate": float(np.float32(row["rate"])),
    }
    return {**made, "answer": row.get("answer"), "answered_at_ms": row.get("answered_at")} if answers else made


def ratio(row: Row) -> float:
    return float(np.float32(row["watched"] / row["video"]["length"]))
