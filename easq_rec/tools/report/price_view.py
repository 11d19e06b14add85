"""What a page says about methods at an equal price: the families of study `frontier`, and the places of study `map`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from easq_rec.run_directory.formatting import NONE, estimate, short
from easq_rec.tools.figures.heat import draw_heat
from easq_rec.tools.figures.svg import svg
from easq_rec.tools.report.parts import PagePlot, PageTable, PlotGroup, change
from easq_rec.tools.report.plots import NARROW, WIDE, bar_plot, line_legend
from easq_rec.tools.studies.map_view import ITEM, LEGEND, LIKES, PRICE, Map, MapPlace
from easq_rec.tools.studies.price_view import ENVELOPES, GAINED, FamilyResult, envelopes, price_figure

HEAT = (330, 260)
"""Width and height of a panel of the map in pixels."""


def price_plots(prices: Mapping[str, Sequence[FamilyResult]]) -> list[PagePlot]:
    """For each metric of satisfaction the envelopes, and the gains as bars."""
    found = []
    for metric, results in prices.items():
        if not results:
            continue
        title = f"{_title(metric)} gained at a price in engagement, change in %"
        text = "; ".join(
            f"{one.name}: " + ", ".join(f"{estimate(gain)} at {price:g}%" for price, gain in one.gains.items())
            for one in results
        )
        figures = [price_figure(results, metric, size=size, title=False) for size in (WIDE, NARROW)]
        styles = {one.name: one.style for one in envelopes(results) if one.style is not None}
        found.append(
            PagePlot(
                title=title,
                pictures=[Markup(svg(figure, title, f"{text}.")) for figure in figures],
                legend=line_legend(styles),
                remark=f"{ENVELOPES} Thin: the other methods.",
            )
        )
        groups = {f"at {price:g}%": [one.gains[price] for one in results] for price in results[0].gains}
        names = [one.name for one in results]
        found.append(bar_plot(f"Gain in {GAINED.get(metric, metric)}", names, groups, xlabel="gain in %"))
    return found


def price_tables(prices: Mapping[str, Sequence[FamilyResult]]) -> list[tuple[str, str, PageTable]]:
    """(heading, remark, table) for each metric of satisfaction."""
    found = []
    for metric, results in prices.items():
        if not results:
            continue
        caption = f"{_title(metric)} at an equal price"
        paid = list(results[0].gains)
        headings = ["family", "role", *(head for price in paid for head in (f"at {price:g}%", "easq less it"))]
        rows = [
            [
                one.name,
                one.role,
                *(cell for price in paid for cell in (estimate(one.gains[price]), _lead(one, price))),
            ]
            for one in results
        ]
        remark = (
            "Gain in percent at a price of so much engagement, and by how many percentage points easq gains more, with "
            "95% t intervals; bold where that of a difference excludes 0."
        )
        found.append((caption, remark, PageTable(caption=caption, headings=headings, rows=rows, numeric_from=2)))
    return found


def _title(metric: str) -> str:
    name = GAINED.get(metric, metric)
    return name[:1].upper() + name[1:]


def _lead(one: FamilyResult, price: float) -> str:
    return change(one.behind[price], "") if price in one.behind else NONE


def map_group(places: Sequence[MapPlace]) -> PlotGroup:
    """A heat map for each number of answers."""
    found = Map.of(places)
    densities = sorted({place.density for place in places})
    plots = []
    for (title, fields), density in zip(found.panels.items(), densities, strict=True):
        figure = draw_heat(
            {title: fields},
            rows=found.rows,
            columns=found.columns,
            size=HEAT,
            xlabel="share of satisfaction that is the video's",
            ylabel="log odds ratio of a like",
            most=found.most,
        )
        text = "; ".join(
            f"log odds ratio {place.like_log_odds:.2f}, share {place.item_share:g}: {estimate(place.lead, '')}, "
            f"{place.winner} gains most"
            for place in places
            if place.density == density
        )
        plots.append(PagePlot(title=title, pictures=[Markup(svg(figure, title, f"{text}."))]))
    return PlotGroup(title="Map", remarks=[LEGEND, f"From left to right: {ITEM}. Upwards: {LIKES}."], plots=plots)


def map_tables(places: Sequence[MapPlace]) -> list[tuple[str, str, PageTable]]:
    """(heading, remark, table) of all places."""
    names = list(dict.fromkeys(name for place in places for name in place.gains))
    caption = f"All places, gain in percent at a price of {PRICE:g}% engagement"
    headings = [LIKES, ITEM, "answers", "wins", "easq less best other", "best other", *names]
    rows = [
        [
            f"{place.like_log_odds:.2f}",
            short(place.item_share),
            f"{place.answers:,.0f}",
            place.winner,
            change(place.lead, ""),
            place.other or NONE,
            *(estimate(place.gains[name]) if name in place.gains else NONE for name in names),
        ]
        for place in places
    ]
    remark = "Differences in percentage points; bold where the 95% interval excludes 0."
    return [(caption, remark, PageTable(caption=caption, headings=headings, rows=rows))]
