"""Counts the answers, and the impressions that could have been answered, of a training period by their outcomes.

Legend: N candidates, O outcomes.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from easq_rec.answers.propensity import Happened, Propensities, count_patterns
from easq_rec.config.answer_scale import NO_ANSWER
from easq_rec.config.schema import FeatureSchema
from easq_rec.data.columns import Ragged
from easq_rec.data.dataset import Period, RequestDataset
from easq_rec.data.encode import EncodedRequests, outcome_key
from easq_rec.data.kinds import Column
from easq_rec.data.layout import Layout


def outcome_layout(schema: FeatureSchema) -> Layout:
    """The columns of requests that `propensities` reads."""
    ids = ("request_id", "timestamp_ms", "history.timestamp_ms")
    kinds = {outcome.name: "flag" if outcome.kind == "binary" else "amount" for outcome in schema.outcomes}
    columns = [Column(path=path, kind="id") for path in ids]
    columns += [Column(path=f"candidates.{name}", kind=kind) for name, kind in kinds.items()]  # type: ignore[arg-type]
    return Layout(schema=schema, columns=tuple(columns))


def propensities(
    requests: RequestDataset, answers: EncodedRequests | None, period: Period, *, most: float
) -> Propensities:
    """Propensities of answers to the requests of a training period. Every rank reads all of them, and finds the same.

    Args:
        requests, answers, period: as of `count_responses`.
        most: bound on a weight.
    """
    answered, triggered = count_responses(requests, answers, period)
    return Propensities(answered, triggered, most=most)


def count_responses(
    requests: RequestDataset, answers: EncodedRequests | None, period: Period
) -> tuple[Counter[int], Counter[int]]:
    """(answered, triggered) impressions by the pattern of their outcomes.

    Args:
        requests: the requests of the period, opened with `outcome_layout`.
        answers: the answers dataset. Only answers of the period to its requests count, whatever the answer is.
    """
    schema = requests.layout.schema
    names, trigger = [outcome.name for outcome in schema.outcomes], schema.trigger_index
    triggered: Counter[int] = Counter()
    for group in requests.row_groups:
        if group.kept:
            happened_NO = _happened(requests.read(group).candidates, names)
            triggered += count_patterns(happened_NO if trigger is None else happened_NO[happened_NO[:, trigger]])
    if answers is None:
        return Counter(), triggered
    candidates = answers.candidates
    asked_ms = np.repeat(answers.timestamp_ms, candidates.lengths)
    given_N = (candidates.column("answer") != NO_ANSWER) & (candidates.column("answered_at_ms") < period.end_ms)
    given_N &= (period.start_ms <= asked_ms) & (asked_ms < period.end_ms)
    return count_patterns(_happened(candidates, [outcome_key(name) for name in names])[given_N]), triggered


def _happened(candidates: Ragged, columns: list[str]) -> Happened:
    """(N, O). NaN (an unknown outcome) is not above 0."""
    return np.stack([candidates.column(column) > 0 for column in columns], axis=1)
