"""The results of a measurement: JSON, a table for a terminal, and a figure of the phases."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.throughput.launch import PLACES
from benchmarks.throughput.phases import PHASES
from benchmarks.throughput.shapes import losses, rate, speed_ups
from easq_rec.config import Config

COLOURS = ("#999999", "#f0e442", "#56b4e9", "#0072b2", "#009e73", "#cc79a7", "#d55e00", "#e69f00", "#dddddd")
"""Colours of the phases: Okabe and Ito's palette, which colour-blind readers can distinguish."""


def progress(number: int, rounds: int, run: dict[str, Any]) -> str:
    """A line about the last launch."""
    launch = run["launches"][-1]
    parts = [f"{pipeline} {rate(launch, pipeline):,.0f}" for pipeline in launch["windows"]]
    return f"round {number}/{rounds}  {run['name']}: impressions/s {', '.join(parts)}"


def result(config: Config, runs: list[dict[str, Any]], pipelines: list[str]) -> dict[str, Any]:
    """All results, rounded to significant digits."""
    first = pipelines[0]
    return {
        "benchmark": "throughput",
        "workload": config.recipe,
        "requests": runs[0]["requests"],
        "precision": config.trainer.precision,
        "pipelines": pipelines,
        "where": {name: value for name, value in runs[0]["launches"][0].items() if name in PLACES},
        "speed_ups": speed_ups(runs, first),
        "runs": [_rounded({**run, "summary": summary(run, pipelines)}) for run in runs],
    }


def summary(run: dict[str, Any], pipelines: list[str]) -> dict[str, Any]:
    """Summary of a shape: medians and spread of rates over all windows of all launches; means over launches of the
    rest."""
    launches = run["launches"]
    found: dict[str, Any] = {"pipelines": {}}
    for pipeline in pipelines:
        found["pipelines"][pipeline] = {
            metric: spread([window[metric] for launch in launches for window in launch["windows"][pipeline]])
            for metric in ("impressions_per_s", "impressions_per_cpu_s", "step_ms")
        }
    for kind in ("phases_ms", "waited_ms", "ceilings_per_rank"):
        found[kind] = {name: _mean(launch[kind][name] for launch in launches) for name in launches[0][kind]}
    for name in (
        "phases_step_ms",
        "gflop_per_step_and_rank",
        "gb_per_step_and_rank",
        "share_of_gemm",
        "share_of_bandwidth",
    ):
        found[name] = _mean(launch[name] for launch in launches)
    for name in ("peak_rss_mib_by_rank", "peak_device_mib_by_rank"):
        if name in launches[0]:
            found[name.removesuffix("_by_rank")] = max(max(launch[name]) for launch in launches)
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Median, quartiles and ends."""
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return {"median": statistics.median(values), "quartiles": [low, high], "ends": [min(values), max(values)]}  # type: ignore[dict-item]


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The table and its conclusions."""
    yield f"\n{found['workload']}, {found['precision']}, on {found['where']['device']}"
    yield f"{'':<30}{'impressions/s':>14}{'quartiles':>18}{'per CPU s':>11}{'step ms':>9}{'GEMM':>7}{'RSS MiB':>9}"
    for run in found["runs"]:
        whole = run["summary"]
        for pipeline, values in whole["pipelines"].items():
            speed, step = values["impressions_per_s"], values["step_ms"]["median"]
            low, high = speed["quartiles"]
            label = run["name"] + (f", {pipeline}" if len(whole["pipelines"]) > 1 else "")
            share = f"{whole['share_of_gemm']:.0%}" if pipeline == found["pipelines"][0] else ""
            yield (
                f"{label:<30}{speed['median']:>14,.0f}{f'{low:,.0f} to {high:,.0f}':>18}"
                f"{values['impressions_per_cpu_s']['median']:>11,.0f}{step:>9.1f}{share:>7}{whole['peak_rss_mib']:>9,}"
            )
    yield "\nms per step and phase (of which waiting for other ranks), measured in separate steps"
    yield f"{'':<30}" + "".join(f"{name.replace('_', ' '):>15}" for name in PHASES)
    for run in found["runs"]:
        whole = run["summary"]
        parts = [f"{whole['phases_ms'][name]:.1f} ({whole['waited_ms'][name]:.1f})" for name in PHASES]
        yield f"{run['name']:<30}" + "".join(f"{part:>15}" for part in parts)
    yield from beside_the_first(found)
    if found["speed_ups"]:
        yield "\nrelative to one rank, by round"
        for one in found["speed_ups"]:
            rounds = ", ".join(f"{ratio:.2f}" for ratio in one["of_each_round"])
            yield f"{one['name']:<30}{one['speed_up']:>8.2f}x   ({rounds})"
        yield from losses(found["speed_ups"])


def beside_the_first(found: dict[str, Any]) -> Iterator[str]:
    """Speed of the other pipelines relative to the first, whose windows alternated with theirs."""
    first, *others = found["pipelines"]
    if others:
        yield f"\nrelative to {first}, by window: median (lowest to highest)"
    for run in found["runs"]:
        for other in others:
            ratios = [
                window["impressions_per_s"] / beside["impressions_per_s"]
                for launch in run["launches"]
                for window, beside in zip(launch["windows"][other], launch["windows"][first], strict=True)
            ]
            label = f"{run['name']}, {other}"
            yield f"{label:<36}{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def write(found: dict[str, Any], out: Path) -> None:
    """Writes the JSON and OUT.png."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found) + "\n")
    draw(found, out.with_suffix(".png"))


def draw(found: dict[str, Any], path: Path) -> None:
    """Stacked bars of the phases, one bar per shape; hatched parts are waits for other ranks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    runs = found["runs"]
    figure = Figure(figsize=(11, 1.6 + 0.42 * len(runs)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for row, run in enumerate(runs):
        left = 0.0
        for colour, name in zip(COLOURS, PHASES, strict=True):
            waited = run["summary"]["waited_ms"][name]
            busy = run["summary"]["phases_ms"][name] - waited
            axes.barh(row, busy, left=left, color=colour, height=0.75)
            axes.barh(
                row, waited, left=left + busy, color=colour, height=0.75, hatch="////", edgecolor="white", linewidth=0
            )
            left += busy + waited
    axes.set_yticks(range(len(runs)), [run["name"] for run in runs], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel("ms per step; hatched: waiting for other ranks", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    handles = [Patch(color=colour, label=name.replace("_", " ")) for colour, name in zip(COLOURS, PHASES, strict=True)]
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    axes.set_title(
        f"A step of {found['workload']} ({found['pipelines'][0]}), {found['where']['device']}", loc="left", fontsize=11
    )
    figure.savefig(path, dpi=110)


def _mean(values: Any) -> float:
    return statistics.fmean(values)


def _rounded(value: Any) -> Any:
    """Rounds floats to five digits; more digits are noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value
