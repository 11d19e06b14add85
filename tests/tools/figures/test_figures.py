"""The content of figures, and the SVG that is embedded in a page."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.tools.figures.bars import draw_bars
from easq_rec.tools.figures.frontier import Family, Spot, draw_frontier
from easq_rec.tools.figures.lines import Line, draw_lines
from easq_rec.tools.figures.png import save_png
from easq_rec.tools.figures.reliability import draw_reliability
from easq_rec.tools.figures.style import DARK, LIGHT, SERIES, limits, look, short_name, tick_label
from easq_rec.tools.figures.svg import bar_sample, line_sample, svg

HOSTILE = '</text><script>alert(1)</script>$\\frac{"$ \x00\ud800 漢字'
UNKNOWN = Estimate(value=2.0, low=-math.inf, high=math.inf, count=1)
SIZE = (330, 200)


def estimate(value: float, half: float = 1.0) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, count=5)


def strokes(axes: Axes, marker: str) -> list[float]:
    """Positions of the strokes at the ends of the intervals of a figure, along the axis of the intervals."""
    lines = [line for line in axes.lines if line.get_marker() == marker]
    return [float(value) for line in lines for value in (line.get_ydata() if marker == "_" else line.get_xdata())]


def stems(axes: Axes) -> int:
    return sum(line.get_linewidth() == 1 and line.get_alpha() is not None for line in axes.lines)


def test_series_differ_by_more_than_their_colour() -> None:
    looks = [look(style) for style in range(2 * len(SERIES))]
    assert len({(one["color"], one["marker"], str(one["linestyle"])) for one in looks}) == 2 * len(SERIES)
    for first, second in itertools.pairwise(looks):
        assert first["marker"] != second["marker"] and first["linestyle"] != second["linestyle"]
    assert len(set(LIGHT.values())) == len(LIGHT) and set(LIGHT) == set(DARK)


def test_bars_start_at_zero_and_missing_bars_have_no_length() -> None:
    groups = {"satisfaction": [estimate(4.0), estimate(-2.0)], "engagement": [estimate(-1.0), estimate(math.nan)]}
    for above in (False, True):
        figure = draw_bars(["easq", "paper"], groups, width=400, xlabel="%", marks=[3.0], names_above=above)
        (axes,) = figure.axes
        spans = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
        assert spans == [(0, 4), (0, -2), (0, -1), (0, 0)]
        # The first name is at the top.
        assert [bar.get_y() for bar in axes.patches[:2]] == sorted(bar.get_y() for bar in axes.patches[:2])
        assert axes.yaxis_inverted() and stems(axes) == 3
        names = axes.texts if above else axes.get_yticklabels()
        assert [name.get_text() for name in names] == ["easq", "paper"]


def test_an_interval_beyond_the_plot_is_clipped_and_has_no_end_strokes() -> None:
    figure = draw_bars(["one", "two"], {"change": [estimate(1.0, 0.5), estimate(2.0, 500.0)]}, width=400, xlabel="%")
    (axes,) = figure.axes
    assert strokes(axes, "|") == [0.5, 1.5] and stems(axes) == 2
    low, high = axes.get_xlim()
    assert low > -5 and high < 5
    assert all(low <= value <= high for line in axes.lines[:4] for value in line.get_xdata())


def test_the_frontier_connects_a_series_and_omits_unknown_intervals() -> None:
    spots = [Spot(x=estimate(-2.0), y=estimate(4.0), note="0.3"), Spot(x=UNKNOWN, y=estimate(9.0), note="1")]
    family = Family(name="fused", style=1, spots=spots)
    figure = draw_frontier([family], size=(330, 400), xlabel="paid", ylabel="gained", origin="main_only")
    (axes,) = figure.axes
    (line,) = (line for line in axes.lines if line.get_label() == "fused")
    assert list(line.get_xdata()) == [-2.0, 2.0] and list(line.get_ydata()) == [4.0, 9.0]
    assert stems(axes) == 3 and strokes(axes, "|") == [-3.0, -1.0]
    assert {text.get_text() for text in axes.texts} == {"main_only", "0.3", "1"}


def test_notes_do_not_overlap_and_are_omitted_if_there_is_no_room() -> None:
    spots = [Spot(x=estimate(0.01 * at), y=estimate(0.0), note=f"point {at}") for at in range(40)]
    figure = draw_frontier(
        [Family(name="a", style=0, spots=spots)], size=(330, 400), xlabel="x", ylabel="y", origin="base"
    )
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert 0 < len(boxes) < 40
    for index, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[index + 1 :])


def test_lines_show_points_intervals_and_ticks_at_the_measured_values() -> None:
    points = [(1e-5, 1.0), (1e-3, 2.0), (1e-1, 3.0)]
    estimates = [estimate(value) for _, value in points[:2]] + [UNKNOWN]
    lines = [Line(name=name, style=style, points=points, estimates=estimates) for style, name in enumerate("ab")]
    panels = {"gain": lines}
    figure = draw_lines(panels, size=SIZE, xlabel="rate", ticks=[x for x, _ in points], logarithmic=True)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1e-05", "0.001", "0.1"]
    first, second = (line for line in axes.lines if line.get_label() in ("a", "b"))
    # The two series are moved to both sides of the measured value, so that they do not overlap.
    for left, x, right in zip(first.get_xdata(), (x for x, _ in points), second.get_xdata(), strict=True):
        assert left < x < right and math.isclose(left * right, x * x)
    assert stems(axes) == 4 and strokes(axes, "_") == [0.0, 2.0, 1.0, 3.0] * 2


def test_a_mean_is_drawn_over_its_curves_and_a_mark_is_inside_the_plot() -> None:
    faint = [[(1.0, 0.0), (2.0, 1.0)], [(1.0, 2.0), (2.0, 5.0)]]
    line = Line(name="easq", style=0, points=[(1.0, 1.0), (2.0, 3.0)], faint=faint)
    figure = draw_lines({"KL": [line]}, size=SIZE, xlabel="step", marks={"KL": 9.0})
    (axes,) = figure.axes
    assert [list(drawn.get_ydata()) for drawn in axes.lines] == [[9.0, 9.0], [0.0, 1.0], [2.0, 5.0], [1.0, 3.0]]
    assert axes.get_ylim()[0] < 0 and axes.get_ylim()[1] > 9


def test_a_long_curve_becomes_a_short_path() -> None:
    points = [(float(step), math.sin(step) + math.sin(step / 5_000)) for step in range(50_000)]
    figure = draw_lines({"loss": [Line(name="run", style=0, points=points)]}, size=SIZE, xlabel="step")
    assert len(svg(figure, "loss", "")) < 40_000


def test_limits_contain_the_values_and_one_wide_interval_does_not_stretch_them() -> None:
    assert limits([0.0, 10.0], margin=0.1) == (-1.0, 11.0)
    low, high = limits([0.0, 2.0], [-100.0, 1.0, 3.0, math.inf])
    assert -2.5 < low < -2.0 and 3.0 < high < 3.5
    for values in ([], [5.0, 5.0], [0.0], [math.nan, math.inf, -2.0]):
        low, high = limits(values)
        assert math.isfinite(low) and math.isfinite(high) and low < high


@pytest.mark.parametrize(("value", "text"), [(0.25, "0.25"), (12_000.0, "12k"), (-2.5e6, "-2.5M"), (1e-5, "1e-05")])
def test_tick_labels_are_short(value: float, text: str) -> None:
    assert tick_label(value) == text


def test_long_names_are_truncated_and_unprintable_characters_are_replaced() -> None:
    assert short_name("paper") == "paper" and short_name("a\x00b\nc\ud800") == "a?b?c?"
    assert len(short_name("variant" * 20)) == 40 and short_name("variant" * 20).endswith("…")


def hostile_svgs() -> list[str]:
    family = Family(name=HOSTILE, style=0, spots=[Spot(x=estimate(1.0), y=estimate(1.0), note=HOSTILE[:30])])
    line = Line(name=HOSTILE, style=7, points=[(1.0, 1.0), (2.0, 2.0)])
    figures = [
        draw_frontier([family], size=(600, 500), xlabel="x", ylabel="y", origin="base"),
        draw_bars([HOSTILE], {HOSTILE: [estimate(1.0)]}, width=600, xlabel="x"),
        draw_lines({HOSTILE: [line]}, size=SIZE, xlabel="x"),
    ]
    return [svg(figure, "<title>", "a & b") for figure in figures]


def test_an_svg_has_no_ids_no_fixed_colours_and_no_markup_from_names() -> None:
    for picture in [*hostile_svgs(), line_sample(3), bar_sample(1)]:
        root = ElementTree.fromstring(picture)
        used = {name for element in root.iter() for name in element.attrib}
        assert used <= {"viewBox", "role", "class", "aria-hidden", "d", "style", "transform", "x", "y"}
        assert {element.tag for element in root.iter()} <= {"svg", "title", "desc", "g", "path", "text"}
        assert "<script" not in picture and "url(" not in picture
        styles = " ".join(element.get("style", "") for element in root.iter())
        assert not re.search(r"#[0-9a-f]{3}", styles) and "var(--s" in styles and "font-family" not in styles
        # Every text and every shape has a colour of the page, not the browser's default black.
        shapes = [element for element in root.iter() if element.tag in ("path", "text")]
        assert all("fill:" in element.get("style", "") for element in shapes)
        assert all("var(--" in element.get("style", "") for element in shapes)


def test_an_svg_has_an_accessible_name_and_description() -> None:
    picture = hostile_svgs()[0]
    root = ElementTree.fromstring(picture)
    assert root.get("role") == "img" and [root[0].tag, root[0].text] == ["title", "<title>"]
    assert [root[1].tag, root[1].text] == ["desc", "a & b"]
    assert any("</text><script>" in (element.text or "") for element in root.iter("text"))


def test_equal_figures_give_equal_files_with_any_user_settings(tmp_path: Path) -> None:
    first = hostile_svgs()
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "svg.fonttype": "path"}):
        assert hostile_svgs() == first
        save_png(draw_bars(["a"], {"g": [estimate(1.0)]}, width=300, xlabel="%", title="bars"), tmp_path / "one.png")
    save_png(draw_bars(["a"], {"g": [estimate(1.0)]}, width=300, xlabel="%", title="bars"), tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_a_standalone_figure_has_title_and_legend_and_one_in_a_page_has_neither() -> None:
    groups = {"satisfaction": [estimate(1.0)], "engagement": [estimate(2.0)]}
    alone = draw_bars(["a"], groups, width=500, xlabel="%", title="Bars")
    (legend,) = alone.legends
    assert [text.get_text() for text in legend.get_texts()] == list(groups) and alone.get_suptitle() == "Bars"
    faces = [to_hex(patch.get_facecolor()) for patch in legend.get_patches()]
    assert faces == list(SERIES[:2])
    of_page = draw_bars(["a"], groups, width=500, xlabel="%")
    assert not of_page.legends and not of_page.get_suptitle()


def test_figures_without_data_are_empty_and_not_an_error() -> None:
    """A study may have measured nothing yet, or only the base variant."""
    assert not draw_bars([], {"satisfaction": []}, width=500, xlabel="%", title="Bars").axes[0].patches
    figure = draw_frontier([], size=(500, 400), xlabel="x", ylabel="y", origin="main_only", title="Frontier")
    assert [text.get_text() for text in figure.axes[0].texts] == ["main_only"]
    figure = draw_lines({"a": [], "b": []}, size=SIZE, xlabel="x", ticks=[], logarithmic=True, title="Lines")
    assert len(figure.axes) == 2


def test_reliability_has_a_diagonal_between_equal_limits() -> None:
    points = [(0.05, 0.1), (0.3, 0.25), (0.6, 0.7)]
    found = [Estimate(value=y, low=y - 0.02, high=y + 0.02, count=50) for _, y in points]
    figure = draw_reliability(
        [Line(name="run", style=0, points=points, estimates=found), Line(name="b", style=1, points=[(0.2, 0.2)])],
        size=SIZE,
        xlabel="predicted",
        ylabel="observed",
    )
    (axes,) = figure.axes
    assert axes.get_xlim() == axes.get_ylim() and axes.get_xlim()[0] >= 0 and axes.get_xlim()[1] > 0.7
    diagonal = axes.lines[0]
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == list(axes.get_xlim())
    drawn = {line.get_label(): list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in axes.lines}
    assert drawn["run"] == points and drawn["b"] == [(0.2, 0.2)] and stems(axes) == 3
