"""What study `robustness` shows: its results as values for results.json, the table and the figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.figure import Figure

from easq_rec.evaluation.mean_interval import Estimate, t_interval
from easq_rec.tools.figures.bars import draw_bars
from easq_rec.tools.studies.comparison import estimate_values
from easq_rec.tools.studies.price import POINTS, PRICES

PRICE = PRICES[0]
GAIN = f"satisfaction NDCG@5 gained at a price of {PRICE:g}% engagement, in %"
UNKNOWN = t_interval([])
LEGEND = (
    "At the default weight: change of NDCG@5 against main_only. Gain: the satisfaction gained at a price of "
    f"{PRICE:g}% engagement. Lost: the gain with honest answers and likes less this gain; easq less it: in the same "
    "setting. Both in percentage points, paired by world."
)


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """A method in a setting, over worlds. Changes are in percent of `main_only` of the setting."""

    setting: str
    method: str
    role: Literal["ours", "guard", "baseline"]
    """guard: `easq` with a guard switched off or on."""
    satisfaction: Estimate
    """Change of satisfaction NDCG@5 at the default weight; unknown where the method has no default weight."""
    engagement: Estimate
    """The same of engagement NDCG@5."""
    gain: Estimate
    """Satisfaction gained at the price, in percent."""
    lost: Estimate
    """Its gain in the honest setting less that, in percentage points."""
    easq_less_it: Estimate
    """Gain of `easq` in the same setting less that, in percentage points; unknown for `easq` itself."""

    def values(self) -> dict[str, Any]:
        """As JSON values."""
        estimates = ("satisfaction", "engagement", "gain", "lost", "easq_less_it")
        return {
            "setting": self.setting,
            "method": self.method,
            "role": self.role,
            **{name: estimate_values(getattr(self, name)) for name in estimates},
        }


def settings_of(results: Sequence[MethodResult]) -> list[str]:
    """Names of the settings, in order."""
    return list(dict.fromkeys(one.setting for one in results))


def gains_by_method(results: Sequence[MethodResult]) -> Mapping[str, list[Estimate]]:
    """The gain in each setting, by method: those that learn from answers, which are in most settings."""
    settings = settings_of(results)
    by_place = {(one.setting, one.method): one.gain for one in results}
    methods = list(dict.fromkeys(one.method for one in results if one.role != "guard"))
    found = {name: [by_place.get((setting, name), UNKNOWN) for setting in settings] for name in methods}
    return {name: gains for name, gains in found.items() if 2 * sum(gain.count > 0 for gain in gains) > len(settings)}


def robustness_figure(results: Sequence[MethodResult]) -> Figure:
    """The gain of each method that learns from answers, by setting."""
    return draw_bars(
        settings_of(results),
        gains_by_method(results),
        width=900,
        xlabel=GAIN,
        title="What each method gains if answers or likes are bad",
    )


def robustness_table(results: Sequence[MethodResult]) -> str:
    """All results in Markdown."""
    headings = [
        *("setting", "method", "satisfaction NDCG@5, default weight", "engagement NDCG@5, default weight"),
        *(f"gain at {PRICE:g}%", f"lost against honest, {POINTS}", f"easq less it, {POINTS}"),
    ]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for one in results:
        cells = [one.setting, one.method, _cell(one.satisfaction), _cell(one.engagement), _cell(one.gain)]
        cells += [_cell(one.lost, "", 2), _cell(one.easq_less_it, "", 2)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(estimate: Estimate, unit: str = "%", digits: int = 1) -> str:
    return estimate.text(unit, digits) if estimate.count else "-"
