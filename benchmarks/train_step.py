"""How many impressions per CPU second does a training step process, compared with plain PyTorch at impression level?

Runs in turn, in one process on one thread, on the reference workload (128 requests x 12 candidates, history 50):

- full_encoder: impression-level, `nn.TransformerEncoder` over every token in every layer
- equal_math:   impression-level, with the mask and the last-layer saving of this project
- easq:         this project's step under DistributedModelParallel and TrainPipelineSparseDist, with replayed answers
- main_only:    the same without alignment
- easq_bf16:    easq with the dense part under bf16 autocast
- easq_medium:  easq with torch.set_float32_matmul_precision("medium")

    python -m benchmarks.train_step [--workload kuairand] [--rounds 9] [--steps 20] [--out FILE.json]

`--workload kuairand` measures this project's step on short requests instead (`benchmarks.kuairand_workload`).

Prints one JSON line: impressions per CPU second (median over rounds, in which all variants take turns), the ratios, the
CPU time of easq relative to main_only, the same step on ragged batches, peak RSS of easq compared with its tables and
optimizer state, versions and hardware.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.report import hardware, publish
from easq_rec.config import Config, Data, LoRA, Losses, Model, Optim, Replay, Tower, TrainerConfig, Transformer
from easq_rec.config.schema import Feature, FeatureSchema, Outcome, Table
from easq_rec.config.variants import main_only as without_alignment
from easq_rec.data.batch import Answers, RequestBatch, collate
from easq_rec.data.columns import Ragged, RequestColumns
from easq_rec.data.encode import encode
from easq_rec.data.layout import Layout
from easq_rec.kernels import packing
from easq_rec.training.health.finite_check import FiniteCheck
from easq_rec.training.memory import HostMemory
from easq_rec.training.process import ProcessGroupRanks, Runtime, running
from easq_rec.training.sharding.tables import shard
from easq_rec.training.step import StepPlan, TrainingStep
from easq_rec.training.training_model import TrainingModel

REQUESTS, CANDIDATES, HISTORY, REPLAYED = 128, 12, 50, 16
USERS, VIDEOS, AUTHORS, TAGS, VALUES = 1_000_000, 1_000_000, 100_000, 5_000, 10_000
DIM = 32
LIKED, EVIDENCE = 0.15, 2.0
"""Share of long views with a like, and its weight of evidence: about as in the built-in world."""


def reference_config() -> Config:
    """The reference workload as a config."""
    user = [f"feature_{index}" for index in range(5)]
    schema = FeatureSchema(
        tables=(
            Table(name="user", rows=USERS, dim=DIM),
            *(Table(name=name, rows=VALUES, dim=DIM) for name in user),
            Table(name="video", rows=VIDEOS, dim=DIM),
            Table(name="author", rows=AUTHORS, dim=DIM),
            Table(name="tag", rows=TAGS, dim=DIM),
        ),
        user=(Feature(name="user_id", table="user"), *(Feature(name=name, table=name) for name in user)),
        history=(Feature(name="video_id", table="video"), Feature(name="author_id", table="author")),
        candidate=(
            Feature(name="video_id", table="video"),
            Feature(name="author_id", table="author"),
            Feature(name="tags", kind="id_list", table="tag", pooling="mean"),
            Feature(name="duration_ms", kind="float", transform="log1p"),
        ),
        outcomes=(Outcome(name="long_view", weight=1.0), Outcome(name="like", weight=0.5)),
        trigger="long_view",
    )
    return Config(
        recipe="reference",
        schema=schema,
        data=Data(max_history=HISTORY),
        model=Model(
            dim=64,
            backbone=Transformer(heads=4, layers=2, ffn=256),
            main=Tower(experts=8),
            satisfaction=Tower(experts=3),
            lora=LoRA(rank=8),
            satisfaction_weight=0.2,
        ),
        losses=Losses(align_every=2).aligned_by(satisfaction=1.0, evidence=1.0),
        optim=Optim(pathway_lr=2.0),
        replay=Replay(answers_per_step=REPLAYED),
        trainer=TrainerConfig(batch_size=REQUESTS, threads=1, device="cpu"),
    )


def random_requests(count: int, rng: np.random.Generator, *, ragged: bool = False) -> RequestColumns:
    """Requests with uniform ids; full histories and candidate lists, or with `ragged` 0 to 50 and 4 to 12 entries."""
    histories = rng.integers(0, HISTORY + 1, count) if ragged else np.full(count, HISTORY)
    lists = rng.integers(4, CANDIDATES + 1, count) if ragged else np.full(count, CANDIDATES)
    entries, candidates = int(histories.sum()), int(lists.sum())
    times = rng.integers(10**9, 10**10, count)
    long_view = rng.integers(0, 2, candidates).astype(np.float32)
    return RequestColumns(
        scalars={
            "request_id": np.arange(count),
            "user_id": rng.integers(0, USERS, count),
            "timestamp_ms": times,
            **{f"user.feature_{index}": rng.integers(0, VALUES, count) for index in range(5)},
        },
        lists={},
        history=Ragged(
            offsets=np.concatenate([[0], histories.cumsum()]),
            children={
                "video_id": rng.integers(0, VIDEOS, entries),
                "author_id": rng.integers(0, AUTHORS, entries),
                "timestamp_ms": np.repeat(times, histories) - rng.integers(0, 10**8, entries),
                "watch_ratio": rng.random(entries, dtype=np.float32),
            },
        ),
        candidates=Ragged(
            offsets=np.concatenate([[0], lists.cumsum()]),
            children={
                "video_id": rng.integers(0, VIDEOS, candidates),
                "author_id": rng.integers(0, AUTHORS, candidates),
                "tags": Ragged(
                    offsets=np.arange(candidates + 1) * 3, children={"values": rng.integers(0, TAGS, candidates * 3)}
                ),
                "duration_ms": rng.integers(3_000, 300_000, candidates).astype(np.float32),
                "long_view": long_view,
                "like": long_view * (rng.random(candidates) < LIKED),
            },
        ),
    )


Requests = Callable[[int, np.random.Generator], RequestColumns]
"""Makes so many random requests of a workload."""


def random_batch(
    config: Config, rng: np.random.Generator, number: int, *, requests_of: Requests = random_requests
) -> RequestBatch:
    """A training batch, the `number`th from 0; with answers if its step aligns."""
    answers, layout, evidence_O = None, Layout.of(config.schema), None
    aligned = config.aligned and (number + 1) % config.losses.align_every == 0
    if aligned:
        count, evidence_O = config.replay.answers_per_step, np.array([0.0, EVIDENCE], np.float32)
        requests = encode(layout, requests_of(count, rng))
        # One answer per request; the replay returns only answered candidates.
        lists = requests.candidates
        answers = Answers(
            requests=requests.keep_candidates(lists.offsets[:-1] + rng.integers(0, lists.lengths)),
            request_A=np.arange(count),
            candidate_A=np.zeros(count, np.int64),
            answer_A=np.where(np.arange(count) % 2, 2, 0).astype(np.int8),
        )
    return collate(
        config.schema,
        encode(layout, requests_of(REQUESTS, rng)),
        answers,
        evidence_O=evidence_O,
        aligned=aligned,
    )


class Step:
    """This project's training step: `__call__` trains on one batch.

    Args:
        batches: how many different ones take turns.
        requests_of: makes their requests.
        packed: whether short requests may share rows (`easq_rec.kernels.packing`).
    """

    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        *,
        batches: int = 8,
        requests_of: Requests = random_requests,
        packed: bool = True,
    ) -> None:
        rng = np.random.default_rng(0)
        self._saving = packing.SAVING if packed else 0.0
        self._config = config
        model = TrainingModel(config, torch.device("meta"), ProcessGroupRanks(runtime))
        self.model = shard(model, config, runtime)
        finite_check = FiniteCheck(runtime, Path("not_finite"), stops=False)
        self._train_step = TrainingStep(self.model, config.optim, runtime, finite_check)
        made = [random_batch(config, rng, number, requests_of=requests_of) for number in range(batches)]
        self._batches: Iterator[RequestBatch] = itertools.cycle(made)
        self._sizes = itertools.cycle([batch.stream.candidates for batch in made])
        self._step = 0

    def __call__(self) -> int:
        """Impressions trained on."""
        torch.set_float32_matmul_precision(self._config.trainer.matmul)
        packing.SAVING = self._saving
        self._step += 1
        self._train_step(self._batches, StepPlan(number=self._step, total_steps=1_000))
        return next(self._sizes)

    def bytes_of_tables(self) -> int:
        """Tables, their row-wise optimizer state, dense parameters with AdamW's two moments."""
        schema = self._config.schema
        rows = schema.tables if self._config.model.satisfaction is None else schema.tables + schema.satisfaction_tables
        tables = sum(table.rows * table.dim * 4 + table.rows * 4 for table in rows)
        dense = sum(parameter.numel() for parameter in self.model.parameters()) - sum(t.rows * t.dim for t in rows)
        return tables + 3 * 4 * dense


