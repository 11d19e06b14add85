"""Curves of runs: losses, held-out metrics, gates, what else tells whether learning is sound, and speed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from easq_rec.run_directory.metrics_file import FINAL, HOLDOUT, TRAIN
from easq_rec.run_directory.run_files import RunFiles
from easq_rec.tools.report.lines import Line
from easq_rec.tools.report.markup import Markup, folded, join, tag
from easq_rec.tools.report.names import label
from easq_rec.tools.report.panels import panel, panels

GATE = re.compile(r"gate_(\w+)_(\d+)")
PHASE = "ms_"
COUNTS = ("requests", "candidates")
SHARE = (-0.03, 1.03)
"""Heights of a panel of shares, with room for the lines at 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class CurveGroup:
    """Metrics that are looked at together, a panel each."""

    title: str
    splits: tuple[str, ...]
    belongs: Callable[[str], bool]
    first: tuple[str, ...] = ()
    """Shown at once, in this order; the others on demand. Empty: all at once."""
    told: str | None = None


GROUPS = (
    CurveGroup(title="Training losses", splits=(TRAIN,), belongs=lambda name: name.startswith("loss")),
    CurveGroup(
        title="Held-out metrics over training",
        splits=(HOLDOUT, FINAL),
        belongs=lambda name: not name.startswith("answers_") and name not in COUNTS,
        first=("satisfaction_ndcg5", "engagement_ndcg5", "pair_accuracy", "gauc"),
        told="On the way over the first evaluation.max_requests of them, in the end over all.",
    ),
    CurveGroup(
        title="Answers, learnt and held out",
        splits=(HOLDOUT, FINAL),
        belongs=lambda name: name.startswith("answers_") and not name.endswith("_pairs"),
        first=(
            "answers_train_reference_accuracy",
            "answers_holdout_reference_accuracy",
            "answers_train_margin",
            "answers_holdout_margin",
        ),
        told="A margin on trained answers that grows beyond the one on held-out answers is answers learnt by heart.",
    ),
    CurveGroup(
        title="Learning health",
        splits=(TRAIN,),
        belongs=lambda name: not name.startswith(("loss", PHASE, "impressions_")) and not GATE.fullmatch(name),
        first=("policy_std", "reference_std", "divergence", "pairs_answered", "replay_admitted", "replay_mean"),
    ),
)


def curves(runs: Sequence[RunFiles]) -> Markup:
    """A part for each group of which something was recorded more than once."""
    losses, *others = (_group(group, runs) for group in GROUPS)
    return join(losses, *others[:2], _gates(runs), *others[2:], _speed(runs))


def _group(group: CurveGroup, runs: Sequence[RunFiles]) -> Markup:
    names = list(dict.fromkeys(name for run in runs for name in run.names(*group.splits) if group.belongs(name)))
    still = [name for name in names if all(not value for run in runs for _, value in run.course(name, *group.splits))]
    drawn = {
        name: made for name in names if name not in still and (made := _panel(name, group.splits, runs)) is not None
    }
    if not drawn:
        return Markup("")
    first = [name for name in group.first or drawn if name in drawn]
    rest = [drawn[name] for name in drawn if name not in first]
    zero = f"0 throughout: {', '.join(label(name) for name in still)}." if still else None
    styles = {run.name: index for index, run in enumerate(runs)}
    return join(
        tag("h3", group.title),
        *(tag("p", text, class_="muted") for text in (group.told, zero) if text),
        panels([drawn[name] for name in first], styles),
        folded(f"{len(rest)} more", panels(rest, styles)) if rest else None,
    )


def _panel(name: str, splits: Sequence[str], runs: Sequence[RunFiles]) -> Markup | None:
    """A line per run; None where no run has two points."""
    lines = [Line(name=run.name, points=run.course(name, *splits), style=index) for index, run in enumerate(runs)]
    return panel(label(name), lines) if any(len(line.points) > 1 for line in lines) else None


def _gates(runs: Sequence[RunFiles]) -> Markup:
    """For each tower of each run, how often the gate of each expert is open."""
    made = []
    for run in runs:
        towers: dict[str, list[tuple[int, str]]] = {}
        for name in run.names(TRAIN):
            if found := GATE.fullmatch(name):
                towers.setdefault(found[1], []).append((int(found[2]), name))
        for tower, experts in towers.items():
            lines = [
                Line(name=f"expert {number}", points=run.course(name, TRAIN), style=number)
                for number, name in sorted(experts)
            ]
            if any(len(line.points) > 1 for line in lines):
                of_run = f", {run.name}" if len(runs) > 1 else ""
                made.append(panel(f"{tower} tower{of_run}: open gates", lines, heights=SHARE, own_legend=True))
    if not made:
        return Markup("")
    told = "Share of the candidates of a step for which an expert's gate is open. An expert at 0 is dead."
    return join(tag("h3", "Gate activity"), tag("p", told, class_="muted"), panels(made))


def _speed(runs: Sequence[RunFiles]) -> Markup:
    rate = _panel("impressions_per_second", (TRAIN,), runs)
    made = []
    for run in runs:
        lines = [
            Line(name=name.removeprefix(PHASE), points=run.course(name, TRAIN), style=index)
            for index, name in enumerate(name for name in run.names(TRAIN) if name.startswith(PHASE))
        ]
        if any(len(line.points) > 1 for line in lines):
            of_run = f", {run.name}" if len(runs) > 1 else ""
            made.append(panel(f"milliseconds per step{of_run}", lines, own_legend=True))
    if rate is None and not made:
        return Markup("")
    styles = {run.name: index for index, run in enumerate(runs)}
    return join(
        tag("h3", "Speed"),
        panels([rate] if rate is not None else [], styles),
        folded("Time of each phase of a step", panels(made)) if made else None,
    )
