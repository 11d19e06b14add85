"""What a page says about study `worth`: the sources of information, the learning curve, and who answers."""

from __future__ import annotations

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.run_directory.formatting import estimate
from easq_rec.tools.report.parts import PagePlot, PageTable, PlotGroup
from easq_rec.tools.report.plots import bar_plot, line_legend, line_plot
from easq_rec.tools.report.study_files import WorthRecord, WorthSource, estimate_of
from easq_rec.tools.studies.worth.curve_lines import EXPLAINED, curve_lines, unsigned
from easq_rec.tools.studies.worth.questions import SOURCES

METRICS = {"auc": "AUC", "within": "AUC within users", "loss": "log loss", "explained": "explained, %"}
DIGITS = {"auc": 3, "within": 3, "loss": 4, "explained": 1}


def information_bars(worth: WorthRecord) -> PagePlot | None:
    """Explained log loss of each source."""
    names = [source for source in SOURCES if source != "constant"]
    groups: dict[str, dict[str, Estimate]] = {}
    for one in worth.sources:
        groups.setdefault(f"{one.question}, {one.held_out}", {})[one.source] = one.metrics["explained"]
    if not groups:
        return None
    title = "What tells whether an answer is satisfied"
    bars = {group: [found[name] for name in names] for group, found in groups.items()}
    return bar_plot(title, names, bars, xlabel=EXPLAINED)


def learning_curve(worth: WorthRecord) -> PlotGroup | None:
    """The learning curves before the view, and that of `both` continued."""
    lines = curve_lines(worth.levels, worth.gains)
    if not lines:
        return None
    plot = line_plot(
        EXPLAINED,
        lines,
        xlabel="answers known",
        ticks=sorted({float(f"{x:.3g}") for line in lines for x, _ in line.points}),
        logarithmic=True,
    )
    return PlotGroup(
        title="Learning curve, before the view, by time",
        remarks=["The curve of both is continued by a power law."],
        legend=line_legend({line.name: line.style for line in lines}),
        plots=[plot] if plot is not None else [],
    )


def tables(worth: WorthRecord) -> list[tuple[str, str, PageTable]]:
    """(heading, remark, table)."""
    found = []
    if worth.sources:
        caption = "All sources"
        rows = [_cells(one, signed=False) for one in worth.sources] + [_cells(one, signed=True) for one in worth.adds]
        headings = ["held out", "question", "source", *METRICS.values()]
        table = PageTable(caption=caption, headings=headings, rows=rows, numeric_from=3)
        found.append((caption, "Explained: reduction of the log loss of the base rate.", table))
    if worth.patterns:
        caption = "Answers by behaviour of the impression"
        rows = [
            [
                str(one["behaviour"]),
                str(one["value"]),
                f"{one['impressions']:,}",
                f"{one['answers']:,}",
                unsigned(estimate_of(one["relative"]), 2),
            ]
            for one in worth.patterns
        ]
        headings = ["behaviour", "value", "impressions", "answers", "relative"]
        table = PageTable(caption=caption, headings=headings, rows=rows, numeric_from=2)
        found.append((caption, "Relative: answers per impression, over those of all impressions.", table))
    if worth.differences:
        caption = "Users who answer"
        rows = [[behaviour, estimate(value, "")] for behaviour, value in worth.differences]
        headings = ["mean behaviour of the user", "answers less impressions, standard deviations"]
        found.append((caption, "", PageTable(caption=caption, headings=headings, rows=rows)))
    return found


def _cells(one: WorthSource, *, signed: bool) -> list[str]:
    shown = [
        one.metrics[name].text("", digits) if signed else unsigned(one.metrics[name], digits)
        for name, digits in DIGITS.items()
    ]
    return [one.held_out, one.question, one.source, *shown]
