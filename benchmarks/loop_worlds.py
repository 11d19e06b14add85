"""Does a ranker that follows beat one that is trained anew every day, and one that stays as it was?

    python -m benchmarks.loop_worlds [--worlds 3] [--first-world 40] [--days 8] [--parts 4] [--out FILE.json]

Runs the closed loop (`easq_rec.tools.loop`) in several worlds, with real servers, and compares the three rankers by
world: the change of the mean over the days from the second on, with 95% intervals over worlds. The ranker that is
trained anew has a window of seven days, takes no simulated time, and serves from midnight on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import hardware, publish
from easq_rec.evaluation.mean_interval import t_interval

RANKERS = ("frozen", "daily", "following")
MEASURES = ("satisfaction", "long_view_share", "likes_per_user", "stay_s_per_user", "active_percent")
Means = dict[str, dict[str, float]]


def run(seed: int, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The results of the loop in one world."""
    out = folder / f"world-{seed}"
    words = [
        *("--days", str(args.days), "--parts", str(args.parts), "--users", str(args.users)),
        *("--requests", str(args.requests), "--drift", str(args.drift), "--seed", str(seed)),
        *("--rankers", ",".join(RANKERS), "--out", str(out)),
    ]
    subprocess.run([sys.executable, "-m", "easq_rec.tools.loop", *words], check=True)
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def means(days: Sequence[Mapping[str, Any]]) -> Means:
    """Means over the days from the second on, by ranker and measure."""
    return {
        name: {
            measure: sum(values) / len(values)
            for measure in MEASURES
            if (values := [day[measure] for day in days if day["ranker"] == name and day["day"] > 1])
        }
        for name in RANKERS
    }


def table(worlds: Sequence[Means]) -> list[dict[str, object]]:
    """A line for each measure: means over the worlds, and changes from the other rankers to the one that follows."""
    lines: list[dict[str, object]] = []
    for measure in MEASURES:
        line: dict[str, object] = {"measure": measure}
        for name in RANKERS:
            line[name] = round(sum(world[name][measure] for world in worlds) / len(worlds), 4)
        for name in RANKERS[:-1]:
            changes = [100 * (world[RANKERS[-1]][measure] / world[name][measure] - 1) for world in worlds]
            line[f"following against {name}"] = t_interval(changes).text()
        lines.append(line)
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=3)
    parser.add_argument("--first-world", type=int, default=40)
    parser.add_argument("--days", type=int, default=8)
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--requests", type=int, default=12_000)
    parser.add_argument("--drift", type=float, default=0.8)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        seeds = range(args.first_world, args.first_world + args.worlds)
        worlds = [means(run(seed, args, Path(name))["days"]) for seed in seeds]
    lines = table(worlds)
    for line in lines:
        print("  ".join(f"{key} {value}" for key, value in line.items()))
    options = {key: value for key, value in vars(args).items() if key != "out"}
    result = {"benchmark": "loop_worlds", "options": options, "table": lines, "worlds": worlds}
    publish({**result, "wall_s": round(time.perf_counter() - begin), **hardware()}, args.out)


if __name__ == "__main__":
    main()
