"""Assigns answers to impressions under the declared rules."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from easq_rec.config.answer_scale import NO_ANSWER
from easq_rec.tools.builder.clean import ORPHAN
from easq_rec.tools.builder.config import AnswerRules
from easq_rec.tools.builder.quarantine import QuarantineFile, as_json
from easq_rec.tools.builder.versions import NONE, Int, Versions, joint_codes

KEYS = ("user_id", "request_id", "video_id", "timestamp_ms", "answer")
USED, LOST, EARLY, LATE, UNTRIGGERED, DUPLICATE, CONTRADICTORY = range(7)
REASONS = {
    LOST: ORPHAN,
    EARLY: "before its impression",
    LATE: "late",
    UNTRIGGERED: "its impression did not trigger",
    DUPLICATE: "duplicate",
    CONTRADICTORY: "contradictory",
}


@dataclass(frozen=True, kw_only=True)
class Impressions:
    """The impressions of a bucket that belong to a request; arrays are (n,)."""

    user: Int
    video: Int
    request: Int | None
    """The log's request id; None if answers have no request id."""
    timestamp_ms: Int
    triggered: NDArray[np.bool_]
    shown: NDArray[np.bool_] | None


@dataclass(frozen=True, kw_only=True)
class Replies:
    """The answer of each impression; arrays are (n,)."""

    answer: NDArray[np.int8]
    """NO_ANSWER or a code of the questionnaire's answers."""
    answered_at_ms: Int


def attribute(
    impressions: Impressions,
    answers: pa.Table | None,
    rules: AnswerRules | None,
    quarantine: QuarantineFile,
    counts: Counter[str],
) -> Replies:
    """Finds the impression of every answer; rejected answers go to the quarantine with the reason.

    Rules are applied in this order: no impression, before it, late, untriggered. The remaining answers to one
    impression are compared in time order (log order for equal times).
    """
    count = len(impressions.user)
    replies = Replies(answer=np.full(count, NO_ANSWER, np.int8), answered_at_ms=np.zeros(count, np.int64))
    if answers is None or rules is None or not len(answers):
        return replies
    column = {name: answers[name].to_numpy() for name in KEYS if name in answers.column_names}
    times, values = column["timestamp_ms"], column["answer"]
    at, verdict = _find(impressions, column)
    found = np.flatnonzero(verdict == USED)
    late = times[found] - impressions.timestamp_ms[at[found]] > rules.window_h * 3_600_000
    quiet = ~impressions.triggered[at[found]] & ~(late & (rules.late == "drop"))
    counts["answers.late"] += int(late.sum())
    counts["answers.untriggered"] += int(quiet.sum())
    if rules.untriggered == "drop":
        verdict[found[quiet]] = UNTRIGGERED
    if rules.late == "drop":
        verdict[found[late]] = LATE
    _settle(at, times, values, verdict, rules)
    for code, reason in REASONS.items():
        quarantine.add("answers", reason, as_json(answers, KEYS, np.flatnonzero(verdict == code)))
    used = np.flatnonzero(verdict == USED)
    replies.answer[at[used]] = values[used]
    replies.answered_at_ms[at[used]] = times[used]
    counts["answers.kept"] += len(used)
    if impressions.shown is not None:
        counts["answers.not_shown"] += int((~impressions.shown[at[used]]).sum())
    return replies


def _find(impressions: Impressions, column: dict[str, Int]) -> tuple[Int, NDArray[np.int8]]:
    """(impression or NONE, verdict so far) of every answer."""
    chosen = np.flatnonzero(np.isin(impressions.user, column["user_id"]))
    mine, theirs = [impressions.user[chosen], impressions.video[chosen]], [column["user_id"], column["video_id"]]
    began = impressions.timestamp_ms[chosen]
    if impressions.request is not None:
        mine.append(impressions.request[chosen])
        theirs.append(column["request_id"])
        left, right = joint_codes(mine, theirs)
        known = Versions(left)
        row = known.find(right)
        early = (row != NONE) & (began[row] > column["timestamp_ms"]) if len(began) else row != NONE
    else:
        left, right = joint_codes(mine, theirs)
        known = Versions(left, began)
        row = known.find(right, column["timestamp_ms"])
        early = (row == NONE) & known.has(right)
    verdict = np.where(early, EARLY, np.where(row == NONE, LOST, USED)).astype(np.int8)
    return np.where(row == NONE, NONE, chosen[row] if len(chosen) else NONE), verdict


def _settle(at: Int, times: Int, values: Int, verdict: NDArray[np.int8], rules: AnswerRules) -> None:
    """Keeps at most one answer per impression."""
    left = np.flatnonzero(verdict == USED)
    left = left[np.lexsort((times[left], at[left]))]
    if not len(left):
        return
    starts = np.flatnonzero(np.append(True, at[left][1:] != at[left][:-1]))
    sizes = np.diff(np.append(starts, len(left)))
    differ = np.minimum.reduceat(values[left], starts) != np.maximum.reduceat(values[left], starts)
    last = starts + sizes - 1
    winner = np.where(
        differ, last if rules.contradictory == "last" else starts, last if rules.duplicate == "last" else starts
    )
    lost = np.ones(len(left), np.bool_)
    lost[winner] = False
    if rules.contradictory == "drop":
        lost |= np.repeat(differ, sizes)
    code = np.repeat(np.where(differ, CONTRADICTORY, DUPLICATE), sizes)
    verdict[left[lost]] = code[lost]
