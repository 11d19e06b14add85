"""What the closed loop leaves: results.json, table.md, a figure, and a page that shows them."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from easq_rec import json_file
from easq_rec.evaluation.mean_interval import t_interval
from easq_rec.tools.figures.lines import Line, draw_lines
from easq_rec.tools.figures.png import save_png
from easq_rec.tools.loop.days import LoopDay
from easq_rec.tools.studies.publish import circumstances

PANELS = {
    "satisfaction": "true grade of long views, 0 to 4",
    "long_view_share": "share of long views",
    "active_percent": "active users, %",
    "model_age_days": "age of the model, days",
}
MEASURES = ("satisfaction", "long_view_share", "likes_per_user", "stay_s_per_user", "active_percent")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_results(
    out: Path, days: Sequence[LoopDay], *, world: Mapping[str, object], seconds: float, words: Sequence[str]
) -> None:
    """Writes all of it.

    Args:
        words: arguments of the command.
    """
    values = [day.values() for day in days]
    json_file.write(
        out / "results.json",
        {
            "days": values,
            "world": world,
            "seconds": round(seconds, 1),
            **circumstances(["python", "-m", "easq_rec.tools.loop", *words]),
        },
    )
    table = table_of(days)
    (out / "table.md").write_text(table)
    save_png(figure(days), out / "loop.png")
    (out / "index.html").write_text(page(table, (out / "loop.png").read_bytes()))


def table_of(days: Sequence[LoopDay]) -> str:
    """Means over the days, and paired differences of the days with 95% intervals."""
    names = list(dict.fromkeys(day.ranker for day in days))
    by_name = {name: [day.values() for day in days if day.ranker == name] for name in names}
    against = [f"{names[-1]} against {name}" for name in names[:-1]]
    lines = [f"| measure | {' | '.join([*names, *against])} |", "|---|" + "---|" * (len(names) + len(against))]
    for measure in MEASURES:
        columns = {name: [_number(day[measure]) for day in by_name[name]] for name in names}
        cells = [f"{sum(column) / len(column):.4g}" for column in columns.values()]
        cells += [_change(columns[name], columns[names[-1]]) for name in names[:-1]]
        lines.append(f"| {measure} | {' | '.join(cells)} |")
    empty = " |" * len(against)
    answers = ["{:,.0f}".format(sum(_number(day["answers"]) for day in by_name[name])) for name in names]
    lines.append(f"| answers | {' | '.join(answers)} |{empty}")
    ages = [[_number(day["model_age_days"]) for day in by_name[name]] for name in names]
    lines.append(f"| model age, days | {' | '.join(f'{sum(age) / len(age):.1f}' for age in ages)} |{empty}")
    for name in names:
        fresh = sorted(_number(day["fresh_seconds"]) for day in by_name[name] if day["fresh_seconds"] is not None)
        if fresh:
            lines.append(
                f"\n{name}: from the commit of answers to a served package that has learned from them it took "
                f"{fresh[len(fresh) // 2]:.1f} s in the median of the days, {fresh[-1]:.1f} s at most."
            )
    lines.append("\nDifferences are those of the same days, from the second on, with 95% intervals over days.\n")
    return "\n".join(lines)


def _change(before: Sequence[float], after: Sequence[float]) -> str:
    """Difference in percent over the days from the second on: on the first day all serve the same package."""
    pairs = list(zip(before, after, strict=True))[1:]
    return t_interval(100 * (new / old - 1) for old, new in pairs if old).text() if len(pairs) > 1 else ""


def figure(days: Sequence[LoopDay]) -> Figure:
    """A panel for each measure, a line for each ranker."""
    names = list(dict.fromkeys(day.ranker for day in days))
    panels = {
        title: [
            Line(
                name=name,
                style=place,
                points=[
                    (float(day.day), _number(day.values()[measure]))
                    for day in days
                    if day.ranker == name and day.values()[measure] is not None
                ],
            )
            for place, name in enumerate(names)
        ]
        for measure, title in PANELS.items()
    }
    return draw_lines(panels, size=(900, 520), xlabel="day", title="The closed loop")


def _number(value: object) -> float:
    assert isinstance(value, (int, float))
    return float(value)


def page(table: str, png: bytes) -> str:
    """One HTML file that needs no other."""
    rows = []
    for line in table.splitlines():
        if line.startswith("|") and not line.startswith("|---"):
            cells = "".join(f"<td>{html.escape(cell.strip())}</td>" for cell in line.strip("|").split("|"))
            rows.append(f"<tr>{cells}</tr>")
    notes = "".join(f"<p>{html.escape(line)}</p>" for line in table.splitlines() if line and not line.startswith("|"))
    picture = base64.b64encode(png).decode()
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>The closed loop</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}"
        "table{border-collapse:collapse}td{padding:.3rem .8rem;border-bottom:1px solid #d5d9de}"
        "tr:first-child td{font-weight:600}img{max-width:100%}</style></head><body>"
        "<h1>The closed loop</h1><p>Each ranker serves the same simulated users over HTTP, in a world of its own. "
        "frozen keeps its first package. daily is trained anew at the end of each day. following learns from what its "
        "users do and answer, and publishes packages while it does.</p>"
        f'<img alt="Satisfaction, long views, active users and model age by day" src="data:image/png;base64,{picture}">'
        f"<table>{''.join(rows)}</table>{notes}</body></html>\n"
    )