def measure(step: Callable[[], int], steps: int) -> tuple[int, float]:
    """(impressions, CPU seconds) of `steps` steps."""
    begin = time.process_time()
    impressions = sum(step() for _ in range(steps))
    return impressions, time.process_time() - begin


def rate(step: Callable[[], int], steps: int) -> float:
    """Impressions per CPU second."""
    impressions, seconds = measure(step, steps)
    return impressions / seconds


def median_milliseconds(steps: dict[str, Step], *, turns: int) -> dict[str, float]:
    """Median CPU time per step of each, computed as half of two steps, one of which aligns.

    They take short turns; at the first step of a turn the caches have another variant's data.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            measure(step, 1)
            seconds[name] += [measure(step, 2)[1] / 2 for _ in range(3)]
    return {name: 1_000 * statistics.median(values) for name, values in seconds.items()}


def resident_mib(field: str) -> float:
    """VmRSS, VmHWM (its peak) or RssAnon (anonymous memory, without program files) of this process, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def memory_of(config: Config, runtime: Runtime) -> dict[str, float]:
    """Peak memory of the step compared with its tables. Must be called before other code takes memory."""
    imported, imported_anonymous = resident_mib("VmRSS"), resident_mib("RssAnon")
    # Two batches, as many as the train pipeline holds.
    step = Step(config, runtime, batches=2)
    with HostMemory() as memory:
        for index in range(1, 6):
            step()
            memory.step(index)
    # Freed memory is kept (see the runtime), so the current resident memory is the peak, except for program files.
    peak, anonymous = resident_mib("VmHWM"), resident_mib("RssAnon")
    tables = step.bytes_of_tables() / 2**20
    return {
        "after_imports": round(imported),
        "peak": round(peak),
        "tables_and_optimizer": round(tables),
        "peak_less_imports_over_tables": round((peak - imported) / tables, 3),
        "anonymous_less_imports_over_tables": round((anonymous - imported_anonymous) / tables, 3),
    }


