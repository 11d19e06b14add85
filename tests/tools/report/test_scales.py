"""Scales, ticks, thinning: arithmetic that a wrong plot would hide."""

from __future__ import annotations

import math

import pytest

from easq_rec.tools.report.scales import (
    Scale,
    apart,
    chosen,
    fitted,
    linear_ticks,
    spread,
    spread_of_intervals,
    text_width,
    thinned,
    tick_label,
)


def test_a_scale_lays_its_ends_onto_its_pixels_and_keeps_what_is_outside_at_them() -> None:
    scale = Scale(low=-1.0, high=3.0, start=100.0, end=20.0)
    assert [scale(value) for value in (-1.0, 1.0, 3.0, 9.0, -9.0)] == [100.0, 60.0, 20.0, 20.0, 100.0]
    assert scale.holds(3.0) and not scale.holds(3.1)


def test_a_logarithmic_scale_gives_every_decade_the_same_room() -> None:
    scale = Scale(low=1e-5, high=1e-1, start=0.0, end=400.0, logarithmic=True)
    assert [round(scale(10.0**power)) for power in (-5, -4, -3, -2, -1)] == [0, 100, 200, 300, 400]
    assert scale.ticks(9) == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    assert Scale(low=1.0, high=12.0, start=0.0, end=1.0, logarithmic=True).ticks(9) == [1.0, 2.0, 5.0, 10.0]


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [
        (0.0, 10.0, 6, [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]),
        (-0.5, 1.2, 4, [-0.5, 0.0, 0.5, 1.0]),
        (0.4812, 0.4879, 4, [0.482, 0.484, 0.486]),
        (123_000.0, 191_000.0, 4, [140_000.0, 160_000.0, 180_000.0]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, most: int, ticks: list[float]) -> None:
    assert linear_ticks(low, high, most) == ticks


@pytest.mark.parametrize("span", [1e-9, 0.03, 0.7, 1.0, 9.99, 5e7])
def test_there_are_always_ticks(span: float) -> None:
    for low in (-span, 0.0, 0.37 * span):
        ticks = linear_ticks(low, low + span, 5)
        assert 2 <= len(ticks) <= 5 and low - 1e-9 * span <= ticks[0] and ticks[-1] <= low + span * (1 + 1e-9)


def test_an_axis_is_never_empty_and_knows_no_infinity() -> None:
    for values in ([], [5.0, 5.0], [0.0], [math.nan, math.inf, -2.0]):
        low, high = spread(values)
        assert math.isfinite(low) and math.isfinite(high) and low < high
    assert spread([0.0, 10.0], margin=0.1) == (-1.0, 11.0)
    assert spread([0.0, 1.0], margin=0.1, include=[5.0]) == (-0.1, 5.0)


def test_one_wide_interval_does_not_press_the_values_together() -> None:
    low, high = spread_of_intervals([0.0, 2.0], [-100.0, 1.0, 3.0, math.inf])
    assert -2.5 < low < -2.0 and 3.0 < high < 3.5


def test_thinning_keeps_ends_and_extremes_in_order() -> None:
    points = [(float(step), math.sin(step)) for step in range(10_000)]
    points[4_321] = (4_321.0, 99.0)
    points[8_765] = (8_765.0, -99.0)
    kept = thinned(points, 100)
    assert len(kept) <= 100 and kept == sorted(kept) and set(kept) <= set(points)
    assert {points[0], points[-1], points[4_321], points[8_765]} <= set(kept)
    assert thinned(points[:100], 100) == points[:100]


def test_chosen_indices_are_spread_and_hold_both_ends() -> None:
    assert chosen(3, 25) == [0, 1, 2]
    assert chosen(101, 5) == [0, 25, 50, 75, 100]


def test_labels_that_would_overlap_are_left_out() -> None:
    scale = Scale(low=0.0, high=100.0, start=0.0, end=100.0)
    kept = apart([0.0, 1.0, 2.0, 50.0, 51.0, 100.0], scale, tick_label, 11.0)
    assert kept == [0.0, 50.0, 100.0]
    assert text_width("1234", 10.0) > text_width("12", 10.0) > 0


def test_a_text_is_cut_where_it_does_not_fit() -> None:
    assert fitted("paper", 100.0, 11.0) == "paper"
    cut = fitted("paper" * 20, 100.0, 11.0)
    assert cut.startswith("paperpaper") and cut.endswith("…") and text_width(cut, 11.0) <= 100.0


@pytest.mark.parametrize(("value", "text"), [(0.25, "0.25"), (12_000.0, "12k"), (2.5e6, "2.5M"), (1e-5, "1e-05")])
def test_tick_labels_are_short(value: float, text: str) -> None:
    assert tick_label(value) == text
