"""What a study shows of families at an equal price: values for results.json, tables, and the figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.tools.figures.envelopes import Envelope, draw_envelopes
from easq_rec.tools.studies.comparison import estimate_values
from easq_rec.tools.studies.families import EASQ, MethodFamily
from easq_rec.tools.studies.grid import BASE
from easq_rec.tools.studies.price import POINTS, PRICES, Priced
from easq_rec.tools.studies.verdict import Check

LONGEST = 5.0
"""Prices beyond this, in percent of engagement, are not drawn."""
HIGHLIGHTED = 3
"""Number of baselines that stand out in the figure, besides `easq`."""
GAINED = {"satisfaction": "satisfaction NDCG@5", "pair_accuracy": "pair accuracy"}
"""Metrics of satisfaction of which gains are computed."""
FILES = {"satisfaction": "frontier.png", "pair_accuracy": "frontier-pairs.png"}
"""Name of the figure of each metric."""
ENVELOPES = (
    "Points are means over worlds. Lines are envelopes of the points and of main_only, computed in each world and then "
    f"averaged. Dashed: the prices at which gains are compared. Prices above {LONGEST:g}% are not shown."
)


@dataclass(frozen=True, kw_only=True)
class FamilyResult:
    """A family with its gains."""

    name: str
    role: str
    gains: Mapping[float, Estimate]
    """By price, in percent of the gained metric."""
    behind: Mapping[float, Estimate]
    """Gain of `easq` less its own, by price, in percentage points."""
    points: Sequence[tuple[float, Estimate, Estimate]]
    """(weight, change of engagement, change of the gained metric)."""
    curve: Sequence[tuple[float, float]]
    """(price, gain) of the mean envelope."""

    def values(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "role": self.role,
            "gains": [{"price": price, "gain": estimate_values(gain)} for price, gain in self.gains.items()],
            "easq_less_it": [{"price": price, "lead": estimate_values(lead)} for price, lead in self.behind.items()],
            "points": [
                {"weight": weight, "engagement": estimate_values(paid), "gained": estimate_values(gained)}
                for weight, paid, gained in self.points
            ],
            "curve": [list(place) for place in self.curve],
        }


def results_of(families: Sequence[MethodFamily], priced: Mapping[str, Priced]) -> list[FamilyResult]:
    """The families that were measured, by falling gain at the first price."""
    easq = priced.get(EASQ, Priced(by_world={}))
    found = [
        FamilyResult(
            name=family.name,
            role=family.role,
            gains={price: priced[family.name].gain(price) for price in PRICES},
            behind={} if family.name == EASQ else {p: easq.lead(priced[family.name], p) for p in PRICES},
            points=[
                (weight, paid, gained)
                for weight, (paid, gained) in zip(family.weights, priced[family.name].points(), strict=True)
            ],
            curve=priced[family.name].curve(LONGEST),
        )
        for family in families
        if priced[family.name].by_world
    ]
    return sorted(found, key=lambda one: -one.gains[PRICES[0]].value)


def lead_checks(gains: Mapping[str, Priced], others: Sequence[MethodFamily]) -> list[Check]:
    """Checks that `easq` gains more satisfaction than each of the other families at the first price."""
    price = PRICES[0]
    return [
        Check(
            what=f"gain of easq at {price:g}% less that of {family.name}",
            measured=gains[EASQ].lead(gains[family.name], price),
            wanted="above",
            threshold=0.0,
            unit=f" {POINTS}",
        )
        for family in others
    ]


def envelopes(results: Sequence[FamilyResult]) -> list[Envelope]:
    """The lines of the figure: `easq` and the best baselines stand out."""
    first = [one.name for one in results if one.name == EASQ]
    first += [one.name for one in results if one.role == "baseline"][:HIGHLIGHTED]
    styles = {name: style for style, name in enumerate(first)}
    return [
        Envelope(
            name=one.name,
            style=styles.get(one.name),
            line=[(-price, gain) for price, gain in _used(one)],
            points=[(paid.value, gained.value) for _, paid, gained in one.points],
        )
        for one in results
    ]


def _used(one: FamilyResult) -> list[tuple[float, float]]:
    """The curve up to the highest price that a point of the family pays: beyond it nothing more is gained."""
    paid = max([0.0, *(-change.value for _, change, _ in one.points if math.isfinite(change.value))])
    return [(price, gain) for price, gain in one.curve if price <= paid] or list(one.curve[:1])


def price_figure(
    results: Sequence[FamilyResult], metric: str, *, size: tuple[float, float] = (900, 560), title: bool = True
) -> Figure:
    """Gains over prices.

    Args:
        metric: a key of `GAINED`.
        size: width and height in points.
        title: False: the page around the figure has title and legend.
    """
    return draw_envelopes(
        envelopes(results),
        size=size,
        longest=LONGEST,
        marks=PRICES,
        xlabel=f"engagement NDCG@5, change against {BASE} in %",
        ylabel=f"{GAINED[metric]}, change in %",
        origin=BASE,
        title=f"What each method gains at which price, relative to {BASE}" if title else None,
    )


def gain_table(by_metric: Mapping[str, Sequence[FamilyResult]]) -> str:
    """Gains in Markdown: a row for each family, in the order of the first metric.

    Args:
        by_metric: the results by key of `GAINED`.
    """
    headings = ["family", "role"]
    for metric in by_metric:
        for price in PRICES:
            headings += [f"{GAINED[metric]} at {price:g}%", f"easq less it at {price:g}%"]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    first, *_ = by_metric.values()
    for name, role in ((one.name, one.role) for one in first):
        cells = []
        for results in by_metric.values():
            one = next((one for one in results if one.name == name), None)
            for price in PRICES:
                gain = one.gains[price].text() if one else "-"
                lead = one.behind[price].text("") if one and one.behind else "-"
                cells += [gain, lead]
        lines.append(f"| {name} | {role} | {' | '.join(cells)} |")
    return "\n".join(lines)


def point_table(by_metric: Mapping[str, Sequence[FamilyResult]]) -> str:
    """All points in Markdown: changes against `main_only` in percent."""
    titles = ["engagement NDCG@5", *(GAINED[metric] for metric in by_metric)]
    lines = [f"| family | weight | {' | '.join(titles)} |", "|---" * (2 + len(titles)) + "|"]
    first, *others = by_metric.values()
    for one in first:
        same = [next((other for other in results if other.name == one.name), None) for results in others]
        for place, (weight, paid, gained) in enumerate(one.points):
            more = [other.points[place][2].text() if other else "-" for other in same]
            lines.append(f"| {one.name} | {weight:g} | {' | '.join([paid.text(), gained.text(), *more])} |")
    return "\n".join(lines)


def lead_text(lead: Estimate) -> str:
    """A difference of two gains, in percentage points."""
    return lead.text(f" {POINTS}", 2)
