"""The item prior, compared with loops over single impressions."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest

from easq_rec.answers.rates import posterior, prior_strength
from easq_rec.serving.item_prior import ItemCounts, ItemPrior

Impression = tuple[int, int, bool, bool]
"""(item, author, triggered, acted)."""


def counts_of(impressions: list[Impression]) -> ItemCounts:
    item, author, triggered, acted = (np.array(column) for column in zip(*impressions, strict=True))
    return ItemCounts.of(item, author, impressions_N=1, shown_N=triggered, happened_N=triggered & acted)


def logit(rate: float) -> float:
    return math.log(rate / (1 - rate))


def by_loops(impressions: list[Impression], wanted: list[tuple[int, int]]) -> list[float]:
    """The prior of (item, author) pairs from dictionaries of counts."""
    shown: Counter[object] = Counter()
    happened: Counter[object] = Counter()
    for item, author, triggered, acted in impressions:
        for key in ("all", author, (item, author)):
            shown[key] += triggered
            happened[key] += triggered and acted
    items = sorted({(item, author) for item, author, *_ in impressions})
    authors = sorted({author for _, author in items})
    overall = (happened["all"] + 0.5) / (shown["all"] + 1)

    def columns(keys: list[object], expected: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return (
            np.array([happened[key] for key in keys], float),
            np.array([shown[key] for key in keys], float),
            np.array(expected),
        )

    strength_of_authors = prior_strength(*columns(list(authors), [overall] * len(authors)))

    def rate_of(happened: int, shown: int, expected: float, strength: float) -> float:
        return float(posterior(np.array([happened]), np.array([shown]), np.array([expected]), strength)[0])

    expected = {
        (item, author): rate_of(
            happened[author] - happened[item, author],
            shown[author] - shown[item, author],
            overall,
            strength_of_authors,
        )
        for item, author in items
    }
    strength_of_items = prior_strength(*columns(list(items), [expected[pair] for pair in items]))
    prior = {pair: logit(rate_of(happened[pair], shown[pair], expected[pair], strength_of_items)) for pair in items}
    values = [prior[item, author] for item, author, *_ in impressions]
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    found = []
    for item, author in wanted:
        if (item, author) in prior:
            value = prior[item, author]
        elif author in authors:
            value = logit(rate_of(happened[author], shown[author], overall, strength_of_authors))
        else:
            value = logit(overall)
        found.append((value - mean) / spread)
    return found


def log_of(count: int, seed: int = 0) -> list[Impression]:
    """Impressions of authors whose items differ in how much they are liked."""
    rng = np.random.default_rng(seed)
    author_of_item = rng.integers(-4, 4, 30) * 2**40
    rate_of_item = rng.beta(2, 10, 30) + 0.3 * (author_of_item > 0)
    item = rng.integers(0, 30, count)
    triggered = rng.random(count) < 0.6
    acted = rng.random(count) < rate_of_item[item]
    return [(int(i), int(author_of_item[i]), bool(t), bool(a)) for i, t, a in zip(item, triggered, acted, strict=True)]


@pytest.mark.parametrize("count", [200, 6_000])
def test_the_prior_equals_loops(count: int) -> None:
    """Also of unknown items of known authors, and of unknown authors. Actions without the trigger do not count."""
    impressions = log_of(count)
    wanted = [*((item, author) for item, author, *_ in impressions[:50]), (99, impressions[0][1]), (0, 7), (99, 7)]
    prior = ItemPrior(counts_of(impressions))
    found = prior(*(np.array(column) for column in zip(*wanted, strict=True)))
    assert found.tolist() == pytest.approx(by_loops(impressions, wanted), abs=1e-9)
    every = prior(*(np.array([pair[i] for pair in impressions]) for i in (0, 1)))
    assert (every.mean(), every.std()) == pytest.approx((0.0, 1.0), abs=1e-9)


def test_counts_of_parts_are_those_of_the_whole() -> None:
    impressions = log_of(300)
    whole = counts_of(impressions)
    joined = ItemCounts.joined(counts_of(impressions[begin : begin + 70]) for begin in range(0, 300, 70))
    for name, column in dataclasses.asdict(whole).items():
        assert getattr(joined, name).tolist() == column.tolist(), name


@pytest.mark.parametrize("acted", [False, True])
@pytest.mark.parametrize("triggered", [False, True])
def test_observations_of_one_kind_say_nothing(acted: bool, triggered: bool) -> None:
    """As is the case of answers of one class, or of none at all."""
    prior = ItemPrior(counts_of([(turn % 20, 0, triggered, acted) for turn in range(200)]))
    assert prior(np.array([0, 7, 99]), np.array([0, 0, 5])).tolist() == [0.0, 0.0, 0.0]


def test_items_that_differ_by_no_more_than_chance_have_no_prior() -> None:
    prior = ItemPrior(counts_of([(item, 0, True, turn < 5) for item in range(20) for turn in range(10)]))
    assert prior(np.array([0, 7, 99]), np.array([0, 0, 5])).tolist() == [0.0, 0.0, 0.0]