def ragged_steps(config: Config, runtime: Runtime, *, steps: int = 100) -> dict[str, float]:
    """Batches with different list lengths each time: kernels that depend on shapes must not be compiled again."""
    step = Step(config, runtime, batches=steps + 5, requests_of=functools.partial(random_requests, ragged=True))
    measure(step, 5)
    impressions, seconds = measure(step, steps)
    return {
        "impressions_per_cpu_second": round(impressions / seconds),
        "ms_per_step": round(1_000 * seconds / steps, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=("reference", "kuairand"), default="reference")
    parser.add_argument("--data", type=Path, help="kuairand: converted log to read instead of random requests")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20, help="steps of ours per round; baselines make 1")
    parser.add_argument("--skip-baselines", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.workload == "kuairand":
        from benchmarks.kuairand_workload import measured

        publish(measured(args.data, rounds=args.rounds, steps=args.steps), args.out)
        return
    config = reference_config()
    with running(config.trainer) as runtime:
        memory = memory_of(config, runtime)
        bf16 = dataclasses.replace(config.trainer, precision="bf16")
        medium = dataclasses.replace(config.trainer, matmul="medium")
        easq, main_only = Step(config, runtime), Step(without_alignment(config), runtime)
        with HostMemory() as host:
            for step in (easq, main_only):
                measure(step, 5)
            host.step(1)
            milliseconds = median_milliseconds({"easq": easq, "main_only": main_only}, turns=100)
            ragged = ragged_steps(config, runtime)
            ours: dict[str, Callable[[], int]] = {
                "easq": easq,
                "main_only": main_only,
                "easq_bf16": Step(dataclasses.replace(config, trainer=bf16), runtime),
                "easq_medium": Step(dataclasses.replace(config, trainer=medium), runtime),
            }
            baselines = impression_level() if not args.skip_baselines else {}
            measured: dict[str, list[float]] = {name: [] for name in (*ours, *baselines)}
            for _ in range(args.rounds + 1):
                for name, step in (*ours.items(), *baselines.items()):
                    measured[name].append(rate(step, args.steps if name in ours else 1))
    # The first round warms up.
    rates = {name: values[1:] for name, values in measured.items()}
    middle = {name: statistics.median(values) for name, values in rates.items()}
    result = {
        "benchmark": "train_step",
        "impressions_per_cpu_second": {name: round(value) for name, value in middle.items()},
        "spread": {name: [round(min(values)), round(max(values))] for name, values in rates.items()},
        "ratios": {f"easq/{name}": round(middle["easq"] / middle[name], 3) for name in middle if name != "easq"},
        "cpu_time_easq_over_main_only": round(milliseconds["easq"] / milliseconds["main_only"], 3),
        "ragged": ragged,
        "memory_mib": memory,
        **hardware(),
    }
    publish(result, args.out)


def impression_level() -> dict[str, Callable[[], int]]:
    """The impression-level steps, on one fixed batch each."""
    from benchmarks.baselines import Workload, build_equal_math, build_full_encoder, synthetic_batch

    workload = Workload()
    batch = synthetic_batch(workload, torch.Generator().manual_seed(0))
    full, equal = build_full_encoder(workload), build_equal_math(workload)

    def step_full() -> int:
        torch.set_float32_matmul_precision("highest")
        full.step(batch)
        return REQUESTS * CANDIDATES

    def step_equal() -> int:
        torch.set_float32_matmul_precision("highest")
        equal.step(batch)
        return REQUESTS * CANDIDATES

    return {"full_encoder": step_full, "equal_math": step_equal}


if __name__ == "__main__":
    main()
