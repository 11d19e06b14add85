"""Envelopes and heat maps: what stands out, what is cut, and text that is safe on a page."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest
from matplotlib.colors import to_hex, to_rgba

from easq_rec.tools.figures.envelopes import Envelope, draw_envelopes
from easq_rec.tools.figures.heat import ABOVE, BELOW, FAINTEST, FULLEST, HeatField, draw_heat
from easq_rec.tools.figures.style import LIGHT, SERIES
from easq_rec.tools.figures.svg import svg

HOSTILE = '</text><script>alert(1)</script>$\\frac{"$'


def envelope(name: str, style: int | None, *points: tuple[float, float]) -> Envelope:
    return Envelope(name=name, style=style, line=[(0.0, 0.0), *points], points=points)


def test_few_envelopes_stand_out_and_the_others_are_thin() -> None:
    drawn = [envelope("easq", 0, (-1.0, 5.0)), envelope("other", None, (-1.0, 3.0), (-2.0, 4.0))]
    figure = draw_envelopes(
        drawn, size=(600, 400), longest=5.0, marks=(1.0, 2.0), xlabel="x", ylabel="y", origin="main_only", title="T"
    )
    (axes,) = figure.axes
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["easq"]
    lines = {len(line.get_xdata()): line for line in axes.lines if line.get_linewidth() in (0.8, 2.2)}
    assert to_hex(lines[2].get_color()) == SERIES[0] and to_hex(lines[3].get_color()) == LIGHT["muted"]
    assert {text.get_text() for text in axes.texts} == {"main_only", "other"}
    dashed = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]
    assert dashed == [-1.0, -2.0]


def test_what_costs_more_than_the_longest_price_is_not_drawn() -> None:
    drawn = [envelope("easq", 0, (-1.0, 5.0), (-9.0, 50.0)), envelope("lucky", 1, (4.0, 1.0), (math.nan, 2.0))]
    figure = draw_envelopes(drawn, size=(330, 400), longest=5.0, marks=(), xlabel="x", ylabel="y", origin="base")
    (axes,) = figure.axes
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert left > -5.5 and right < 2.5 and high < 10
    for line in axes.lines[2:]:
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True):
            assert left <= x <= right and low <= y <= high
    empty = draw_envelopes([], size=(330, 400), longest=5.0, marks=(1.0,), xlabel="x", ylabel="y", origin="base")
    assert [text.get_text() for text in empty.axes[0].texts] == ["base"]


def test_a_heat_map_has_a_colour_by_sign_and_an_opacity_by_size() -> None:
    fields = [
        [
            HeatField(value=4.0, lines=["+4.0", "easq"], marked=True),
            HeatField(value=-2.0, lines=["-2.0"], marked=False),
        ],
        [
            HeatField(value=0.0, lines=["0"], marked=False),
            HeatField(value=math.nan, lines=["not measured"], marked=False),
        ],
    ]
    figure = draw_heat(
        {"a": fields, "b": fields}, rows=["low", "high"], columns=["x", "y"], size=(700, 300), xlabel="columns",
        ylabel="rows", most=4.0, title="Map",
    )  # fmt: skip
    first, second = figure.axes
    filled = [patch for patch in first.patches if patch.get_fill()]
    assert [to_hex(patch.get_facecolor()) for patch in filled] == [ABOVE, BELOW, ABOVE]
    opacity = [to_rgba(patch.get_facecolor())[3] for patch in filled]
    assert opacity == pytest.approx([FULLEST, (FULLEST + FAINTEST) / 2, FAINTEST])
    # The first row is at the bottom. One field is framed.
    assert [patch.get_xy() for patch in filled] == [(0, 0), (1, 0), (0, 1)]
    assert len([patch for patch in first.patches if not patch.get_fill()]) == 1
    assert [text.get_text() for text in first.texts] == ["+4.0", "easq", "-2.0", "0", "not measured"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["low", "high"]
    assert first.get_title(loc="left") == "a" and not any(label.get_text() for label in second.get_yticklabels())


def test_names_add_no_markup() -> None:
    drawn = [envelope(HOSTILE, style, (-1.0, 5.0)) for style in (None, 0)]
    field = HeatField(value=1.0, lines=[HOSTILE], marked=True)
    figures = [
        draw_envelopes(drawn, size=(600, 400), longest=5.0, marks=(), xlabel="x", ylabel="y", origin=HOSTILE[:20]),
        draw_heat({"a": [[field]]}, rows=[HOSTILE], columns=[HOSTILE], size=(330, 260), xlabel="x", ylabel="y", most=1),
    ]
    for figure in figures:
        picture = svg(figure, "<title>", "a & b")
        root = ElementTree.fromstring(picture)
        assert "<script" not in picture and "url(" not in picture
        shapes = [element for element in root.iter() if element.tag in ("path", "text")]
        assert all("var(--" in element.get("style", "") for element in shapes)
