"""Which base ranker orders the built-in worlds best? Recipes without alignment, and one of them at an older commit.

    python -m benchmarks.worlds --before 175354b --out benchmarks/results/worlds.json

Generates worlds of the size of recipe `quickstart`, and trains every row on each, one training after another, on one
thread. A world's seed is also the training seed of all its rows. The last fifth of the time line is held out; training
gets a copy of the world in which that period has only its last request. One code computes the metrics of all rows, from
the scores of the held-out requests:

- satisfaction NDCG@5: gain 2**grade - 1 of the true satisfaction, which no row learns from
- engagement NDCG@5: gain is the utility of what the simulated user did

Rows:

- each of --recipes; one may bring options: --recipes quickstart_main_only 'quickstart_main_only --trainer.epochs 1'
- with --before COMMIT, first of all: the first of --recipes, trained and scored by the code of that commit, in a
  temporary git worktree, on the same files. be359b5 is the oldest one that it works for
- `random`: the expected NDCG of a random order
- `oracle_satisfaction`, `oracle_engagement`: order by the true grade, and by the true probability of a long view. The
  second NDCG of neither is 1: what a user does is random.

Changes are relative to another row on the same world, with 95% t intervals over the worlds: in the table to the first
row, in the JSON to every trained row. CPU seconds are those of training, without imports. Prints one JSON line, and the
table on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from benchmarks.older_code import REPOSITORY, Row, code_of, run
from benchmarks.rankers.splits import write_dataset
from benchmarks.report import hardware, publish
from easq_rec.config import World
from easq_rec.config.command_line import parse_config
from easq_rec.config.recipes import quickstart
from easq_rec.data.dataset import split
from easq_rec.errors import UserError, exit_code
from easq_rec.evaluation.mean_interval import t_interval
from easq_rec.evaluation.metrics import ranking_metrics
from easq_rec.tools.simulation.world import GENERATORS, generate

RECIPES = (
    "quickstart_main_only",
    "quickstart_main_only --optim.table-lr 0.05 --optim.schedule cosine",
    "quickstart_main_only --model.wide True",
    "quickstart_main_only --model.feature-dropout 0.1",
    "quickstart_main_only --losses.main.weight 0",
    "quickstart_main_only --model.policy-score single --losses.pointwise.weight 0",
    "quickstart_main_only --model.policy-score single --losses.pointwise.weight 0 --losses.main.pairs equal",
)
"""The base ranker, and six changes of it: earlier learning rates, the wide path, feature dropout, cross-entropy alone,
BPR alone with pairs weighed by utility, and plain BPR alone."""
FIRST_WORLD = 100
"""Studies use worlds from 0 on, and defaults were chosen on worlds 0 to 14."""
HOLDOUT = 0.2
METRICS = {"satisfaction_ndcg5": "satisfaction NDCG@5", "engagement_ndcg5": "engagement NDCG@5"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Held:
    """Held-out requests of a world. R requests, N candidates."""

    folder: Path
    """Has requests/."""
    request_N: NDArray[np.int64]
    """Request ids."""
    video_N: NDArray[np.int64]
    satisfaction_N: NDArray[np.float32]
    """True grade, 0 to 4."""
    engagement_N: NDArray[np.float32]
    """True probability of a long view."""
    utility_N: NDArray[np.float64]
    """Of the simulated outcomes, with the weights of the recipe's schema."""
    lengths_R: NDArray[np.int64]
    user_R: NDArray[np.int64]

    def quality(self, score_N: NDArray[Any]) -> dict[str, float]:
        """The metrics of a score of every candidate. Equal scores count as if in random order."""
        columns = (score_N, self.satisfaction_N, self.utility_N, self.lengths_R, self.user_R)
        found = ranking_metrics(*(torch.from_numpy(np.array(column)) for column in columns))
        return {name: getattr(found, name) for name in METRICS}


