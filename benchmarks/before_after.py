"""How many impressions of a real log does a recipe train per CPU second, now and at an older commit?

    python -m benchmarks.before_after --data data/kuairand --before 175354b --out benchmarks/results/before_after.json

The code of the commit, in a temporary git worktree, and this code train the same recipes on the same files, in turn,
each training in a separate process on one thread. CPU seconds are those of a whole training without imports: initial
tables and checkpoints are in them. Prints one JSON line, and a table on stderr.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.older_code import REPOSITORY, Row, code_of, run
from benchmarks.rankers.impressions import read
from benchmarks.rankers.splits import HOLDOUT, write_splits
from benchmarks.report import hardware, publish
from easq_rec.errors import exit_code

RECIPES = ("kuairand_main_only", "kuairand")


def compare(
    data: Path, before: str, recipes: Sequence[str], rounds: int, temporary: Path, repository: Path = REPOSITORY
) -> dict[str, Any]:
    """CPU seconds of every training, as JSON values.

    Args:
        before: a commit of `repository`.
        temporary: an empty folder.
    """
    splits = write_splits(data, temporary / "splits")
    impressions = len(read(splits.train))
    rows: dict[str, Any] = {}
    with code_of(before, repository) as (short, root):
        for recipe in recipes:
            sides = {
                "before": Row(name=f"{recipe} at {short}", words=tuple(shlex.split(recipe)), root=root),
                "after": Row(name=recipe, words=tuple(shlex.split(recipe))),
            }
            seconds: dict[str, list[float]] = {side: [] for side in sides}
            for number in range(rounds):
                for side, row in sides.items():
                    folder = temporary / f"{len(rows)}-{side}-{number}"
                    _, spent = run(row, splits.recipes, splits.test.parents[1], seed=0, holdout=HOLDOUT, folder=folder)
                    seconds[side].append(round(spent, 2))
                    print(f"{row.name}: {spent:.1f} CPU s", file=sys.stderr, flush=True)
            ratios = [old / new for old, new in zip(seconds["before"], seconds["after"], strict=True)]
            rows[recipe] = {
                f"{side}_impressions_per_cpu_second": round(impressions / statistics.median(seconds[side]))
                for side in sides
            } | {"ratio": round(statistics.median(ratios), 2), "ratios": [round(one, 2) for one in ratios], **seconds}
    return {"benchmark": "before_after", "before": short, "impressions": impressions, "rows": rows, **hardware()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that datasets/kuairand/prepare.py wrote")
    parser.add_argument("--before", required=True, help="commit of this repository")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), help="recipes that both know")
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each recipe by each code")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: expected at least 1")
    with tempfile.TemporaryDirectory() as folder:
        result = compare(args.data, args.before, args.recipes, args.rounds, Path(folder))
    publish(result, args.out)
    for recipe, row in result["rows"].items():
        speeds = [f"{row[f'{side}_impressions_per_cpu_second']:,}" for side in ("before", "after")]
        print(f"| `{recipe}` | {' | '.join(speeds)} | {row['ratio']:.2f}x |", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
