"""Effects of items on answers, beside those of their users."""

from __future__ import annotations

import numpy as np
import pytest

from easq_rec.serving.answer_effects import AnswerEffects
from easq_rec.serving.item_prior import ItemCounts, ItemPrior

USERS, ITEMS, ANSWERS = 200, 60, 4_000


def world(seed: int, generosity: float) -> tuple[dict[str, np.ndarray], np.ndarray, ItemCounts]:
    """(answers, true effects of items, impressions): generous users are asked about some items more than others."""
    rng = np.random.default_rng(seed)
    user, item = rng.normal(0, generosity, USERS), rng.normal(0, 1, ITEMS)
    user_N = rng.integers(0, USERS, ANSWERS)
    # Even items are shown to the generous half.
    generous_N = user[user_N] > 0
    item_N = 2 * rng.integers(0, ITEMS // 2, ANSWERS) + ~(generous_N ^ (rng.random(ANSWERS) < 0.1))
    value_N = (user[user_N] + item[item_N] + rng.normal(0, 1, ANSWERS) > 0).astype(np.float64)
    author_N = np.zeros(ANSWERS, np.int64)
    answers = {"user_N": user_N, "item_N": item_N, "author_N": author_N, "value_N": value_N}
    everything = np.arange(ITEMS)
    counts = ItemCounts.of(
        everything, np.zeros(ITEMS, np.int64), impressions_N=rng.integers(1, 50, ITEMS), shown_N=0, happened_N=0
    )
    return answers, item, counts


def test_generous_users_do_not_make_an_item_better() -> None:
    for seed in range(3):
        answers, item, impressions = world(seed, generosity=1.5)
        everything, nobody = np.arange(ITEMS), np.zeros(ITEMS, np.int64)
        found = AnswerEffects(**answers, impressions=impressions)(everything, nobody)
        counted = ItemCounts.of(
            answers["item_N"], answers["author_N"], impressions_N=0, shown_N=1, happened_N=answers["value_N"]
        )
        average = ItemPrior(ItemCounts.joined([impressions, counted]))(everything, nobody)
        corrected, plain = (np.corrcoef(score, item)[0, 1] for score in (found, average))
        assert corrected > 0.9 and corrected > plain + 0.1, (corrected, plain)


def test_scores_are_standardised_over_impressions() -> None:
    answers, _, impressions = world(0, generosity=0.5)
    found = AnswerEffects(**answers, impressions=impressions)(impressions.item_I, impressions.author_I)
    mean = np.average(found, weights=impressions.impressions_I)
    assert mean == pytest.approx(0, abs=1e-9)
    assert np.average((found - mean) ** 2, weights=impressions.impressions_I) == pytest.approx(1)


def test_an_unknown_item_has_the_effect_of_its_author() -> None:
    answers, item, impressions = world(0, generosity=0.0)
    answers["author_N"] = (item[answers["item_N"]] > 0).astype(np.int64)
    effects = AnswerEffects(**answers, impressions=impressions)
    good, bad, unknown = effects(np.array([10**6] * 3), np.array([1, 0, 5]))
    assert good > unknown > bad


def test_few_or_equal_answers_say_nothing() -> None:
    answers, _, impressions = world(0, generosity=0.0)
    few = {name: column[:3] for name, column in answers.items()}
    equal = {**answers, "value_N": np.ones(ANSWERS)}
    none = {name: column[:0] for name, column in answers.items()}
    for given in (few, equal, none):
        assert not AnswerEffects(**given, impressions=impressions)(np.arange(ITEMS), np.zeros(ITEMS, np.int64)).any()
