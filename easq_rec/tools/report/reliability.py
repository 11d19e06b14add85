"""Reliability of the predicted outcomes, from the evaluations of the runs."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.run_directory.formatting import NONE, short
from easq_rec.run_directory.run_files import RunFiles
from easq_rec.tools.figures.lines import Line
from easq_rec.tools.figures.reliability import draw_reliability
from easq_rec.tools.figures.svg import svg
from easq_rec.tools.report.parts import PagePlot, PageTable, PlotGroup
from easq_rec.tools.report.plots import line_legend

SIZE = (330, 300)
"""Width and height in pixels."""
REMARK = (
    "Held-out candidates in bins of equal mass by prediction: mean outcome over mean prediction, with 95% intervals "
    "over users. A calibrated prediction lies on the dashed diagonal; below it, too much is predicted."
)


def reliability(runs: Sequence[RunFiles]) -> PlotGroup:
    """A panel for each outcome that an evaluated run predicts, with a line for each run."""
    names = list(dict.fromkeys(name for run in runs for name, bins in run.reliability.items() if bins))
    plots = [_plot(name, {index: run for index, run in enumerate(runs) if run.reliability.get(name)}) for name in names]
    legend = line_legend({run.name: index for index, run in enumerate(runs)})
    return PlotGroup(title="Reliability of the predicted outcomes", remarks=[REMARK], legend=legend, plots=plots)


def _plot(name: str, runs: dict[int, RunFiles]) -> PagePlot:
    """The panel of one outcome.

    Args:
        runs: those that predict it, by their style.
    """
    lines, rows = [], []
    for style, run in runs.items():
        bins = run.reliability[name]
        points = [(one["predicted"], one["observed"]) for one in bins]
        estimates = [
            Estimate(value=one["observed"], low=one["low"], high=one["high"], count=int(one["candidates"]))
            for one in bins
        ]
        lines.append(Line(name=run.name, style=style, points=points, estimates=estimates))
        rows += [
            [run.name, short(one["predicted"]), short(one["observed"]), _interval(one), short(round(one["candidates"]))]
            for one in bins
        ]
    errors = (f"{run.name} {_error(run, name)}" for run in runs.values())
    text = f"Calibration error: {', '.join(errors)}."
    figure = draw_reliability(lines, size=SIZE, xlabel="predicted", ylabel="observed")
    return PagePlot(
        title=name,
        pictures=[Markup(svg(figure, f"Reliability of {name}", text))],
        remark=text,
        summary="Figures",
        table=PageTable(
            caption=f"Reliability of {name}",
            headings=["run", "predicted", "observed", "95% interval", "candidates"],
            rows=rows,
        ),
    )


def _interval(one: dict[str, float]) -> str:
    return f"[{short(one['low'])}, {short(one['high'])}]"


def _error(run: RunFiles, name: str) -> str:
    entry = (run.evaluation or {}).get("metrics", {}).get(f"outcome_calibration_error_{name}")
    return short(entry["value"]) if entry else NONE
