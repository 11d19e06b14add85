"""Bounded summaries equal what plain Python says of the same values."""

from __future__ import annotations

import numpy as np
import pytest

from easq_rec.tools.inspect.links import Links
from easq_rec.tools.inspect.sketch import BITMAP, KEPT, STANDARD_ERROR, Distinct, Lengths, Quantiles, Spans


def add(counter: Distinct, ids: np.ndarray) -> None:  # type: ignore[type-arg]
    counter.add(ids, int(ids.min()), int(ids.max()))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 50), (0, 100_000), (-30, 30), (BITMAP - 100, BITMAP + 100), (-(2**63), 2**63 - 1), (2**63 - 50, 2**63 - 1)],
)
def test_few_distinct_ids_are_counted_exactly(seed: int, low: int, high: int) -> None:
    rng = np.random.default_rng(seed)
    counter, seen = Distinct(), set()
    for size in rng.integers(1, 4_000, 6):
        ids = rng.integers(low, high, size)
        add(counter, ids)
        seen |= set(ids.tolist())
        assert counter.exact
        assert counter.count() == len(seen)


def test_ids_that_leave_the_bitmap_late_are_still_counted_once() -> None:
    counter = Distinct()
    add(counter, np.arange(1_000))
    add(counter, np.array([5, 2**40, 7]))
    add(counter, np.arange(990, 1_010))
    assert counter.count() == 1_011


@pytest.mark.parametrize("distinct", [KEPT - 1, KEPT, 3 * KEPT, 2_000_000])
@pytest.mark.parametrize("sequential", [True, False])
def test_many_distinct_ids_are_estimated_within_the_stated_error(distinct: int, sequential: bool) -> None:
    """Four standard errors: a draw beyond them has a chance of 1 in 16,000, and these draws are fixed."""
    ids = np.arange(distinct, dtype=np.int64) + BITMAP
    if not sequential:
        ids *= 2_654_435_761
    counter = Distinct()
    for part in np.array_split(np.concatenate((ids, ids[::2])), 7):
        add(counter, part)
    assert counter.exact == (distinct < KEPT)
    assert counter.count() == pytest.approx(distinct, rel=4 * STANDARD_ERROR)
    if counter.exact:
        assert counter.count() == distinct


def test_the_estimate_has_the_stated_standard_error() -> None:
    """Over some sets of ids: neither worse than stated, nor so good that the statement says nothing."""
    rng, errors = np.random.default_rng(0), []
    for _ in range(12):
        ids = rng.integers(-(2**63), 2**63 - 1, 4 * KEPT)
        counter = Distinct()
        add(counter, ids)
        errors.append(counter.count() / len(ids) - 1)
    assert 0.3 * STANDARD_ERROR < np.sqrt(np.mean(np.square(errors))) < 1.8 * STANDARD_ERROR


@pytest.mark.parametrize(("first", "second"), [("small", "small"), ("small", "large"), ("large", "small")])
def test_merging_counts_the_union_and_leaves_the_other_as_it_was(first: str, second: str) -> None:
    ids = {"small": np.arange(100), "large": np.arange(50, 150) * 2**40}
    one, other = Distinct(), Distinct()
    add(one, ids[first])
    add(other, ids[second] + 50)
    before = other.count()
    one.merge(other)
    assert one.count() == len(set(ids[first].tolist()) | set((ids[second] + 50).tolist()))
    add(one, np.array([10**6]))
    assert other.count() == before


def test_memory_does_not_grow_with_the_number_of_ids() -> None:
    counter = Distinct()
    for start in range(0, 20 * KEPT, KEPT):
        add(counter, np.arange(start, start + KEPT) + BITMAP)
    assert counter._seen is None
    assert len(counter._kept) == KEPT
    assert sum(map(len, counter._waiting)) < KEPT


@pytest.mark.parametrize("seed", range(5))
def test_lengths_have_the_quantiles_of_the_sorted_list(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths, everything = Lengths(), []
    for _ in range(4):
        part = rng.geometric(0.1, rng.integers(0, 60)) - 1
        lengths.add(part)
        everything += part.tolist()
    assert everything
    assert lengths.summary() == {
        "lists": len(everything),
        "min": min(everything),
        "median": np.quantile(everything, 0.5, method="inverted_cdf"),
        "p95": np.quantile(everything, 0.95, method="inverted_cdf"),
        "max": max(everything),
        "mean": pytest.approx(np.mean(everything)),
        "empty": everything.count(0) / len(everything),
    }


def test_no_lists_have_no_lengths() -> None:
    assert set(Lengths().summary().values()) == {0.0}


@pytest.mark.parametrize("days", [0.001, 1, 40, 4_000])
def test_spans_count_every_point_in_time_once(days: float) -> None:
    rng, spans = np.random.default_rng(1), Spans()
    times = 1_704_067_200_123 + rng.integers(0, round(days * 86_400_000), 20_000)
    for part in np.array_split(times, 9):
        spans.add(part)
    starts, counts, width = spans.counts(100)
    assert len(starts) <= 100
    assert len(spans._counts) <= 4_096
    assert counts == [int(((times >= start) & (times < start + width)).sum()) for start in starts]
    assert sum(counts) == len(times)


def test_quantiles_are_within_half_a_percent() -> None:
    rng, quantiles = np.random.default_rng(2), Quantiles()
    values = np.exp(rng.normal(12, 2, 5_000)).astype(np.int64)
    for part in np.array_split(values, 4):
        quantiles.add(part)
    for share in (0.05, 0.5, 0.95):
        exact = np.quantile(values, share, method="inverted_cdf")
        assert quantiles.quantile(share) == pytest.approx(exact, rel=0.0051)
    assert Quantiles().quantile(0.5) is None


def test_links_are_the_correlations_of_all_row_groups_together() -> None:
    rng, links = np.random.default_rng(3), Links()
    outcome = rng.integers(0, 2, 600)
    numbers = {"near": outcome * 50 + rng.random(600), "far": rng.normal(size=600), "constant": np.full(600, 3.0)}
    for part in np.array_split(np.arange(600), [100, 110, 400]):
        links.add({name: x[part] for name, x in numbers.items()}, {"like": outcome[part]})
    for name in ("near", "far"):
        scaled = np.sign(numbers[name]) * np.log1p(np.abs(numbers[name]))
        found = links.strongest(name)
        assert found is not None
        assert found == ("like", pytest.approx(np.corrcoef(scaled, outcome)[0, 1]))
    assert links.strongest("constant") is None
    links.add({"broken": np.array([np.inf, -np.inf])}, {"like": np.array([0, 1])})
    assert links.strongest("broken") is None
