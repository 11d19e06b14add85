"""Lifts: the rate of a behaviour among answered impressions relative to its average rate.

The average is over triggered impressions, not over all: people were asked only after they had watched, so relative to
all impressions even a random answer would show a lift. If the data have no watch times, the average is over all
impressions, and the result says so.

The intervals come from the delta method on the logarithm of the ratio, with requests as independent units, because the
impressions of one list are not independent. All quantities are sums over requests, computed by row group, so that
memory does not grow with the data.

Legend: R requests of a row group, N candidates of them, 4 quantities of a request: (occurrences after the answer,
answers, occurrences after any impression, impressions).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from easq_rec.answers.questionnaire import Questionnaire
from easq_rec.config.answer_scale import THREE_ANSWERS
from easq_rec.data import files
from easq_rec.data.layout import leaf_indices, leaf_types
from easq_rec.errors import UserError
from easq_rec.evaluation.mean_interval import CONFIDENCE, Estimate
from easq_rec.tools.inspect.parquet import open_parquet
from easq_rec.upstream.pyarrow_parquet import read_row_group

BEHAVIOURS = ("like", "follow", "comment", "forward", "long_view", "returned")
CODES = {"satisfied": THREE_ANSWERS.satisfied_codes, "dissatisfied": THREE_ANSWERS.dissatisfied_codes}
"""Codes of the compared answers, by meaning."""
WATCHED = ("watch_ms", "duration_ms")
FEW = 10
"""Number of answers that may all coincide with a behaviour by chance."""

Numbers = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(kw_only=True)
class Moments:
    """Sums over requests, for one behaviour."""

    total: Floats = field(default_factory=lambda: np.zeros(2))
    """[occurrences, impressions] of all requests."""
    square: Floats = field(default_factory=lambda: np.zeros((2, 2)))
    """Products of these two."""
    answered_total: dict[str, Floats] = field(default_factory=lambda: {name: np.zeros(2) for name in CODES})
    """[occurrences, answers], by answer."""
    answered_square: dict[str, Floats] = field(default_factory=lambda: {name: np.zeros((2, 4)) for name in CODES})
    """Products of these two with all 4 quantities of a request."""
    missing: int = 0
    """Number of impressions with a null in the column."""


@dataclass(frozen=True, kw_only=True)
class Lift:
    """The lift of one behaviour for one answer, relative to the average impression."""

    behaviour: str
    answer: str
    occurrences: int
    """Number of impressions with both the behaviour and this answer."""
    answers: int
    """Number of impressions with this answer."""
    rate: float
    """Rate of the behaviour among impressions with this answer."""
    average: float
    """Rate of the behaviour among all impressions."""
    change: Estimate
    """In percent."""


@dataclass(frozen=True, kw_only=True)
class Signal:
    """The lifts of the data."""

    lifts: list[Lift]
    fixed: list[str]
    """Behaviours whose rate cannot depend on the answer: all or none of the impressions have them, or all answered
    ones, for example because the questionnaire follows the behaviour."""
    triggered: bool
    """Whether the average is over triggered impressions; False: over all impressions."""
    missing: dict[str, int]
    """Number of impressions with a null, by column, if any. They are left out."""


def measure(locations: Sequence[files.Location]) -> Signal:
    """Reads requests/ and answers/ of every location once.

    Raises:
        UserError: a dataset or a column that is needed is missing, or a file is unreadable.
    """
    moments: dict[str, Moments] = {}
    triggered = True
    for location in locations:
        for answers in (False, True):
            folder = files.join(location, "answers" if answers else "requests")
            for group in _row_groups(folder, answers=answers):
                triggered = triggered and group.triggered
                _add(moments, group)
    if not moments:
        raise UserError(
            f"{files.display_name(locations[0])}: its candidates have none of the columns {', '.join(BEHAVIOURS)}, "
            "with which answers are compared"
        )
    fixed = [name for name, sums in moments.items() if _is_fixed(sums)]
    return Signal(
        lifts=[_lift(sums, name, answer) for name, sums in moments.items() if name not in fixed for answer in CODES],
        fixed=fixed,
        triggered=triggered,
        missing={name: sums.missing for name, sums in moments.items() if sums.missing},
    )


@dataclass(frozen=True, kw_only=True)
class Group:
    """The candidates of a row group."""

    owner_N: NDArray[np.int64]
    """Request of each candidate."""
    requests: int
    asked_N: NDArray[np.bool_]
    """Whether each candidate belongs to the average."""
    triggered: bool
    behaviour_N: dict[str, Floats]
    """1, 0 or NaN, by name."""
    answer_N: Floats | None
    """Answer code, or NaN without an answer; None for the requests dataset."""


def _add(moments: dict[str, Moments], group: Group) -> None:
    for name, value_N in group.behaviour_N.items():
        sums = moments.setdefault(name, Moments())
        known_N = ~np.isnan(value_N)
        happened_N = np.where(known_N, value_N, 0.0) > 0
        asked_R2 = _per_request(group, happened_N, group.asked_N & known_N)
        if group.answer_N is None:
            sums.total += asked_R2.sum(axis=0)
            sums.square += asked_R2.T @ asked_R2
            sums.missing += int(np.count_nonzero(group.asked_N & ~known_N))
            continue
        for answer, codes in CODES.items():
            answered_R2 = _per_request(group, happened_N, np.isin(group.answer_N, codes) & known_N)
            sums.answered_total[answer] += answered_R2.sum(axis=0)
            sums.answered_square[answer] += answered_R2.T @ np.concatenate([answered_R2, asked_R2], axis=1)


def _per_request(group: Group, happened_N: Numbers, among_N: Numbers) -> Floats:
    """(R, 2): occurrences and candidates of every request, among the candidates `among_N`."""
    columns = [
        np.bincount(group.owner_N[which_N], minlength=group.requests) for which_N in (among_N & happened_N, among_N)
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def _is_fixed(sums: Moments) -> bool:
    occurrences, answers = sum(sums.answered_total.values(), np.zeros(2))
    return sums.total[0] in (0, sums.total[1]) or (answers >= FEW and occurrences == answers)


def _lift(sums: Moments, behaviour: str, answer: str) -> Lift:
    """The ratio of two rates. A request's influence on its logarithm is y/Y - n/N after the answer, minus the same for
    the average; the variance is the sum of the squared influences."""
    occurrences, answers = (float(sum_) for sum_ in sums.answered_total[answer])
    average = float(sums.total[0] / sums.total[1])
    rate = occurrences / answers if answers else math.nan
    low, high = _ends(sums, answer, rate / average)
    return Lift(
        behaviour=behaviour,
        answer=answer,
        occurrences=int(occurrences),
        answers=int(answers),
        rate=rate,
        average=average,
        change=Estimate(value=100 * (rate / average - 1), low=low, high=high, count=int(answers)),
    )


def _ends(sums: Moments, answer: str, ratio: float) -> tuple[float, float]:
    """The interval around a ratio of rates, in percent."""
    occurrences, answers = sums.answered_total[answer]
    if not answers:
        return -math.inf, math.inf
    if not occurrences:
        # No occurrence in n trials: the rate is at most 3 / n with 95% confidence.
        return -100.0, float(100 * (3 / answers * sums.total[1] / sums.total[0] - 1))
    mine = np.array([1 / occurrences, -1 / answers])
    average = np.array([-1 / sums.total[0], 1 / sums.total[1]])
    with_mine, with_average = np.split(sums.answered_square[answer], 2, axis=1)
    variance = mine @ with_mine @ mine + 2 * mine @ with_average @ average + average @ sums.square @ average
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt(max(float(variance), 0.0))
    return 100 * (ratio * math.exp(-half) - 1), 100 * (ratio * math.exp(half) - 1)


def _row_groups(folder: str, *, answers: bool) -> Iterator[Group]:
    """The row groups of a dataset, with only the needed candidate columns."""
    for name in files.parquet_files(folder):
        file = files.join(folder, name)
        with open_parquet(file) as parquet:
            schema = parquet.schema_arrow
            there = {
                path.removeprefix("candidates.") for path, _ in leaf_types(schema) if path.startswith("candidates.")
            }
            if answers and "answer" not in there:
                raise UserError(f"{files.display_name(file)}: its candidates have no column answer")
            behaviours = [column for column in BEHAVIOURS if column in there]
            triggered = there.issuperset(WATCHED)
            wanted = [*behaviours, *(WATCHED if triggered else ()), *(("answer",) if answers else ())]
            if not wanted:
                continue
            leaves = leaf_indices(schema, {f"candidates.{column}" for column in wanted})
            for index in range(parquet.num_row_groups):
                table = read_row_group(parquet, index, leaves)
                yield _group(table.column("candidates").combine_chunks(), behaviours, triggered=triggered)


def _group(candidates: pa.Array, behaviours: Sequence[str], *, triggered: bool) -> Group:
    lists = candidates.drop_null()
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    # Unlike field(), flatten() applies the nulls of a struct to its fields.
    struct = lists.flatten()
    column = {field.name: _numbers(array) for field, array in zip(struct.type, struct.flatten(), strict=True)}
    asked_N = np.ones(len(struct), dtype=bool)
    if triggered:
        # Comparisons with NaN are false: an impression with unknown watch time is not triggered.
        asked_N = Questionnaire().triggered(*(column[name] for name in WATCHED))
    return Group(
        owner_N=np.repeat(np.arange(len(lists)), lengths),
        requests=len(lists),
        asked_N=asked_N,
        triggered=triggered,
        behaviour_N={name: column[name] for name in behaviours},
        answer_N=column.get("answer"),
    )


def _numbers(array: pa.Array) -> Floats:
    """Converts to float64, with null as NaN."""
    return array.cast(pa.float64()).to_numpy(zero_copy_only=False)
