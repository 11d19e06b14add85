"""Rows for ids that come and go: hashed tables against admitted ones, and against a row for every id.

    python -m benchmarks.id_spaces [--worlds 5] [--first-world 30] [--requests 20000] [--kuairand DIR] [--out FILE.json]

Every arm is the recipe `quickstart` (or `kuairand`) without alignment and without counts, which trains on the log in
the order of time, each request after it was scored. The arms differ in tables with many ids:

- hashed:           an id has the row of its remainder, with all other ids of that remainder
- admitted:         an id has a row of its own from its first occurrence on, until a newer id takes the row
- admitted after 3: an id has a row of its own from its third occurrence on
- own row:          an admitted table with four times as many rows as there are ids

The world is World 2 in which videos are replaced: each gets a new id every `--lifetime-days`, from another moment on.
Then about `--videos` ids are alive at a time. A new video resembles the one before, but nothing tells so.

Prints the mean of the hourly metrics over the second half of the time line, and differences to `hashed` with as many
rows, with 95% intervals over worlds. On KuaiRand they are intervals over initial weights: there is one log.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.report import hardware, publish
from easq_rec.config import Config
from easq_rec.config.counts import without_counts
from easq_rec.config.recipes import recipe
from easq_rec.config.schema import WAYS, FeatureSchema
from easq_rec.config.variants import main_only
from easq_rec.data.mixing import mixed
from easq_rec.evaluation.mean_interval import t_interval
from easq_rec.tools.simulation.world import generate
from easq_rec.training.follow.loop import Follower
from easq_rec.training.process import running

METRICS = ("auc_long_view", "engagement_ndcg5")
DAY_MS = 86_400_000


@dataclass(frozen=True, kw_only=True)
class Arm:
    """How a table gives rows to ids."""

    name: str
    rows: int
    admit_after: int | None
    """None: hashed."""

    @property
    def title(self) -> str:
        return self.name if self.name == OWN else f"{self.name}, {self.rows} rows"


OWN = "own row"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run."""

    data: Path
    config: Config
    arm: Arm
    seed: int


def arms(sizes: Sequence[int], ids: int) -> list[Arm]:
    """The arms for tables of some sizes and a log with so many ids."""
    found = [
        Arm(name=name, rows=rows, admit_after=after)
        for rows in sizes
        for name, after in (("hashed", None), ("admitted", 1), ("admitted after 3", 3))
    ]
    return [*found, Arm(name=OWN, rows=4 * ids, admit_after=1)]


def with_arm(schema: FeatureSchema, tables: Iterable[str], arm: Arm) -> FeatureSchema:
    changed = tuple(
        table
        if table.name not in tables
        else dataclasses.replace(table, rows=arm.rows)
        if arm.admit_after is None
        # One more row, which ids without a row share.
        else dataclasses.replace(
            table, rows=-(-arm.rows // WAYS) * WAYS + 1, id_space="admitted", admit_after=arm.admit_after
        )
        for table in schema.tables
    )
    return dataclasses.replace(schema, tables=changed)


def config_of(name: str) -> Config:
    """A run in the order of time, without alignment, counts, checkpoints and curves."""
    base = main_only(recipe(name))
    return dataclasses.replace(
        base,
        schema=without_counts(base.schema),
        optim=dataclasses.replace(base.optim, schedule="constant"),
        trainer=dataclasses.replace(base.trainer, threads=1, pin_cores=False),
        checkpoint=dataclasses.replace(base.checkpoint, every_steps=0),
        logging=dataclasses.replace(base.logging, tensorboard=False),
    )


def replace_videos(data: Path, lifetime_ms: float) -> int:
    """Gives every video of a world a new id each `lifetime_ms`; returns the number of ids."""
    ids: list[np.ndarray] = []

    def renamed(video: pa.Array, time_ms: np.ndarray) -> pa.Array:
        number = video.to_numpy()
        phase = mixed(number) / 2.0**63
        generation = np.floor(time_ms / lifetime_ms + phase).astype(np.int64)
        # Ids of any size, as those of a service.
        new = mixed(number, generation)
        ids.append(np.unique(new))
        return pa.array(new)

    for path in sorted((data / "requests").glob("*.parquet")):
        table = pq.read_table(path).combine_chunks()
        now = table["timestamp_ms"].to_numpy()
        for column, of_request in (("candidates", True), ("history", False)):
            lists = table[column].combine_chunks()
            entries = lists.flatten()
            if of_request:
                times = np.repeat(now, lists.value_lengths().to_numpy())
            else:
                times = entries.field("timestamp_ms").to_numpy()
            fields = {field.name: entries.field(field.name) for field in entries.type}
            fields["video_id"] = renamed(fields["video_id"], times)
            struct = pa.StructArray.from_arrays(list(fields.values()), names=list(fields))
            offsets = np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy())]).astype(np.int32)
            new = pa.ListArray.from_arrays(pa.array(offsets), struct)
            table = table.set_column(table.schema.get_field_index(column), column, new)
        pq.write_table(table, path, row_group_size=1_024)
    return len(np.unique(np.concatenate(ids)))


