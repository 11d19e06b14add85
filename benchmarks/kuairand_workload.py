"""The KuaiRand workload of `benchmarks.train_step`: requests with the shape of a real log, and random ids.

    python -m benchmarks.train_step --workload kuairand [--data DIR] [--rounds 9] [--steps 20] [--out FILE.json]

Runs in turn, in one process on one thread, on 128 requests per step with the recipe `kuairand`:

- kuairand:            as the recipe is, with one token for all user features
- kuairand_main_only:  the same without alignment
- kuairand_each:       a token for each of the 14 user features
- *_padded:            each request in its own row, padded to the longest (`easq_rec.kernels.packing`)

Prints impressions per CPU second (median over rounds), and for `kuairand` the CPU milliseconds of a step by part.
`tables` is part of forward and backward; `collate` comes on top, because the batches are made in advance.

The log itself is not part of the repository. The numbers below were counted in KuaiRand-Pure, requests of users with
even ids from 25 April to 8 May, as `datasets/kuairand/prepare.py` writes them: 62,061 requests, 110,750 impressions.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.report import hardware
from benchmarks.train_step import Requests, Step, measure, random_batch, rate
from easq_rec.config import Config
from easq_rec.config.recipes import kuairand
from easq_rec.config.variants import main_only
from easq_rec.data.batch import RequestBatch, sequence_keys
from easq_rec.data.columns import Array, Ragged, RequestColumns
from easq_rec.data.dataset import RequestDataset
from easq_rec.data.layout import Layout
from easq_rec.errors import UserError
from easq_rec.training.memory import HostMemory
from easq_rec.training.phases import Phases
from easq_rec.training.process import ProcessGroupRanks, Runtime, running
from easq_rec.training.sharding.tables import shard
from easq_rec.training.training_model import TrainingModel

HISTORIES = (
    21583, 11357, 7989, 5645, 4003, 2790, 2054, 1487, 1207, 857, 658, 492, 414, 328, 234, 171, 144, 121, 101, 59, 58,
    54, 30, 36, 28, 27, 21, 17, 11, 18, 8, 5, 13, 4, 2, 3, 1, 2, 4, 2, 2, 1, 1, 1, 0, 2, 1, 1, 0, 0, 14,
)  # fmt: skip
"""Requests with 0, 1, ... 50 history entries; 2.5 on average."""
CANDIDATES = (0, 37779, 13026, 5549, 2596, 1339, 769, 382, 228, 134, 86, 61, 112)
"""Requests with 0, 1, ... 12 candidates; 1.8 on average."""
TAGS = (1005, 95987, 13471, 287)
"""Candidates with 0, 1, 2, 3 tags."""
LONG_VIEW, VALID_PLAY = 0.32, 0.45
"""Share of impressions with each outcome."""
USERS, VIDEOS, AUTHORS = 12_576, 5_743, 5_160
"""Different ids in the log. Uniform draws of them repeat less often than the log does."""


def kuairand_config() -> Config:
    """The recipe `kuairand`, with the tables as `recipes.py` sets them, on one thread."""
    config = kuairand()
    trainer = dataclasses.replace(config.trainer, threads=1, device="cpu")
    return dataclasses.replace(config, trainer=trainer)


def kuairand_requests(count: int, rng: np.random.Generator) -> RequestColumns:
    """`count` requests with the counted lengths."""

    def lengths(counted: tuple[int, ...], size: int) -> Array:
        return rng.choice(len(counted), size, p=np.array(counted) / sum(counted))

    def offsets(sizes: Array) -> Array:
        return np.concatenate([[0], sizes.cumsum()]).astype(np.int64)

    histories, lists = lengths(HISTORIES, count), lengths(CANDIDATES, count)
    entries, candidates = int(histories.sum()), int(lists.sum())
    tags = lengths(TAGS, candidates)
    times = rng.integers(10**9, 10**10, count)
    schema = kuairand_config().schema
    valid_play = rng.random(candidates) < VALID_PLAY
    return RequestColumns(
        scalars={
            "request_id": np.arange(count),
            "user_id": rng.integers(0, USERS, count),
            "timestamp_ms": times,
            **{
                f"user.{feature.name}": rng.integers(0, schema.table(str(feature.table)).rows, count)
                for feature in schema.user[1:]
            },
        },
        lists={},
        history=Ragged(
            offsets=offsets(histories),
            children={
                "video_id": rng.integers(0, VIDEOS, entries),
                "author_id": rng.integers(0, AUTHORS, entries),
                "timestamp_ms": np.repeat(times, histories) - rng.integers(0, 10**8, entries),
                "watch_ratio": rng.random(entries, dtype=np.float32),
            },
        ),
        candidates=Ragged(
            offsets=offsets(lists),
            children={
                "video_id": rng.integers(0, VIDEOS, candidates),
                "author_id": rng.integers(0, AUTHORS, candidates),
                "tags": Ragged(offsets=offsets(tags), children={"values": rng.integers(0, 128, int(tags.sum()))}),
                "video_type": rng.integers(1, 3, candidates),
                "age": rng.integers(0, 16, candidates),
                "duration_ms": rng.integers(3_000, 450_000, candidates).astype(np.float32),
                # A long view of a video is a valid play of it.
                "long_view": (valid_play & (rng.random(candidates) < LONG_VIEW / VALID_PLAY)).astype(np.float32),
                "valid_play": valid_play.astype(np.float32),
            },
        ),
    )


def read_requests(data: Path) -> Requests:
    """Draws requests from the converted log in `data`, with its ids and repetitions."""
    config = kuairand_config()
    layout = Layout.of(config.schema)
    found = RequestDataset(data / "requests", layout, max_history=config.data.max_history).read_all()
    if found is None:
        raise UserError(f"--data {data}: requests/ has no requests")
    columns = found
    return lambda count, rng: columns.take(rng.integers(0, len(columns), count))


def measured(data: Path | None, *, rounds: int, steps: int) -> dict[str, object]:
    """The result of this benchmark."""
    config = kuairand_config()
    requests_of = kuairand_requests if data is None else read_requests(data)
    each = dataclasses.replace(config, model=dataclasses.replace(config.model, user_tokens="each"))
    with running(config.trainer) as started:
        runtime = dataclasses.replace(started, phases=Phases(time.process_time))

        def step(of: Config, *, packed: bool = True) -> Step:
            return Step(of, runtime, batches=64, requests_of=requests_of, packed=packed)

        variants = {
            "kuairand": step(config),
            "kuairand_main_only": step(main_only(config)),
            "kuairand_each": step(each),
            "kuairand_padded": step(config, packed=False),
            "kuairand_each_padded": step(each, packed=False),
        }
        with HostMemory() as memory:
            for variant in variants.values():
                measure(variant, 5)
            memory.step(1)
            rates: dict[str, list[float]] = {name: [] for name in variants}
            for _ in range(rounds + 1):
                for name, variant in variants.items():
                    rates[name].append(rate(variant, steps))
            parts = parts_of_a_step(variants["kuairand"], runtime)
        parts |= tables_and_collate(config, runtime, requests_of)
    # The first round warms up.
    rates = {name: values[1:] for name, values in rates.items()}
    middle = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "benchmark": "train_step",
        "workload": "kuairand" if data is None else "kuairand, real requests",
        "impressions_per_cpu_second": {name: round(value) for name, value in middle.items()},
        "spread": {name: [round(min(values)), round(max(values))] for name, values in rates.items()},
        "ratios": {f"kuairand/{name}": round(middle["kuairand"] / middle[name], 3) for name in list(middle)[1:]},
        "cpu_ms_of_a_step": parts,
        **hardware(),
    }


def parts_of_a_step(step: Step, runtime: Runtime, *, steps: int = 128) -> dict[str, float]:
    """CPU milliseconds of a step by phase. `exchange` is the pipeline between the steps' calls."""
    runtime.phases.take_window(1)
    measure(step, steps)
    milliseconds, _ = runtime.phases.take_window(steps)
    return {name.removeprefix("ms_"): round(value, 2) for name, value in milliseconds.items()}


def tables_and_collate(
    config: Config, runtime: Runtime, requests_of: Requests, *, batches: int = 50
) -> dict[str, float]:
    """CPU milliseconds of the lookups with their updates, and of making a batch of columns in memory."""
    rng = np.random.default_rng(1)
    start = time.process_time()
    made = [random_batch(config, rng, number, requests_of=requests_of) for number in range(batches)]
    collate_ms = 1_000 * (time.process_time() - start) / batches
    model = shard(TrainingModel(config, torch.device("meta"), ProcessGroupRanks(runtime)), config, runtime)
    embeddings = model.module.ranker.embeddings

    def look_up(batch: RequestBatch) -> None:
        user, sequence, candidate = embeddings(batch)
        found: list[Tensor] = [user.values(), candidate.values()]
        found += [sequence[key].values() for key in sequence_keys(config.schema)]
        sum((values.sum() for values in found), start=torch.zeros(())).backward()

    for batch in made[:10]:
        look_up(batch)
    start = time.process_time()
    for batch in made:
        look_up(batch)
    return {
        "tables": round(1_000 * (time.process_time() - start) / batches, 2),
        "collate": round(collate_ms, 2),
    }
