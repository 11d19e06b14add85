"""The charts as SVG: what lies where, and what is told of it."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.tools.report.bars import bar_chart
from easq_rec.tools.report.frame import NARROW, PANEL, WIDE
from easq_rec.tools.report.lines import MOST_POINTS, Line, line_chart
from easq_rec.tools.report.marks import COLORS, color, dash, marker
from easq_rec.tools.report.scatter import Family, Spot, scatter


def elements(picture: str, name: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(picture).iter(name))


def places(line: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.attrib["points"].split())]


def estimate(value: float, half: float = 1.0) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, count=5)


def test_a_line_rises_where_its_values_do() -> None:
    line = Line(name="easq", points=[(0.0, 1.0), (5.0, 3.0), (10.0, 2.0)], style=0)
    picture = line_chart("loss", [line], xlabel="step")
    (left, low), (middle, high), (right, between) = places(elements(picture, "polyline")[0])
    assert 0 < left < middle < right < PANEL.width and math.isclose(middle - left, right - middle, abs_tol=0.11)
    # y runs downward.
    assert 0 < high < between < low < PANEL.height
    assert [element.text for element in elements(picture, "title")][:2] == ["loss", "easq, step 0: 1"]
    assert elements(picture, "desc")[0].text == "Over step: easq goes from 1 at 0 to 2 at 10."


def test_long_lines_are_thinned_and_carry_few_markers() -> None:
    line = Line(name="easq", points=[(float(step), math.sin(step)) for step in range(50_000)], style=0)
    picture = line_chart("loss", [line], xlabel="step")
    assert len(places(elements(picture, "polyline")[0])) <= MOST_POINTS
    assert len(elements(picture, "circle")) == 7 and len(picture) < 10_000


def test_intervals_of_a_line_stand_at_their_points_and_unknown_ones_are_left_out() -> None:
    line = Line(name="easq", points=[(1.0, 2.0), (2.0, 3.0)], ends=[(1.0, 3.0), None], style=0)
    picture = line_chart("gain", [line], xlabel="rank", xticks=[1.0, 2.0])
    bars = [path for path in elements(picture, "path") if path.get("class") == "interval"]
    assert len(bars) == 1
    x = places(elements(picture, "polyline")[0])[0][0]
    assert bars[0].attrib["d"].startswith(f"M{x:.1f},")


def test_series_differ_by_more_than_their_colour() -> None:
    shapes = [re.findall('class="mark" d="([^"]*)"', marker(style, 0, 0))[0] for style in range(14)]
    assert len({(color(style), dash(style), shape) for style, shape in enumerate(shapes)}) == 14
    assert color(0) == color(COLORS) and dash(0) != dash(1) and len(set(shapes[:COLORS])) == COLORS


def test_the_frontier_joins_a_series_and_leaves_unknown_intervals_out() -> None:
    unknown = Estimate(value=-4.0, low=-math.inf, high=math.inf, count=1)
    curve = Family(
        name="fused",
        style=1,
        spots=[
            Spot(name="fused 0.3", x=estimate(-2.0), y=estimate(4.0), note="0.3"),
            Spot(name="fused 1", x=unknown, y=estimate(9.0), note="1"),
        ],
    )
    for size in (WIDE, NARROW):
        picture = scatter("frontier", [curve], size, xlabel="engagement", ylabel="satisfaction", origin="main_only")
        (right, low), (left, high) = places(elements(picture, "polyline")[0])
        assert 0 < left < right < size.width and 0 < high < low < size.height
        intervals = [path.attrib["d"] for path in elements(picture, "path") if path.get("class") == "interval"]
        assert len(intervals) == 3
        texts = [element.text for element in elements(picture, "text")]
        assert {"0.3", "main_only", "engagement", "satisfaction"} <= set(texts)
        told = [element.text for element in elements(picture, "title")]
        assert "fused 0.3: satisfaction +4.0% [+3.0, +5.0], engagement -2.0% [-3.0, -1.0]" in told


def test_bars_begin_at_zero_and_point_the_right_way() -> None:
    groups = {"satisfaction": [estimate(4.0), estimate(-2.0)], "engagement": [estimate(-1.0), estimate(math.nan)]}
    for size in (WIDE, NARROW):
        picture = bar_chart("change", ["easq", "paper"], groups, size.width, xlabel="change in %", marks=(3.0,))
        zero = next(path for path in elements(picture, "path") if path.get("class") == "zero").attrib["d"]
        at = float(re.findall(r"M([\d.]+),", zero)[0])
        bars = [rect for rect in elements(picture, "rect") if "bar" in rect.attrib["class"]]
        spans = [(float(bar.attrib["x"]), float(bar.attrib["x"]) + float(bar.attrib["width"])) for bar in bars]
        (up, down, lost) = spans
        assert abs(up[0] - at) < 0.2 and abs(down[1] - at) < 0.2 and abs(lost[1] - at) < 0.2
        assert math.isclose(up[1] - up[0], 4 * (down[1] - down[0]), rel_tol=0.02)
        assert sum(path.get("class") == "mark-line" for path in elements(picture, "path")) == 1
        assert float(ElementTree.fromstring(picture).attrib["viewBox"].split()[3]) > 60


def test_an_interval_that_leaves_the_plot_has_no_stroke_at_its_end() -> None:
    groups = {"change": [estimate(1.0, 0.5), estimate(2.0, 500.0)]}
    picture = bar_chart("change", ["one", "two"], groups, WIDE.width, xlabel="%")
    strokes = [path.attrib["d"].count("v") for path in elements(picture, "path") if path.get("class") == "interval"]
    assert strokes == [2, 0]
