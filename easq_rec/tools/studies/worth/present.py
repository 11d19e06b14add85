"""Tables, figures and JSON values of study `worth`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from easq_rec.tools.figures.lines import draw_lines
from easq_rec.tools.studies.comparison import estimate_values
from easq_rec.tools.studies.plots import grouped
from easq_rec.tools.studies.worth.curve import MORE, Curve
from easq_rec.tools.studies.worth.curve_lines import EXPLAINED, curve_lines, unsigned
from easq_rec.tools.studies.worth.measure import Measured
from easq_rec.tools.studies.worth.questions import QUESTIONS, SOURCES, Question, Source
from easq_rec.tools.studies.worth.responders import MOST, Responders

METRICS = {"auc": "AUC", "within": "AUC within users", "loss": "log loss", "explained": "explained"}


def information_table(measured: Sequence[Measured]) -> str:
    """Every source in Markdown."""
    lines = ["| held out | question | source | AUC | AUC within users | log loss | explained, % |", "|---" * 7 + "|"]
    for split in measured:
        for question in QUESTIONS:
            for source in SOURCES:
                row = split.rows[question, source]
                cells = [
                    *(
                        unsigned(estimate, 3)
                        for estimate in (row.auc.estimate(0), row.within.estimate(0), row.loss.estimate(0))
                    ),
                    unsigned(row.explained.estimate(0), 1),
                ]
                lines.append(f"| {split.split.name} | {question} | {source} | {' | '.join(cells)} |")
            adds = split.adds(question)
            cells = [
                adds["auc"].text("", 3),
                adds["within"].text("", 3),
                adds["loss"].text("", 4),
                adds["explained"].text(""),
            ]
            lines.append(f"| {split.split.name} | {question} | *both - behaviour alone* | {' | '.join(cells)} |")
    return "\n".join(lines)


def curve_table(curves: Sequence[Curve]) -> str:
    """The learning curves in Markdown."""
    lines = ["| source | answers | draws | explained, % |", "|---|---|---|---|"]
    for curve in curves:
        for level in curve.levels:
            draws = len(level.draws)
            shown = unsigned(curve.estimate(level), 1)
            lines.append(f"| {curve.source} | {level.answers:,.0f} | {draws} | {shown} |")
        for more, gain in curve.gains.items():
            answers = curve.levels[-1].answers * more
            shown = f"{gain.estimate(0).text('')} more than all"
            lines.append(f"| {curve.source} | {answers:,.0f} | continued | {shown} |")
    return "\n".join(lines)


def pattern_table(who: Responders) -> str:
    """Who answers, by behaviour, in Markdown."""
    lines = ["| behaviour | value | impressions | answers | per 1,000 | relative |", "|---|---|---|---|---|---|"]
    for one in who.patterns:
        rate = f"{1_000 * one.answers / one.impressions:.2f}" if one.impressions else ""
        cells = (one.behaviour, one.value, f"{one.impressions:,}", f"{one.answers:,}", rate, unsigned(one.relative, 2))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def difference_table(who: Responders) -> str:
    """How the users who answer differ, in Markdown."""
    lines = ["| mean behaviour of the user | answers less impressions, in standard deviations |", "|---|---|"]
    lines += [f"| {one.behaviour} | {one.difference.text('', 2)} |" for one in who.differences]
    return "\n".join(lines)


def responder_notes(who: Responders) -> list[str]:
    """Sentences about who answers."""
    over = "triggered impressions" if who.triggered else "impressions"
    notes = [
        f"{who.answering:,} of the {who.users:,} users with {over} have answered. The most active {MOST:.0%} of the "
        f"users give {who.of_users[0]:.0%} of the answers, and have {who.of_users[1]:.0%} of these impressions. The "
        f"most shown {MOST:.0%} of the items have {who.of_items[0]:.0%} of the answers, and {who.of_items[1]:.0%} of "
        "these impressions."
    ]
    if not who.triggered:
        notes.append(
            "Answers are compared with all impressions, because the data lack watch_ms or duration_ms, which determine "
            "the triggered impressions. Who was asked at all is part of the differences."
        )
    return notes


def figures(measured: Sequence[Measured], curves: Sequence[Curve]) -> dict[str, Figure]:
    """Bars of the sources, and the learning curves."""
    found: dict[str, Figure] = {}
    names = [source for source in SOURCES if source != "constant"]
    groups = {
        f"{question}, {split.split.name}": [split.rows[question, name].explained.estimate(0) for name in names]
        for split in measured
        for question in QUESTIONS
    }
    if groups:
        title = "What tells whether an answer is satisfied"
        found["information.png"] = grouped(title, names, groups, xlabel=EXPLAINED)
    lines = curve_lines(
        {curve.source: [(level.answers, curve.estimate(level)) for level in curve.levels] for curve in curves},
        {curve.source: [(more, curve.gains[more].estimate(0)) for more in MORE] for curve in curves},
    )
    if lines:
        found["learning.png"] = draw_lines(
            {EXPLAINED: lines},
            size=(640, 400),
            xlabel="answers known",
            # Three digits leave room for the labels.
            ticks=sorted({float(f"{x:.3g}") for line in lines for x, _ in line.points}),
            logarithmic=True,
            title="Learning curve, before the view, by time",
        )
    return found


def values(measured: Sequence[Measured], curves: Sequence[Curve], who: Responders) -> dict[str, Any]:
    """Everything as JSON values."""
    return {
        "information": [
            {
                "held_out": split.split.name,
                "answers": split.held_out,
                "users": split.users,
                "question": question,
                "source": source,
                **_row_values(split, question, source),
            }
            for split in measured
            for question in QUESTIONS
            for source in SOURCES
        ],
        "adds": [
            {"held_out": split.split.name, "question": question}
            | {name: estimate_values(one) for name, one in split.adds(question).items()}
            for split in measured
            for question in QUESTIONS
        ],
        "curve": [
            {
                "source": curve.source,
                "answers": round(level.answers),
                "explained": estimate_values(curve.estimate(level)),
                "draws": [round(draw, 4) for draw in level.draws],
            }
            for curve in curves
            for level in curve.levels
        ],
        "continued": [
            {"source": curve.source, "times": more, "exponent": _finite(curve.exponent),
             "gain": estimate_values(gain.estimate(curve.held_out))}
            for curve in curves
            for more, gain in curve.gains.items()
        ],
        "who": {
            "impressions": who.impressions,
            "users": who.users,
            "answering_users": who.answering,
            "triggered": who.triggered,
            "most_active_tenth": dict(zip(("answers", "impressions"), map(_finite, who.of_users), strict=True)),
            "most_shown_tenth": dict(zip(("answers", "impressions"), map(_finite, who.of_items), strict=True)),
            "patterns": [
                {"behaviour": one.behaviour, "value": one.value, "impressions": one.impressions, "answers": one.answers,
                 "relative": estimate_values(one.relative)}
                for one in who.patterns
            ],
            "differences": [
                {"behaviour": one.behaviour, "difference": estimate_values(one.difference)} for one in who.differences
            ],
        },
    }  # fmt: skip


def _row_values(split: Measured, question: Question, source: Source) -> dict[str, Any]:
    row = split.rows[question, source]
    return {name: estimate_values(getattr(row, name).estimate(split.held_out)) for name in METRICS}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
