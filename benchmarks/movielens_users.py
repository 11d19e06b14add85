"""For whom does alignment order watched films better on MovieLens: for users whom training knows, or for new ones?

Trains `movielens` and `movielens_main_only` with one seed on each of the two clocks of datasets/movielens, evaluates
them for all, known and new users, and compares the two with paired intervals over users. On the clock of users, the
last fifth of every history is held out, so there are hardly any new users. Prints one JSON line, and a table on stderr.

    python datasets/movielens/prepare.py --raw ML100K --out data/movielens
    python datasets/movielens/prepare.py --raw ML100K --out data/movielens-users --clock user
    python -m benchmarks.movielens_users --log data/movielens --user data/movielens-users [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.movielens import train
from benchmarks.report import hardware

RECIPES = {"easq": "movielens", "main_only": "movielens_main_only"}
GROUPS = {"log": ("all", "known", "new"), "user": ("all",)}
"""Groups of users, by clock."""
COLUMNS = {
    "pair_accuracy": "rating pair accuracy",
    "satisfaction_ndcg5": "rating NDCG@5",
    "engagement_ndcg5": "engagement NDCG@5",
    "gauc": "GAUC",
    "answer_gauc": "GAUC of held-out answers",
}


def call(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "easq_rec.cli", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def compared(runs: dict[str, Path], group: str) -> dict[str, Any]:
    """The comparison of both runs for a group of users."""
    for run in runs.values():
        call("evaluate", "--run", run, "--users", group, "--name", group)
    out = runs["easq"] / f"{group}-comparison.json"
    call("compare", *(runs[name] / f"{group}.parquet" for name in ("easq", "main_only")), "--json", out)
    found = json.loads(out.read_text())["metrics"]
    summary = json.loads((runs["easq"] / f"{group}.json").read_text())
    return {
        "requests": summary["requests"],
        "users": summary["users"],
        "metrics": {name: found[name] for name in COLUMNS},
    }


def shown(difference: dict[str, float | None]) -> str:
    """A difference with its interval; undefined if a group has too few answers, for example."""
    if None in difference.values():
        return "undefined"
    return "{value:+.4f} [{low:+.4f}, {high:+.4f}]".format(**difference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--user", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    begin = time.perf_counter()
    result: dict[str, Any] = {"benchmark": "movielens_users", "seed": args.seed, "clocks": {}}
    with tempfile.TemporaryDirectory() as directory:
        for clock, groups in GROUPS.items():
            runs = {name: Path(directory) / f"{clock}-{name}" for name in RECIPES}
            for name, recipe in RECIPES.items():
                train(recipe, getattr(args, clock), args.seed, runs[name])
            result["clocks"][clock] = {group: compared(runs, group) for group in groups}
    result |= {"wall_seconds": round(time.perf_counter() - begin), **hardware()}
    print(json.dumps(result))
    print("| clock | users | requests | " + " | ".join(COLUMNS.values()) + " |", file=sys.stderr)
    print("|---" * (len(COLUMNS) + 3) + "|", file=sys.stderr)
    for clock, groups_found in result["clocks"].items():
        for group, found in groups_found.items():
            cells = [shown(found["metrics"][name]["difference"]) for name in COLUMNS]
            print(f"| {clock} | {group} | {found['requests']:,} | " + " | ".join(cells) + " |", file=sys.stderr)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
