"""Gains at an equal price: envelopes against a slow search over all mixtures of two points, and means over worlds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from easq_rec.tools.studies.comparison import StudyComparison
from easq_rec.tools.studies.price import Change, Priced, best, envelope, gain_at
from tests.tools.studies.test_comparison import run


def slow_gain(changes: list[Change], price: float) -> float:
    """The best mixture of two points whose mean price is at most `price`."""
    points = [(0.0, 0.0), *((max(-paid, 0.0), gained) for paid, gained in changes)]
    found = [gained for paid, gained in points if paid <= price]
    for (paid, gained), (other_paid, other_gained) in itertools.permutations(points, 2):
        if paid <= price < other_paid:
            share = (price - paid) / (other_paid - paid)
            found.append((1 - share) * gained + share * other_gained)
    return max(found)


@pytest.mark.parametrize("seed", range(40))
def test_the_envelope_equals_a_search_over_mixtures(seed: int) -> None:
    rng = np.random.default_rng(seed)
    changes = [(float(x), float(y)) for x, y in zip(rng.normal(-1, 2, 5), rng.normal(3, 6, 5), strict=True)]
    if seed % 4 == 0:
        changes[1] = (changes[0][0], changes[1][1])
    if seed % 5 == 0:
        changes = [(round(x), round(y)) for x, y in changes]
    for price in (0.0, 0.3, 1.0, 2.0, 3.7, 50.0):
        assert gain_at(changes, price) == pytest.approx(slow_gain(changes, price), abs=1e-9), price
    corners = envelope(changes)
    assert corners[0][0] == 0.0 and corners == sorted(corners)
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in itertools.pairwise(corners)]
    assert all(slope > 0 for slope in slopes) and slopes == sorted(slopes, reverse=True)


def test_gains_by_hand() -> None:
    """The point that pays 2% counts for half at a price of 1%; the one at 4% lies below the line between 2% and 6%."""
    changes = [(-2.0, 8.0), (-4.0, 8.5), (-6.0, 12.0)]
    assert gain_at(changes, 1.0) == 4.0 and gain_at(changes, 2.0) == 8.0
    assert gain_at(changes, 4.0) == 10.0 and gain_at(changes, 99.0) == 12.0
    assert envelope(changes) == [(0.0, 0.0), (2.0, 8.0), (6.0, 12.0)]


def test_a_point_that_pays_nothing_counts_at_price_zero() -> None:
    assert gain_at([(0.5, 3.0)], 0.0) == gain_at([(0.0, 3.0)], 1.0) == 3.0
    # What loses satisfaction is not served.
    assert gain_at([(0.5, -3.0), (-1.0, -9.0)], 1.0) == 0.0 == gain_at([], 1.0)


def worlds(*changes: dict[str, Change]) -> StudyComparison:
    """A world for each of these changes by label."""
    runs = []
    for seed, of_world in enumerate(changes):
        runs.append(run("main_only", seed, 0.5, engagement=0.5))
        for label, (paid, gained) in of_world.items():
            runs.append(run(label, seed, 0.5 * (1 + gained / 100), engagement=0.5 * (1 + paid / 100)))
    return StudyComparison(runs)


def test_gains_are_computed_per_world_and_then_averaged() -> None:
    """The mean of the envelopes, not the envelope of the means."""
    found = worlds(
        {"a 1": (-1.0, 10.0), "a 2": (-3.0, 12.0), "b": (-2.0, 4.0)},
        {"a 1": (-1.0, 0.0), "a 2": (-1.0, 6.0), "b": (0.5, 1.0)},
        {"a 1": (-0.5, 5.0), "a 2": (-1.5, 6.0), "b": (-1.0, 3.0)},
    )
    first, second = Priced.of(found, ["a 1", "a 2"]), Priced.of(found, ["b"])
    gains, others = [10.0, 6.0, 5.5], [2.0, 1.0, 3.0]
    assert list(first.gains(1.0).values()) == pytest.approx(gains)
    estimate = first.gain(1.0)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(gains), scale=stats.sem(gains))
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((np.mean(gains), low, high))
    differences = np.subtract(gains, others)
    lead = first.lead(second, 1.0)
    low, high = stats.t.interval(0.95, 2, loc=differences.mean(), scale=stats.sem(differences))
    assert (lead.value, lead.low, lead.high, lead.count) == pytest.approx((differences.mean(), low, high, 3))
    assert best({"b": second, "a": first}) == ["a", "b"]
    assert first.curve(2.0, steps=2)[1] == (1.0, pytest.approx(np.mean(gains)))
    (paid, gained), _ = first.points()
    assert paid.value == pytest.approx(-2.5 / 3) and gained.value == pytest.approx(5.0)


def test_a_world_without_all_points_of_a_family_is_left_out() -> None:
    whole = {"a 1": (-1.0, 10.0), "a 2": (-3.0, 12.0)}
    found = worlds(whole, {"a 1": (-1.0, 20.0)}, {**whole, "a 2": (-3.0, math.nan)}, whole)
    family = Priced.of(found, ["a 1", "a 2"])
    assert len(family.by_world) == 2 and family.gain(1.0).value == pytest.approx(10.0)
    absent = Priced.of(found, ["nowhere"])
    assert absent.gain(1.0).count == 0 and absent.curve(1.0) == [] and absent.points() == []
    assert best({"absent": absent, "a": family}) == ["a"] and family.lead(absent, 1.0).count == 0


def test_another_metric_of_satisfaction_may_be_gained() -> None:
    found = worlds({"a": (-1.0, 10.0)}, {"a": (-1.0, 12.0)})
    assert Priced.of(found, ["a"], "pair_accuracy").gain(1.0).value == pytest.approx(11.0)