def divide(world: Path, folder: Path) -> tuple[Path, Held]:
    """(folder to train on, held-out requests) of a world.

    The training copy keeps the last held-out request, so that the trainer's own split cuts at the same moment.
    """
    period, held_out = split(world / "requests", HOLDOUT)
    requests, answers = (pq.read_table(world / name).combine_chunks() for name in ("requests", "answers"))
    early_R = _before(requests, period.end_ms)
    train, held = requests.filter(early_R), requests.filter(~early_R)
    write_dataset(folder / "train" / "requests", pa.concat_tables([train, held.slice(len(held) - 1)]))
    write_dataset(folder / "train" / "answers", answers.filter(_before(answers, period.end_ms)))
    write_dataset(folder / "held" / "requests", held)
    assert split(folder / "train" / "requests", HOLDOUT) == (period, held_out)
    return folder / "train", read_held(folder / "held", held)


def _before(table: pa.Table, end_ms: int) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = table["timestamp_ms"].to_numpy() < end_ms
    return found


def read_held(folder: Path, held: pa.Table) -> Held:
    """The candidates of held-out requests, and what is true of them."""
    lists = held["candidates"].combine_chunks()
    candidates, lengths_R = lists.flatten(), lists.value_lengths().to_numpy().astype(np.int64)

    def column(name: str) -> NDArray[Any]:
        found: NDArray[Any] = candidates.field(name).to_numpy(zero_copy_only=False)
        return found

    outcomes = quickstart().schema.outcomes
    return Held(
        folder=folder,
        request_N=np.repeat(held["request_id"].to_numpy(), lengths_R),
        video_N=column("video_id"),
        satisfaction_N=column("true_satisfaction"),
        engagement_N=column("true_engagement"),
        utility_N=sum((one.weight * column(one.name) for one in outcomes), np.zeros(len(candidates))),
        lengths_R=lengths_R,
        user_R=held["user_id"].to_numpy(),
    )


def train_and_score(row: Row, train: Path, held: Held, seed: int, folder: Path) -> tuple[NDArray[Any], float]:
    """(scores (N,), CPU seconds of training) of a row, in a separate process. Raises UserError as `run` does."""
    scores, seconds = run(row, train, held.folder, seed=seed, holdout=HOLDOUT, folder=folder)
    return _in_order(scores, held), seconds


def _in_order(scores: Path, held: Held) -> NDArray[Any]:
    """(N,): the scores of a file in the order of the held-out candidates."""
    table = pq.read_table(scores)
    request_N, video_N = table["request_id"].to_numpy(), table["video_id"].to_numpy()
    theirs_N, mine_N = np.lexsort((video_N, request_N)), np.lexsort((held.video_N, held.request_N))
    same = np.array_equal(request_N[theirs_N], held.request_N[mine_N])
    assert same and np.array_equal(video_N[theirs_N], held.video_N[mine_N]), "the scorer skipped or added candidates"
    score_N = np.empty(len(mine_N), dtype=np.float32)
    score_N[mine_N] = table["score"].to_numpy()[theirs_N]
    return score_N


def rows_of(recipes: Sequence[str], before: tuple[str, Path] | None) -> list[Row]:
    """The rows to train.

    Args:
        before: the short hash of a commit and the folder with its files.

    Raises:
        UserError: an option of a recipe is wrong, a recipe occurs twice, or learns from answers.
    """
    rows: list[Row] = []
    for recipe in recipes:
        config = parse_config(shlex.split(recipe), prog="benchmarks.worlds")
        if config.aligned:
            raise UserError(f"--recipes {recipe!r}: it learns from answers: choose one without alignment (main_only)")
        if recipe in (row.name for row in rows):
            raise UserError(f"--recipes {recipe!r}: it occurs twice: name each row once")
        rows.append(Row(name=recipe, words=tuple(shlex.split(recipe))))
    if before is not None:
        commit, root = before
        rows.insert(0, dataclasses.replace(rows[0], name=f"{rows[0].name} at {commit}", root=root))
    return rows


Found = dict[str, list[dict[str, float]]]
"""Metrics of each row, one entry per world; trained rows also have `cpu_seconds`."""


def measure(rows: Sequence[Row], worlds: Sequence[World]) -> Found:
    """Trains and evaluates the rows on every world."""
    found: Found = {}
    for world in worlds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            generate(world, folder / "world")
            train, held = divide(folder / "world", folder / "divided")
            for number, row in enumerate(rows):
                score_N, seconds = train_and_score(row, train, held, world.seed, folder / f"row-{number}")
                found.setdefault(row.name, []).append({**held.quality(score_N), "cpu_seconds": seconds})
                print(f"world {world.seed}, {row.name}: {found[row.name][-1]}", file=sys.stderr, flush=True)
            orders: dict[str, NDArray[Any]] = {
                "random": np.zeros(len(held.video_N)),
                "oracle_satisfaction": held.satisfaction_N,
                "oracle_engagement": held.engagement_N,
            }
            for order, score_N in orders.items():
                found.setdefault(order, []).append(held.quality(score_N))
    return found