def run(cell: Cell) -> dict[str, float]:
    """Trains one arm; returns the mean of the hourly metrics over the second half of the hours."""
    with tempfile.TemporaryDirectory() as name, running(cell.config.trainer) as runtime:
        follow = dataclasses.replace(
            cell.config.follow, source=str(cell.data), stop_when_idle_seconds=0.5, checkpoint_minutes=0
        )
        trainer = dataclasses.replace(cell.config.trainer, seed=cell.seed)
        config = dataclasses.replace(cell.config, follow=follow, trainer=trainer)
        Follower(config, runtime, run_dir=Path(name)).follow()
        lines = [json.loads(line) for line in (Path(name) / "metrics.jsonl").read_text().splitlines()]
    hours = [line for line in lines if line["split"] == "hour"]
    late = hours[len(hours) // 2 :]
    return {metric: _mean([(hour.get(metric), hour["requests"]) for hour in late]) for metric in METRICS}


def _mean(values: Sequence[tuple[float | None, float]]) -> float:
    known = [(value, weight) for value, weight in values if value is not None and math.isfinite(value)]
    return sum(value * weight for value, weight in known) / sum(weight for _, weight in known)


def summary(found: Mapping[Arm, Sequence[Mapping[str, float]]]) -> list[dict[str, object]]:
    """A line for each arm: means, and differences to `hashed` with as many rows, in percent of that."""
    lines: list[dict[str, object]] = []
    hashed = {arm.rows: arm for arm in found if arm.admit_after is None}
    for arm, results in found.items():
        base = found[hashed.get(arm.rows, hashed[max(hashed)])]
        line: dict[str, object] = {"arm": arm.title}
        for metric in METRICS:
            changes = [100 * (one[metric] / other[metric] - 1) for one, other in zip(results, base, strict=True)]
            line[metric] = round(float(np.mean([one[metric] for one in results])), 4)
            line[f"{metric} against hashed"] = t_interval(changes).text(digits=2)
        lines.append(line)
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=5, help="worlds, and initial weights on KuaiRand")
    parser.add_argument("--first-world", type=int, default=30)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--videos", type=int, default=2_000)
    parser.add_argument("--lifetime-days", type=float, default=3.0)
    parser.add_argument("--kuairand", type=Path, help="a prepared log (datasets/kuairand/prepare.py)")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        logs: dict[str, list[Cell]] = {"world": [], "kuairand": []}
        ids: dict[str, int] = {}
        for seed in range(args.first_world, args.first_world + args.worlds):
            config = config_of("quickstart")
            world = dataclasses.replace(
                config.world, version=2, requests=args.requests, users=2_000, videos=args.videos, density=0.0, seed=seed
            )
            data = Path(name) / f"world-{seed}"
            generate(world, data, counts=False)
            ids["world"] = replace_videos(data, args.lifetime_days * DAY_MS)
            for arm in arms([args.videos, 2 * args.videos], ids["world"]):
                schema = with_arm(config.schema, {"video"}, arm)
                changed = dataclasses.replace(config, world=world, schema=schema)
                logs["world"].append(Cell(data=data, config=changed, arm=arm, seed=0))
        if args.kuairand is not None:
            config = config_of("kuairand")
            ids["kuairand"] = _most_ids(args.kuairand)
            for seed in range(args.worlds):
                for arm in arms([ids["kuairand"] // 4, ids["kuairand"] // 2], ids["kuairand"]):
                    changed = dataclasses.replace(config, schema=with_arm(config.schema, {"user", "video"}, arm))
                    logs["kuairand"].append(Cell(data=args.kuairand, config=changed, arm=arm, seed=seed))
        cells = [cell for found in logs.values() for cell in found]
        # A new process for each run: a process has one process group.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(args.processes, mp_context=context, max_tasks_per_child=1) as pool:
            results = dict(zip(map(id, cells), pool.map(run, cells), strict=True))
        tables = {}
        for log, found in logs.items():
            by_arm: dict[Arm, list[dict[str, float]]] = {}
            for cell in found:
                # Sizes of `own row` differ a little between worlds.
                arm = dataclasses.replace(cell.arm, rows=0) if cell.arm.name == OWN else cell.arm
                by_arm.setdefault(arm, []).append(results[id(cell)])
            if found:
                tables[log] = summary(by_arm)
    for log, lines in tables.items():
        print(f"{log}: {ids[log]:,} ids")
        for line in lines:
            print("  " + "  ".join(f"{key} {value}" for key, value in line.items()))
    options = {name: str(value) for name, value in vars(args).items() if name != "out"}
    result = {"benchmark": "id_spaces", "options": options, "ids": ids, "tables": tables}
    publish({**result, "wall_s": round(time.perf_counter() - begin), **hardware()}, args.out)


def _most_ids(data: Path) -> int:
    """Different users or videos of a log, whichever are more."""
    table = pq.read_table(data / "requests", columns=["user_id", "candidates"]).combine_chunks()
    videos = table["candidates"].combine_chunks().flatten().field("video_id")
    return max(len(table["user_id"].unique()), len(videos.unique()))


if __name__ == "__main__":
    main()
