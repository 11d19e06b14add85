"""Who answers, and after which behaviour.

Rates are over the impressions that the questionnaire may ask about: the triggered ones, or all where the log has no
watch times.

Shape suffixes: N impressions of a row group, U users, A answered impressions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from easq_rec.answers.questionnaire import Questionnaire
from easq_rec.data.columns import Array, Ragged, RequestColumns, Rows
from easq_rec.data.counts import Floats
from easq_rec.data.id_index import UNKNOWN, IdIndex
from easq_rec.evaluation.mean_interval import NORMAL, Estimate
from easq_rec.tools.studies.worth.answered import Answered
from easq_rec.tools.studies.worth.columns import (
    DURATION,
    USER,
    WATCH,
    WATCHED_SHARE,
    Chosen,
    as_rates,
    behaviour,
    ids_of,
)

MOST = 0.1
"""Share of the users, or of the items, that counts as the most active, or the most shown."""
QUARTERS = (0.25, 0.5, 0.75)
"""Limits between the patterns of the share watched."""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """Impressions with one behaviour."""

    behaviour: str
    value: str
    impressions: int
    answers: int
    relative: Estimate
    """Answers per impression, relative to those of all impressions: 1 is the average."""


@dataclass(frozen=True, kw_only=True)
class ResponderDifference:
    """A behaviour of the users who answer."""

    behaviour: str
    difference: Estimate
    """Mean over answers of the user's rate, minus the mean over impressions, in standard deviations between users. It
    is 0 if everybody answers equally often per impression."""


@dataclass(frozen=True, kw_only=True)
class Responders:
    """Who answers."""

    impressions: int
    """Impressions that may be asked about."""
    users: int
    """Users with such impressions."""
    answering: int
    """Users with answers."""
    triggered: bool
    """Whether only triggered impressions count."""
    of_users: tuple[float, float]
    """Shares of the answers, and of the impressions, that belong to the `MOST` most active users."""
    of_items: tuple[float, float]
    """The same of the most shown items."""
    patterns: list[Pattern]
    differences: list[ResponderDifference]


class AskedImpressions:
    """Sums over the impressions of a log, by user, by item and by pattern of behaviour."""

    def __init__(self, chosen: Chosen) -> None:
        self._chosen = chosen
        self._triggered = {WATCH, DURATION} <= {*chosen.times}
        # Per user the impressions, and the sum of each outcome.
        self._users = _Sums(1 + len(chosen.rates))
        self._items = _Sums(1)
        self._patterns: dict[tuple[str, str], int] = {}

    def add(self, requests: RequestColumns) -> None:
        """Adds the impressions of a row group."""
        rates, ids = as_rates(self._chosen, behaviour(self._chosen, requests)), ids_of(self._chosen, requests)
        asked = self._asked(requests)
        columns = np.stack([np.ones(len(asked)), *(rates[name][asked] for name in self._chosen.rates)], axis=1)
        self._users.add(_flat(ids[USER])[asked], columns)
        self._items.add(_flat(ids[self._chosen.schema.item])[asked], columns[:, :1])
        for name in self._chosen.rates:
            for value, count in _counted(name, rates[name][asked]).items():
                self._patterns[name, value] = self._patterns.get((name, value), 0) + count

    def _asked(self, requests: RequestColumns) -> Rows:
        """The impressions that may be asked about."""
        candidates = requests.candidates
        if not self._triggered:
            return np.arange(int(candidates.offsets[-1]))
        # Comparisons with NaN are false: an impression with unknown watch time is not triggered.
        return np.flatnonzero(Questionnaire().triggered(candidates.column(WATCH), candidates.column(DURATION)))

    def responders(self, answered: Answered) -> Responders:
        """Compares the answers with these impressions."""
        user_U = self._users.table()
        answers_U = self._users.counts(answered.user_A)
        items = _flat(answered.ids[self._chosen.schema.item])
        total = float(user_U[:, 0].sum())
        return Responders(
            impressions=int(total),
            users=int((user_U[:, 0] > 0).sum()),
            answering=len(np.unique(answered.user_A)),
            triggered=self._triggered,
            of_users=shares_of_most(answers_U, user_U[:, 0]),
            of_items=shares_of_most(self._items.counts(items), self._items.table()[:, 0]),
            patterns=self._pattern_rows(answered, total),
            differences=[
                ResponderDifference(behaviour=name, difference=found)
                for column, name in enumerate(self._chosen.rates, start=1)
                if (found := standardised(answers_U, user_U[:, 0], user_U[:, column])) is not None
            ],
        )

    def _pattern_rows(self, answered: Answered, total: float) -> list[Pattern]:
        rates = as_rates(self._chosen, dict(answered.behaviour))
        given = {name: _counted(name, rates[name]) for name in self._chosen.rates}
        rows = []
        for (name, value), impressions in sorted(
            self._patterns.items(), key=lambda one: self._chosen.rates.index(one[0][0])
        ):
            answers = given[name].get(value, 0)
            if not impressions:
                continue
            rows.append(
                Pattern(
                    behaviour=name,
                    value=value,
                    impressions=impressions,
                    answers=answers,
                    relative=_relative(answers, len(answered), impressions, total),
                )
            )
        return rows


class _Sums:
    """Sums of some columns by id."""

    def __init__(self, width: int) -> None:
        self._index = IdIndex()
        self._sums: Floats = np.zeros((0, width))

    def add(self, ids: Rows, columns: Floats) -> None:
        place = self._index.add(ids)
        self._grow()
        for column in range(self._sums.shape[1]):
            self._sums[:, column] += np.bincount(place, columns[:, column], minlength=len(self._sums))

    def counts(self, ids: Rows) -> Floats:
        """How often each id occurs, in the order of `table`; others are left out."""
        place = self._index.find(ids)
        return np.bincount(place[place != UNKNOWN], minlength=len(self._sums)).astype(np.float64)

    def table(self) -> Floats:
        return self._sums

    def _grow(self) -> None:
        more = len(self._index) - len(self._sums)
        self._sums = np.concatenate([self._sums, np.zeros((more, self._sums.shape[1]))])


def shares_of_most(answers_U: Floats, impressions_U: Floats) -> tuple[float, float]:
    """(share of the answers, share of the impressions) of the `MOST` share of users with the most impressions."""
    active = np.flatnonzero(impressions_U > 0)
    order = active[np.argsort(-impressions_U[active], kind="stable")]
    most = order[: max(1, round(MOST * len(order)))]
    return tuple(float(of[most].sum() / of.sum()) if of.sum() else math.nan for of in (answers_U, impressions_U))  # type: ignore[return-value]


def standardised(answers_U: Floats, impressions_U: Floats, sums_U: Floats) -> Estimate | None:
    """How far the users behind the answers lie from the users behind the impressions, in standard deviations of the
    users' means; None if all users have the same mean.

    Args:
        sums_U: sum of the behaviour over the impressions of each user.
    """
    there = impressions_U > 0
    answers_U, impressions_U, mean_U = answers_U[there], impressions_U[there], sums_U[there] / impressions_U[there]
    mean = np.average(mean_U, weights=impressions_U)
    deviation = math.sqrt(np.average((mean_U - mean) ** 2, weights=impressions_U))
    if deviation < 1e-9 or not answers_U.sum():
        return None
    value = float((np.average(mean_U, weights=answers_U) - mean) / deviation)
    # Users are the independent units. The variance of a difference of two weighted means is the sum of the squared
    # influences of the users.
    scaled_U = (mean_U - mean) / deviation
    influence_U = answers_U * (scaled_U - value) / answers_U.sum() - impressions_U * scaled_U / impressions_U.sum()
    half = NORMAL * math.sqrt(float((influence_U**2).sum()))
    return Estimate(value=value, low=value - half, high=value + half, count=int((answers_U > 0).sum()))


def _counted(name: str, rate_N: Array) -> Mapping[str, int]:
    """Impressions by pattern."""
    if name == WATCHED_SHARE:
        place = np.searchsorted(QUARTERS, rate_N)
        ends = [0.0, *QUARTERS, 1.0]
        names = [f"{100 * low:.0f} to {100 * high:.0f}%" for low, high in itertools.pairwise(ends)]
        return dict(zip(names, np.bincount(place, minlength=len(names)).tolist(), strict=True))
    happened = int(np.count_nonzero(rate_N > 0))
    return {"no": len(rate_N) - happened, "yes": happened}


def _relative(answers: int, all_answers: int, impressions: int, all_impressions: float) -> Estimate:
    if not impressions or not all_answers:
        return Estimate(value=math.nan, low=-math.inf, high=math.inf, count=answers)
    value = answers / all_answers / (impressions / all_impressions)
    if not answers:
        # No answer of n: the share is at most 3 / n with 95% confidence.
        return Estimate(value=0.0, low=0.0, high=3 / all_answers / (impressions / all_impressions), count=0)
    half = NORMAL * math.sqrt(max(1 / answers - 1 / all_answers, 0.0))
    return Estimate(value=value, low=value * math.exp(-half), high=value * math.exp(half), count=answers)


def _flat(column: Array | Ragged) -> NDArray[np.int64]:
    assert not isinstance(column, Ragged)
    return column
