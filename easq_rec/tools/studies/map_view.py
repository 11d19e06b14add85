"""What study `map` shows: its places as values for results.json, the table, and the heat map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.tools.figures.heat import HeatField, draw_heat
from easq_rec.tools.studies.comparison import estimate_values
from easq_rec.tools.studies.price import POINTS, PRICES

PRICE = PRICES[0]
ITEM = "share of the variance of satisfaction that is the video's"
LIKES = "log odds ratio of a like, satisfied to dissatisfied answers"
LEGEND = (
    f"Colour and first line: gain of easq at {PRICE:g}% engagement less that of the best other method, in percentage "
    "points; blue: easq gains more, orange: less. Below: its 95% interval, and the method that gains most. Framed: the "
    "interval excludes 0."
)
TITLE = f"Where easq gains more at a price of {PRICE:g}% engagement, by number of answers"


@dataclass(frozen=True, kw_only=True)
class MapPlace:
    """A world of the map, over its seeds."""

    like_slope: float
    item_share: float
    density: float
    answers: float
    """Mean number of answers in the log."""
    like_log_odds: float
    """Log odds ratio of a like between satisfied and dissatisfied answers, measured where answers are densest."""
    gains: Mapping[str, Estimate]
    """Gain of each method, in percent of satisfaction NDCG@5."""
    winner: str
    """The method with the highest mean gain, or `main_only` if none gains anything."""
    other: str
    """The method with the highest mean gain besides `easq`; empty: none was measured."""
    lead: Estimate
    """Gain of `easq` less that of `other`, in percentage points."""

    @property
    def sure(self) -> bool:
        """Whether the interval of the lead excludes 0."""
        return self.lead.low > 0 or self.lead.high < 0

    def values(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "like_slope": self.like_slope,
            "item_share": self.item_share,
            "density": self.density,
            "answers": self.answers if math.isfinite(self.answers) else None,
            "like_log_odds": self.like_log_odds if math.isfinite(self.like_log_odds) else None,
            "gains": {name: estimate_values(gain) for name, gain in self.gains.items()},
            "winner": self.winner,
            "other": self.other,
            "lead": estimate_values(self.lead),
        }


@dataclass(frozen=True, kw_only=True)
class Map:
    """The places by their three coordinates, with the names of rows, columns and panels."""

    panels: Mapping[str, Sequence[Sequence[HeatField]]]
    rows: Sequence[str]
    columns: Sequence[str]
    most: float

    @classmethod
    def of(cls, places: Sequence[MapPlace]) -> Map:
        """The map of places, which fill a grid."""
        slopes, shares, densities = (
            sorted({getattr(place, name) for place in places}) for name in ("like_slope", "item_share", "density")
        )
        by_place = {(place.like_slope, place.item_share, place.density): place for place in places}
        return cls(
            panels={
                f"{_rounded(_mean(place.answers for place in places if place.density == density))} answers": [
                    [_field(by_place[slope, share, density]) for share in shares] for slope in slopes
                ]
                for density in densities
            },
            rows=[
                f"{_mean(place.like_log_odds for place in places if place.like_slope == slope):.2f}" for slope in slopes
            ],
            columns=[f"{share:g}" for share in shares],
            most=max([abs(place.lead.value) for place in places if math.isfinite(place.lead.value)], default=1.0),
        )


def _field(place: MapPlace) -> HeatField:
    lead = place.lead
    if math.isnan(lead.value):
        return HeatField(value=math.nan, lines=["not measured"], marked=False)
    known = math.isfinite(lead.high - lead.low)
    inside = [f"[{lead.low:+.1f}, {lead.high:+.1f}]"] if known else []
    return HeatField(value=lead.value, lines=[f"{lead.value:+.1f}", *inside, place.winner], marked=place.sure)


def _mean(values: Any) -> float:
    known = [value for value in values if math.isfinite(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _rounded(count: float) -> str:
    """A number to two digits: `2,100`."""
    if not math.isfinite(count) or count < 1:
        return "unknown number of" if not math.isfinite(count) else "0"
    return f"{round(count, 1 - int(math.log10(count))):,.0f}"


def map_figure(places: Sequence[MapPlace]) -> Figure:
    """The heat map, with a panel for each number of answers."""
    found = Map.of(places)
    return draw_heat(
        found.panels,
        rows=found.rows,
        columns=found.columns,
        size=(max(160 * len(found.columns), 260) * len(found.panels) + 60, 110 * len(found.rows) + 120),
        xlabel=ITEM if len(found.columns) > 2 else "share of satisfaction that is the video's",
        ylabel="log odds ratio of a like",
        most=found.most,
        title=TITLE,
    )


def map_table(places: Sequence[MapPlace]) -> str:
    """The places in Markdown."""
    names = list(dict.fromkeys(name for place in places for name in place.gains))
    headings = ["like slope", LIKES, ITEM, "answers", "wins", f"easq less best other, {POINTS}", "best other", *names]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for place in places:
        cells = [
            f"{place.like_slope:g}",
            f"{place.like_log_odds:.2f}",
            f"{place.item_share:g}",
            f"{place.answers:,.0f}",
            place.winner if place.sure or place.winner != "easq" else f"{place.winner}, not surely",
            place.lead.text("", 2),
            place.other or "-",
            *(place.gains[name].text() if name in place.gains else "-" for name in names),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
