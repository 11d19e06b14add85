"""A simulated online test (A/B) of a study: arms, their differences with intervals, and their courses over days."""

from __future__ import annotations

import math

from easq_rec.run_directory.formatting import estimate, metric
from easq_rec.tools.report.lines import Line
from easq_rec.tools.report.markup import Child, Markup, join, table, tag
from easq_rec.tools.report.names import label
from easq_rec.tools.report.panels import panel, panels
from easq_rec.tools.report.study_files import OnlineTest


def online_section(test: OnlineTest) -> Markup:
    """Tables, and curves where days were recorded."""
    return join(tag("h3", "Online test"), _differences(test), _arms(test), _days(test))


def _differences(test: OnlineTest) -> Markup | None:
    if not test.differences:
        return None
    rows: list[list[Child]] = []
    for entry in test.differences:
        text = estimate(entry.change)
        apart = entry.change.low > 0 or entry.change.high < 0
        count = f"{entry.change.count:,} {entry.unit}".strip()
        rows.append([entry.arm, entry.against, label(entry.metric), tag("b", text) if apart else text, count])
    told = "Differences in percent with 95% intervals; bold where the interval excludes 0."
    headings: list[Child] = ["arm", "against", "metric", "difference", "measured on"]
    return join(
        tag("p", told, class_="muted"), table(headings, rows, numeric_from=3, caption="Differences between the arms")
    )


def _arms(test: OnlineTest) -> Markup | None:
    names = list(dict.fromkeys(name for means in test.arms.values() for name in means))
    if not names:
        return None
    rows: list[list[Child]] = [[arm, *(metric(means.get(name)) for name in names)] for arm, means in test.arms.items()]
    return table(["arm", *(label(name) for name in names)], rows, caption="Means of the arms")


def _days(test: OnlineTest) -> Markup:
    styles = {arm: style for style, arm in enumerate(test.days)}
    names = list(dict.fromkeys(name for metrics in test.days.values() for name in metrics))
    made = []
    for name in names:
        lines = [
            Line(
                name=arm,
                points=[
                    (float(day), value) for day, value in enumerate(metrics.get(name, []), 1) if math.isfinite(value)
                ],
                style=styles[arm],
            )
            for arm, metrics in test.days.items()
        ]
        if any(len(line.points) > 1 for line in lines):
            made.append(panel(label(name), lines, xlabel="day"))
    return panels(made, styles)
