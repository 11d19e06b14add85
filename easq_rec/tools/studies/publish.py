"""results.json, table.md and the plots of a study."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from easq_rec import __version__, doctor
from easq_rec.tools.figures.png import save_png
from easq_rec.tools.studies.comparison import METRICS, Row
from easq_rec.tools.studies.store import Run, finite, write_json

RESULTS = "results.json"
PACKAGES = ("torch", "torchrec", "fbgemm-gpu-cpu", "fbgemm-gpu", "numpy", "pyarrow")
HEADINGS = {
    "satisfaction": "satisfaction NDCG@5",
    "engagement": "engagement NDCG@5",
    "pair_accuracy": "pair accuracy",
    "gauc": "GAUC",
}


def circumstances(command: Sequence[str]) -> dict[str, Any]:
    """The other conditions of a result, in addition to its configs: command, versions, hardware."""
    installed = doctor.installed_versions()
    return {
        "command": " ".join(command),
        "versions": {
            "easq-rec": __version__,
            "python": platform.python_version(),
            **{name: installed[name] for name in PACKAGES if name in installed},
        },
        "hardware": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)),
            "gpu": _gpu(),
            "system": platform.platform(),
        },
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.processor())


def _gpu() -> str | None:
    if not doctor.gpu_present():
        return None
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def cell_values(run: Run) -> dict[str, Any]:
    """A cell as JSON values."""
    cell = run.cell
    return {
        "label": cell.label,
        "variant": cell.variant,
        "setting": cell.setting,
        "world_seed": cell.world_seed,
        "training_seed": cell.training_seed,
        "digest": cell.digest,
        "seconds": round(run.seconds, 2),
        "metrics": finite(run.metrics),
        **({"history": {name: list(points) for name, points in run.history.items()}} if run.history else {}),
        "fused": {weight: finite(metrics) for weight, metrics in run.fused.items()},
    }


def table(rows: Sequence[Row], unit: str) -> str:
    """The rows in Markdown: for each metric the mean, and the change against the base with its interval.

    Args:
        unit: the paired units: worlds or seeds.
    """
    headings = [f"{HEADINGS[name]} | Δ" for name in METRICS]
    lines = [f"| variant | {unit} | {' | '.join(headings)} |", "|---|---" + "|---" * (2 * len(METRICS)) + "|"]
    for row in rows:
        values = [f"{row.mean[name]:.4f} | {row.change[name].text()}" for name in METRICS]
        lines.append(f"| {row.label} | {row.change['engagement'].count} | {' | '.join(values)} |")
    return "\n".join(lines)


def publish(out: Path, *, results: Mapping[str, Any], text: Sequence[str], figures: Mapping[str, Any]) -> None:
    """Writes results.json, table.md and the figures.

    Args:
        text: paragraphs of table.md.
        figures: figures by file name.
    """
    for name, figure in figures.items():
        save_png(figure, out / name)
    pictures = [f"![{name}]({name})" for name in figures]
    (out / "table.md").write_text("\n\n".join([*text, *pictures]) + "\n", encoding="utf-8")
    # Written last: if it exists, all files exist.
    write_json(out / RESULTS, results)
