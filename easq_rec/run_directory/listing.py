"""`easq-rec runs list`: one line per run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from easq_rec import json_file
from easq_rec.run_directory.formatting import NONE, duration, metric
from easq_rec.run_directory.status import RunStatus, find_runs, read_run

COLUMNS = {
    "run": "run",
    "recipe": "recipe",
    "state": "state",
    "step": "step",
    "checkpoint": "checkpoint",
    "ranks": "ranks",
    "restarts": "restarts",
    "satisfaction_ndcg5": "satisfaction",
    "engagement_ndcg5": "engagement",
    "age_s": "last sign",
    "bytes": "size",
}


def list_runs(roots: list[Path], *, as_json: bool) -> int:
    """Prints all runs in and below some directories, the most recently active first; returns the exit code.

    A directory that looks like a run but cannot be read gets a line with the reason, and the exit code is 1.

    Raises:
        UserError: one of the directories does not exist.
    """
    rows, bad = [], []
    for directory in find_runs(roots):
        try:
            rows.append(row(read_run(directory)))
        except ValueError as error:
            bad.append({"run": str(directory), "error": str(error)})
    rows.sort(key=lambda found: float(found["age_s"]))
    if as_json:
        print(json_file.text([*rows, *bad], indent=1))
    else:
        print("\n".join([*table(rows), *(f"not readable: {one['error']}" for one in bad)]))
    return 1 if bad else 0


def row(run: RunStatus) -> dict[str, Any]:
    """The fields of a line."""
    checkpoints = run.checkpoints
    values = run.held_out.values if run.held_out else {}
    return {
        "run": str(run.directory),
        "recipe": run.recipe,
        "state": run.state,
        "step": run.step,
        "of": run.total_steps,
        "checkpoint": checkpoints[-1].step if checkpoints else None,
        "ranks": run.world_size,
        "restarts": max(len(run.starts) - 1, 0),
        **{name: values.get(name) for name in ("satisfaction_ndcg5", "engagement_ndcg5")},
        "age_s": round(time.time() - run.last_sign),
        "bytes": run.bytes,
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines with aligned columns."""
    if not rows:
        return ["no runs"]
    cells = [list(COLUMNS.values()), *([_text(one, name) for name in COLUMNS] for one in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _text(found: dict[str, Any], name: str) -> str:
    value = found[name]
    if value is None:
        return NONE
    match name:
        case "step":
            return f"{value}/{found['of']}" if found["of"] else str(value)
        case "satisfaction_ndcg5" | "engagement_ndcg5":
            return metric(value)
        case "age_s":
            return f"{duration(value)} ago"
        case "bytes":
            return f"{value / 2**20:,.0f} MiB"
    return str(value)
