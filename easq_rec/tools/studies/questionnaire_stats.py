"""Statistics of a world's questionnaire: the asked impressions, and the quality of the answers.

All statistics are sums over impressions, computed by row group. Legend: N candidates of a row group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from easq_rec.answers.questionnaire import Questionnaire
from easq_rec.config import World
from easq_rec.config.answer_scale import THREE_ANSWERS
from easq_rec.data.layout import leaf_indices
from easq_rec.tools.studies import behaviour_lift as lifts
from easq_rec.upstream.pyarrow_parquet import read_row_group

GRADES = 5
"""Of the true satisfaction."""
BEHAVIOURS = ("like", "returned")

Counts = NDArray[np.float64]


def rule_of(world: World) -> Questionnaire:
    """The questionnaire of a world."""
    return Questionnaire(trigger_watch_s=world.trigger_watch_s, trigger_progress=world.trigger_progress)


def measure(world: World, directory: Path) -> dict[str, float]:
    """Statistics of a world's questionnaire, by name; NaN if there are too few answers.

    triggered_percent: impressions that meet the trigger rule.
    shown_permille: prompts shown per thousand impressions, the burden on users.
    answers: number of answers.
    response_percent: share of prompts that were answered.
    agreement: AUC of the true grade between satisfied and dissatisfied answers, ties half.
    overlap_percent: overlap of the true grades of asked and of all impressions; 100: asked at random.
    user_correlation: over asked users, between the mean true grade of their asked and of all their impressions.
    like_ratio, returned_ratio: rate of a behaviour among satisfied answers divided by its rate among dissatisfied
    answers. (A lift over triggered impressions would change with the rule, which determines them.)
    like_log_odds: log odds ratio of a like between satisfied and dissatisfied answers, with half a count added to each
    of the four.
    """
    rule = rule_of(world)
    impressions = triggered = 0
    grades, by_user = np.zeros((2, GRADES)), np.zeros((2, 2, world.users))
    for user_N, column in _row_groups(
        directory / "requests", ("watch_ms", "duration_ms", "shown", "true_satisfaction")
    ):
        shown_N, grade_N = column["shown"] > 0, column["true_satisfaction"].astype(np.int64)
        impressions += len(grade_N)
        triggered += int(rule.triggered(column["watch_ms"], column["duration_ms"]).sum())
        for index, among_N in enumerate((np.ones_like(shown_N), shown_N)):
            grades[index] += np.bincount(grade_N[among_N], minlength=GRADES)
            by_user[index, 0] += np.bincount(user_N[among_N], minlength=world.users)
            by_user[index, 1] += np.bincount(user_N[among_N], grade_N[among_N], minlength=world.users)
    answered = np.zeros((len(THREE_ANSWERS.names), GRADES))
    for _, column in _row_groups(directory / "answers", ("answer", "true_satisfaction")):
        given_N = ~np.isnan(column["answer"])
        code_A, grade_A = (column[name][given_N].astype(np.int64) for name in ("answer", "true_satisfaction"))
        np.add.at(answered, (code_A - THREE_ANSWERS.first, grade_A), 1)
    shown = grades[1].sum()
    found = {
        "triggered_percent": 100 * triggered / impressions,
        "shown_permille": 1_000 * float(shown) / impressions,
        "answers": float(answered.sum()),
        "response_percent": 100 * _ratio(answered.sum(), shown),
        "agreement": auc(answered[-1], answered[0]),
        "overlap_percent": 100 * overlap(grades[1], grades[0]),
        "user_correlation": _user_correlation(by_user),
    }
    found_lifts = {(lift.behaviour, lift.answer): lift for lift in lifts.measure([directory]).lifts}
    rates = {place: lift.rate for place, lift in found_lifts.items()}
    for behaviour in BEHAVIOURS:
        satisfied, dissatisfied = (rates.get((behaviour, name), math.nan) for name in ("satisfied", "dissatisfied"))
        found[f"{behaviour}_ratio"] = _ratio(satisfied, dissatisfied)
    found["like_log_odds"] = math.nan
    if ("like", "satisfied") in found_lifts:
        found["like_log_odds"] = log_odds_ratio(found_lifts["like", "satisfied"], found_lifts["like", "dissatisfied"])
    return found


def log_odds_ratio(one: lifts.Lift, other: lifts.Lift) -> float:
    """Log odds ratio of a behaviour between two answers (Haldane 1956: half a count is added to each of the four)."""
    odds = [(lift.occurrences + 0.5) / (lift.answers - lift.occurrences + 0.5) for lift in (one, other)]
    return math.log(odds[0] / odds[1])


def auc(positive_G: Counts, negative_G: Counts) -> float:
    """Probability that a positive has a higher grade than a negative, ties half. Counts by grade."""
    below_G = np.cumsum(negative_G) - negative_G
    won = (positive_G * (below_G + negative_G / 2)).sum()
    return _ratio(won, positive_G.sum() * negative_G.sum())


def overlap(some_G: Counts, all_G: Counts) -> float:
    """Overlap of two distributions: 1 minus their total variation distance. Counts by grade."""
    if not some_G.sum() or not all_G.sum():
        return math.nan
    return float(np.minimum(some_G / some_G.sum(), all_G / all_G.sum()).sum())


def _user_correlation(by_user: Counts) -> float:
    """Args: by_user: [all or asked, (impressions, sum of grades), users]."""
    asked_U = by_user[1, 0] > 0
    if asked_U.sum() < 3:
        return math.nan
    everything_U, asked_mean_U = (sums[1, asked_U] / sums[0, asked_U] for sums in by_user)
    if not everything_U.std() or not asked_mean_U.std():
        return math.nan
    return float(np.corrcoef(everything_U, asked_mean_U)[0, 1])


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


def _row_groups(folder: Path, names: tuple[str, ...]) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[Any]]]]:
    """(user of every candidate, some candidate columns as float64 with null as NaN) of each row group."""
    for path in sorted(folder.glob("*.parquet")):
        with pq.ParquetFile(path) as parquet:
            leaves = leaf_indices(parquet.schema_arrow, {"user_id", *(f"candidates.{name}" for name in names)})
            for index in range(parquet.num_row_groups):
                table = read_row_group(parquet, index, leaves)
                lists = table.column("candidates").combine_chunks()
                struct = lists.flatten()
                lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
                columns = {
                    field.name: array.cast(pa.float64()).to_numpy(zero_copy_only=False)
                    for field, array in zip(struct.type, struct.flatten(), strict=True)
                }
                yield np.repeat(table.column("user_id").to_numpy(), lengths), columns