def summary(found: Found) -> dict[str, Any]:
    """Per row: means over the worlds, and changes in percent against every other trained row, with t intervals."""
    result: dict[str, Any] = {}
    for name, runs in found.items():
        bases = {base: others for base, others in found.items() if base != name and "cpu_seconds" in others[0]}
        result[name] = {
            "mean": {metric: round(statistics.mean(run[metric] for run in runs), 4) for metric in METRICS},
            "change_percent": {
                base: {metric: _change(runs, others, metric) for metric in METRICS} for base, others in bases.items()
            },
        }
        if "cpu_seconds" in runs[0]:
            result[name]["cpu_seconds"] = round(statistics.mean(run["cpu_seconds"] for run in runs), 1)
        result[name]["by_world"] = [{metric: round(value, 4) for metric, value in run.items()} for run in runs]
    return result


def _change(runs: Sequence[dict[str, float]], base: Sequence[dict[str, float]], metric: str) -> dict[str, float | None]:
    pairs = zip(runs, base, strict=True)
    interval = t_interval(100 * (mine[metric] / theirs[metric] - 1) for mine, theirs in pairs)
    # JSON has no infinity, which are the ends of an interval of one world.
    ends = (interval.low, interval.high) if interval.count > 1 else (None, None)
    named = zip(("value", "low", "high"), (interval.value, *ends), strict=True)
    return {name: None if value is None else round(value, 2) for name, value in named}


def table(rows: dict[str, Any]) -> str:
    """The rows as a Markdown table, with the changes against the first one."""
    first = next(iter(rows))
    heads = [head for title in METRICS.values() for head in (title, "change")]
    lines = [f"| row | {' | '.join(heads)} | CPU s |", "|---" * (len(heads) + 2) + "|"]
    for name, row in rows.items():
        cells, change = [], row["change_percent"].get(first, {})
        for metric in METRICS:
            cells += [f"{row['mean'][metric]:.4f}", _cell(change.get(metric))]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {row.get('cpu_seconds', '-')} |")
    return "\n".join(lines)


def _cell(change: dict[str, float | None] | None) -> str:
    if change is None:
        return "-"
    inside = "unknown" if change["low"] is None else f"{change['low']:+.1f}, {change['high']:+.1f}"
    return f"{change['value']:+.1f}% [{inside}]"


def compare(recipes: Sequence[str], worlds: Sequence[World], before: str | None, repository: Path) -> dict[str, Any]:
    """Trains and evaluates everything; returns the result as JSON values.

    Args:
        before: a commit of `repository`, or None.
    """
    begin = time.perf_counter()
    # Wrong options end the benchmark before a worktree exists.
    rows = rows_of(recipes, None)
    with contextlib.ExitStack() as stack:
        if before is not None:
            rows = rows_of(recipes, stack.enter_context(code_of(before, repository)))
        found = measure(rows, worlds)
    return {
        "benchmark": "worlds",
        "generator": GENERATORS[worlds[0].version],
        "worlds": [world.seed for world in worlds],
        "requests": worlds[0].requests,
        "rows": summary(found),
        "wall_seconds": round(time.perf_counter() - begin),
        **hardware(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=5, help="number of worlds")
    parser.add_argument("--first-world", type=int, default=FIRST_WORLD, help="seed of the first one; others follow")
    parser.add_argument("--requests", type=int, default=quickstart().world.requests, help="requests of each world")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), help="recipes without alignment, with options")
    parser.add_argument("--before", metavar="COMMIT", help="also train the first recipe as it was at this commit")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    if args.worlds < 1:
        parser.error(f"--worlds {args.worlds}: expected at least 1")
    size = dataclasses.replace(quickstart().world, requests=args.requests)
    worlds = [dataclasses.replace(size, seed=args.first_world + number) for number in range(args.worlds)]
    result = compare(args.recipes, worlds, args.before, REPOSITORY)
    publish(result, args.out)
    print(table(result["rows"]), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
