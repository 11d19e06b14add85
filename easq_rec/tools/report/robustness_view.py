"""What a page says about study `robustness`: the gains as bars, and all methods in every setting."""

from __future__ import annotations

from collections.abc import Sequence

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.run_directory.formatting import NONE, estimate
from easq_rec.tools.report.parts import PagePlot, PageTable, change
from easq_rec.tools.report.plots import bar_plot
from easq_rec.tools.studies.robustness_view import GAIN, LEGEND, PRICE, MethodResult, gains_by_method, settings_of


def robustness_plots(results: Sequence[MethodResult]) -> list[PagePlot]:
    """The gain of each method that learns from answers, by setting."""
    return [bar_plot("Gain by setting", settings_of(results), gains_by_method(results), xlabel=GAIN)]


def robustness_tables(results: Sequence[MethodResult]) -> list[tuple[str, str, PageTable]]:
    """(heading, remark, table) of all methods in every setting."""
    caption = f"All settings, gain in percent at a price of {PRICE:g}% engagement"
    headings = [
        *("setting", "method", "satisfaction, default weight", "engagement, default weight"),
        *("gain", "lost against honest", "easq less it"),
    ]
    rows = [
        [
            one.setting,
            one.method,
            _known(one.satisfaction),
            _known(one.engagement),
            _known(one.gain),
            _compared(one.lost),
            _compared(one.easq_less_it),
        ]
        for one in results
    ]
    return [(caption, LEGEND, PageTable(caption=caption, headings=headings, rows=rows, numeric_from=2))]


def _known(found: Estimate) -> str:
    return estimate(found) if found.count else NONE


def _compared(found: Estimate) -> str:
    return change(found, "") if found.count else NONE
