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


def write_results(out: Path, days: Sequence[LoopDay], *, world: Mapping[str, object], seconds: float) -> None:
    """Writes all of it."""
    values = [day.values() for day in days]
    json_file.write(
        out / "results.json",
        {"days": values, "world": world, "seconds": round(seconds, 1), **circumstances(["make loop"])},
    )
    table = table_of(days)
    (out / "table.md").write_text(table)
    save_png(figure(days), out / "loop.png")
    (out / "index.html").write_text(page(table, (out / "loop.png").read_bytes()))


def table_of(days: Sequence[LoopDay]) -> str:
    """Means over the days, and paired differences of the days with 95% intervals."""
    names = list(dict.fromkeys(day.ranker for day in days))
    by_name = {name: [day.values() for day in days if day.ranker == name] for name in names}
    lines = [f"| measure | {' | '.join(names)} | difference |", "|---|" + "---|" * (len(names) + 1)]
    for measure in MEASURES:
        columns = {name: [_number(day[measure]) for day in by_name[name]] for name in names}
        means = [sum(column) / len(column) for column in columns.values()]
        # On the first day both serve the same package.
        pairs = list(zip(columns[names[0]], columns[names[-1]], strict=True))[1:]
        difference = ""
        if len(pairs) > 1:
            difference = t_interval(100 * (after / before - 1) for before, after in pairs if before).text()
        lines.append(f"| {measure} | {' | '.join(f'{mean:.4g}' for mean in means)} | {difference} |")
    last = by_name[names[-1]]
    fresh = [_number(day["fresh_seconds"]) for day in last if day["fresh_seconds"] is not None]
    answers = ["{:,.0f}".format(sum(_number(day["answers"]) for day in by_name[name])) for name in names]
    lines.append(f"| answers | {' | '.join(answers)} | |")
    ages = [[_number(day["model_age_days"]) for day in by_name[name]] for name in names]
    lines.append(f"| model age, days | {' | '.join(f'{sum(age) / len(age):.1f}' for age in ages)} | |")
    if fresh:
        lines.append(
            f"\nFrom the commit of a day's answers to a served package that has learned from them: "
            f"{sorted(fresh)[len(fresh) // 2]:.1f} s in the median, {max(fresh):.1f} s at most."
        )
    lines.append("\nDifferences are those of the same days, from the second on, with 95% intervals over days.\n")
    return "\n".join(lines)


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
        "<h1>The closed loop</h1><p>Two rankers serve the same simulated users over HTTP. One keeps its package, the "
        "other learns from what its users do and answer, and publishes a package every day.</p>"
        f'<img alt="Satisfaction, long views, active users and model age by day" src="data:image/png;base64,{picture}">'
        f"<table>{''.join(rows)}</table>{notes}</body></html>\n"
    )
