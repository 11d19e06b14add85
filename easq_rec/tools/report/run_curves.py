"""Curves of runs: losses, held-out metrics, hours of a stream, gates, signs of sound learning, and speed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from easq_rec.run_directory.metrics_file import FINAL, HOLDOUT, HOUR, TRAIN
from easq_rec.run_directory.run_files import RunFiles
from easq_rec.tools.figures.lines import Line
from easq_rec.tools.report.names import hourly_label, label
from easq_rec.tools.report.parts import PagePlot, PlotGroup
from easq_rec.tools.report.plots import line_legend, line_plot

GATE = re.compile(r"gate_(\w+)_(\d+)")
PHASE = "ms_"
HOUR_MS = 3_600_000
COUNTS = ("requests", "candidates")
SHARE = (-0.03, 1.03)
"""Heights of a panel of shares, with room for lines at 0 and at 1."""


@dataclass(frozen=True, kw_only=True)
class CurveGroup:
    """Metrics that are read together, a panel for each."""

    title: str
    splits: tuple[str, ...]
    belongs: Callable[[str], bool]
    first: tuple[str, ...] = ()
    """Shown in this order; the others are folded. Empty: all are shown."""
    remark: str = ""


GROUPS = (
    CurveGroup(title="Training losses", splits=(TRAIN,), belongs=lambda name: name.startswith("loss")),
    CurveGroup(
        title="Held-out metrics over training",
        splits=(HOLDOUT, FINAL),
        belongs=lambda name: not name.startswith("answers_") and name not in COUNTS,
        first=("satisfaction_ndcg5", "engagement_ndcg5", "pair_accuracy", "gauc"),
        remark="During training over the first evaluation.max_requests held-out requests, at the end over all.",
    ),
    CurveGroup(
        title="Answers, trained on and held out",
        splits=(HOLDOUT, FINAL),
        belongs=lambda name: name.startswith("answers_") and not name.endswith("_pairs"),
        first=(
            "answers_train_reference_accuracy",
            "answers_holdout_reference_accuracy",
            "answers_train_margin",
            "answers_holdout_margin",
        ),
        remark="A margin that grows on trained answers but not on held-out ones shows that answers are memorised.",
    ),
    CurveGroup(
        title="Learning health",
        splits=(TRAIN,),
        belongs=lambda name: not name.startswith(("loss", PHASE, "impressions_")) and not GATE.fullmatch(name),
        first=("policy_std", "reference_std", "divergence", "pairs_answered", "replay_admitted", "replay_mean"),
    ),
)


def curves(runs: Sequence[RunFiles]) -> list[PlotGroup]:
    """A group of panels for each kind of metric that was recorded more than once."""
    losses, metrics, answers, health = (_group(group, runs) for group in GROUPS)
    found = (losses, metrics, answers, _hours(runs), _gates(runs), health, _speed(runs))
    return [group for group in found if group.plots or group.more]


def _styles(runs: Sequence[RunFiles]) -> dict[str, int]:
    return {run.name: index for index, run in enumerate(runs)}


def _group(group: CurveGroup, runs: Sequence[RunFiles]) -> PlotGroup:
    names = list(dict.fromkeys(name for run in runs for name in run.names(*group.splits) if group.belongs(name)))
    zero = [name for name in names if all(not value for run in runs for _, value in run.course(name, *group.splits))]
    drawn = {name: plot for name in names if name not in zero and (plot := _plot(name, group.splits, runs)) is not None}
    first = [name for name in group.first or drawn if name in drawn]
    more = [plot for name, plot in drawn.items() if name not in first]
    remarks = [group.remark] if group.remark else []
    if zero:
        remarks.append(f"0 throughout: {', '.join(label(name) for name in zero)}.")
    return PlotGroup(
        title=group.title,
        remarks=remarks,
        legend=line_legend(_styles(runs)),
        plots=[drawn[name] for name in first],
        more=more,
        more_title=f"{len(more)} more",
    )


def _hours(runs: Sequence[RunFiles]) -> PlotGroup:
    """The metrics of runs that follow a stream, by hour of its requests."""
    hours = {run.name: [record.values for record in run.records if record.split == HOUR] for run in runs}
    begins = [values["hour_ms"] for found in hours.values() for values in found]
    styles = _styles([run for run in runs if hours[run.name]])
    names = dict.fromkeys(name for found in hours.values() for values in found for name in values)
    drawn: dict[str, PagePlot] = {}
    for name in names:
        if name == "hour_ms" or name.startswith("replay_"):
            continue
        lines = [
            Line(
                name=run,
                style=style,
                points=[((one["hour_ms"] - min(begins)) / HOUR_MS, one[name]) for one in hours[run] if name in one],
            )
            for run, style in styles.items()
        ]
        if plot := line_plot(hourly_label(name), lines, xlabel="hour of the stream"):
            drawn[name] = plot
    first = [name for name in drawn if name.startswith("auc_") or name == "engagement_ndcg5"]
    first += [name for name in drawn if name.startswith("ratio_")]
    more = [plot for name, plot in drawn.items() if name not in first]
    return PlotGroup(
        title="The stream, hour by hour",
        remarks=["Of scores before the requests were learned from. What falls here has drifted."],
        legend=line_legend(styles),
        plots=[drawn[name] for name in first],
        more=more,
        more_title=f"{len(more)} more",
    )


def _plot(name: str, splits: Sequence[str], runs: Sequence[RunFiles]) -> PagePlot | None:
    """A line for each run."""
    styles = _styles(runs)
    return line_plot(
        label(name), [Line(name=run.name, style=styles[run.name], points=run.course(name, *splits)) for run in runs]
    )


def _of_run(
    run: RunFiles, names: Mapping[str, str], title: str, heights: tuple[float, float] | None = None
) -> PagePlot | None:
    """Several metrics of one run in one panel.

    Args:
        names: names in the legend by metric.
    """
    lines = [
        Line(name=shown, style=index, points=run.course(name, TRAIN))
        for index, (name, shown) in enumerate(names.items())
    ]
    return line_plot(title, lines, heights=heights, with_legend=True)


def _gates(runs: Sequence[RunFiles]) -> PlotGroup:
    """How often the gate of each expert is open, for each tower of each run."""
    plots = []
    for run in runs:
        towers: dict[str, dict[int, str]] = {}
        for name in run.names(TRAIN):
            if found := GATE.fullmatch(name):
                towers.setdefault(found[1], {})[int(found[2])] = name
        for tower, experts in towers.items():
            of_run = f", {run.name}" if len(runs) > 1 else ""
            names = {name: f"expert {number}" for number, name in sorted(experts.items())}
            plots.append(_of_run(run, names, f"{tower} tower{of_run}: open gates", SHARE))
    remark = "Share of a step's candidates for which the gate of an expert is open. An expert at 0 is dead."
    return PlotGroup(title="Gate activity", remarks=[remark], plots=[plot for plot in plots if plot is not None])


def _speed(runs: Sequence[RunFiles]) -> PlotGroup:
    rate = _plot("impressions_per_second", (TRAIN,), runs)
    phases = []
    for run in runs:
        names = {name: name.removeprefix(PHASE) for name in run.names(TRAIN) if name.startswith(PHASE)}
        of_run = f", {run.name}" if len(runs) > 1 else ""
        phases.append(_of_run(run, names, f"milliseconds per step{of_run}"))
    return PlotGroup(
        title="Speed",
        legend=line_legend(_styles(runs)) if rate else (),
        plots=[rate] if rate else [],
        more=[plot for plot in phases if plot is not None],
        more_title="Time of each phase of a step",
    )
