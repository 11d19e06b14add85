"""Minimal directories of runs and studies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from easq_rec.config.recipes import recipe
from easq_rec.config.serialization import to_dict

EXACT: dict[str, Any] = {"value": 0.0, "low": 0.0, "high": 0.0, "count": 5}


def run(folder: Path, *, name: str = "quickstart", steps: int = 4, **changes: Any) -> Path:
    """A finished run of a recipe.

    Args:
        changes: fields to replace at the top level of the config.
    """
    folder.mkdir(parents=True)
    config = json.loads(json.dumps(to_dict(recipe(name)))) | changes
    (folder / "config.json").write_text(json.dumps(config))
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        gates = {"gate_main_0": 1.0, "gate_main_1": 0.25}
        lines.append({"step": step, "split": "train", "loss_main": 0.7 / step, "loss_dpo": 0.0, "policy_std": None})
        lines[-1] |= gates | {"impressions_per_second": 1_000.0 * step, "ms_data": 1.0, "ms_forward": 2.0}
        lines.append({"step": step, "split": "holdout", "satisfaction_ndcg5": 0.4 + step / 100, "gauc": 0.5})
    lines.append({"step": steps, "split": "final", "satisfaction_ndcg5": 0.5, "gauc": 0.6, "requests": 30.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def bins(points: list[tuple[float, float]]) -> list[dict[str, float]]:
    """Bins of (mean prediction, mean outcome), as stored in evaluation.json."""
    return [
        {"predicted": predicted, "observed": observed, "low": observed - 0.05, "high": observed + 0.05, "candidates": 9}
        for predicted, observed in points
    ]


def estimate(value: float, half: float | None = 1.0) -> dict[str, Any]:
    """A change as stored in results.json. If `half` is None, its interval is unknown."""
    low, high = (None, None) if half is None else (value - half, value + half)
    return {"value": value, "low": low, "high": high, "count": 5}


def row(label: str, satisfaction: float, engagement: float, *, series: str = "", x: float | None = None) -> Any:
    """A row of a study of training runs."""
    return {
        "label": label,
        "variant": label,
        "series": series,
        "x": x,
        "worlds": 5,
        "mean": {"satisfaction": 0.5, "engagement": 0.6},
        "change_percent": {"satisfaction": estimate(satisfaction), "engagement": estimate(engagement)},
    }


def study(folder: Path, **changes: Any) -> Path:
    """A study with a base and one variant.

    Args:
        changes: fields of the results to replace.
    """
    folder.mkdir(parents=True)
    check = {"what": "gain", "measured": estimate(2.0), "wanted": "above", "threshold": 1.5, "unit": "%"}
    base = row("main_only", 0.0, 0.0) | {"change_percent": {"satisfaction": EXACT, "engagement": EXACT}}
    results = {
        "study": "frontier",
        "question": "How much?",
        "command": "easq-rec study frontier",
        "versions": {"torch": "2.13.0"},
        "hardware": {"cpu": "one", "gpu": None},
        "budget": "full",
        "seeds": [0, 1],
        "wall_seconds": 300.0,
        "rows": [base, row("easq", 2.0, -1.0)],
        "verdict": {
            "claim": "It gains.",
            "outcome": "undecided",
            "budget": "full",
            "remark": None,
            "checks": [check | {"outcome": "undecided"}],
        },
        "notes": ["A note."],
        "cells": [],
        "failed": [],
    }
    (folder / "results.json").write_text(json.dumps(results | changes))
    return folder
