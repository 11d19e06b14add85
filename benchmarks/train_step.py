"""How many impressions per CPU second does one training step make, against plain PyTorch at impression level?

Runs in turn, in one process on one thread, on the reference workload (128 requests x 12 candidates, history 50):

- full_encoder: impression-level, `nn.TransformerEncoder` over every token in every layer
- equal_math:   impression-level, same mask and last-layer saving as ours
- easq:         this project's step under DistributedModelParallel and TrainPipelineSparseDist, with replayed answers
- main_only:    the same without alignment
- easq_bf16:    easq with the dense part under bf16 autocast
- easq_medium:  easq with torch.set_float32_matmul_precision("medium")

    python -m benchmarks.train_step [--rounds 5] [--steps 10] [--out FILE.json]

Prints one JSON line: impressions per CPU second (median over rounds, in which all variants take turns), the ratios,
peak RSS of easq against its tables and optimizer state, versions and hardware.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib.metadata
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from easq_rec.config import Config, Data, LoRA, Losses, Model, Replay, Tower, Trainer
from easq_rec.data.batch import Answers, RequestBatch, collate
from easq_rec.data.columns import Ragged, RequestColumns
from easq_rec.features import Feature, FeatureSchema, Outcome, Table
from easq_rec.model import TrainingModel
from easq_rec.recipes import without_alignment
from easq_rec.training.optim import Optimizers
from easq_rec.training.runtime import ProcessGroupRanks, Runtime, running
from easq_rec.training.sharding import shard

REQUESTS, CANDIDATES, HISTORY, REPLAYED = 128, 12, 50, 8
USERS, VIDEOS, AUTHORS, TAGS, VALUES = 1_000_000, 1_000_000, 100_000, 5_000, 10_000
DIM = 32


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
        outcomes=(Outcome(name="long_view", weight=1.0),),
    )
    return Config(
        recipe="reference",
        schema=schema,
        data=Data(max_history=HISTORY),
        model=Model(
            dim=64, heads=4, layers=2, ffn=256, main=Tower(experts=8), satisfaction=Tower(experts=3), lora=LoRA(rank=8)
        ),
        losses=Losses(satisfaction=1.0, dpo=0.0, dense=0.3),
        replay=Replay(answers_per_step=REPLAYED),
        trainer=Trainer(batch_size=REQUESTS, threads=1, device="cpu"),
    )


def random_requests(count: int, rng: np.random.Generator) -> RequestColumns:
    """Full histories and candidate lists with uniform ids."""
    entries, candidates = count * HISTORY, count * CANDIDATES
    times = rng.integers(10**9, 10**10, count)
    return RequestColumns(
        scalars={
            "request_id": np.arange(count),
            "user_id": rng.integers(0, USERS, count),
            "timestamp_ms": times,
            **{f"user.feature_{index}": rng.integers(0, VALUES, count) for index in range(5)},
        },
        lists={},
        history=Ragged(
            offsets=np.arange(count + 1) * HISTORY,
            children={
                "video_id": rng.integers(0, VIDEOS, entries),
                "author_id": rng.integers(0, AUTHORS, entries),
                "timestamp_ms": np.repeat(times, HISTORY) - rng.integers(0, 10**8, entries),
                "watch_ratio": rng.random(entries, dtype=np.float32),
            },
        ),
        candidates=Ragged(
            offsets=np.arange(count + 1) * CANDIDATES,
            children={
                "video_id": rng.integers(0, VIDEOS, candidates),
                "author_id": rng.integers(0, AUTHORS, candidates),
                "tags": Ragged(
                    offsets=np.arange(candidates + 1) * 3, children={"values": rng.integers(0, TAGS, candidates * 3)}
                ),
                "duration_ms": rng.integers(3_000, 300_000, candidates).astype(np.float32),
                "long_view": rng.integers(0, 2, candidates).astype(np.float32),
            },
        ),
    )


def random_batch(config: Config, rng: np.random.Generator) -> RequestBatch:
    """One training batch; with answers where the config is aligned."""
    answers = None
    if config.aligned:
        answers = Answers(
            requests=random_requests(REPLAYED, rng),
            request_A=np.arange(REPLAYED),
            candidate_A=rng.integers(0, CANDIDATES, REPLAYED),
            answer_A=np.where(np.arange(REPLAYED) % 2, 2, 0).astype(np.int8),
        )
    return collate(config.schema, random_requests(REQUESTS, rng), answers)


class Step:
    """This project's training step: `__call__` trains on one batch."""

    def __init__(self, config: Config, runtime: Runtime) -> None:
        rng = np.random.default_rng(0)
        self._config = config
        model = TrainingModel(config, torch.device("meta"), ProcessGroupRanks(runtime.world_size))
        if config.trainer.precision == "bf16":
            model.ranker.network.autocast = torch.bfloat16
        self.model = shard(model, config, runtime)
        self._optimizers = Optimizers(self.model, config.optim)
        self._pipeline = TrainPipelineSparseDist(self.model, self._optimizers, runtime.device)
        self._batches: Iterator[RequestBatch] = itertools.cycle([random_batch(config, rng) for _ in range(8)])
        self._step = 0

    def __call__(self) -> None:
        torch.set_float32_matmul_precision(self._config.trainer.matmul)
        self._optimizers.before_step(self._step, 1_000)
        self._pipeline.progress(self._batches)
        self._step += 1

    def bytes_of_tables(self) -> int:
        """Tables, their row-wise optimizer state, dense parameters with AdamW's two moments."""
        rows = self._config.schema.tables
        tables = sum(table.rows * table.dim * 4 + table.rows * 4 for table in rows)
        dense = sum(parameter.numel() for parameter in self.model.parameters()) - sum(t.rows * t.dim for t in rows)
        return tables + 3 * 4 * dense


def measure(step: Callable[[], None], steps: int) -> float:
    """Impressions per CPU second."""
    begin = time.process_time()
    for _ in range(steps):
        step()
    return steps * REQUESTS * CANDIDATES / (time.process_time() - begin)


def resident_mib(field: str) -> float:
    """VmRSS, VmHWM (its peak) or RssAnon (the part that is no program file) of this process, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def hardware() -> dict[str, object]:
    """What the figures were measured on."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    names = ("torch", "torchrec", "fbgemm-gpu-cpu")
    return {
        "cpu": model,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="steps of ours per round; baselines make 1")
    parser.add_argument("--skip-baselines", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    config = reference_config()
    with running(config.trainer) as runtime:
        imported, imported_anonymous = resident_mib("VmRSS"), resident_mib("RssAnon")
        easq = Step(config, runtime)
        for _ in range(5):
            easq()
        # Freed memory is kept (see the runtime), so what is resident now is the peak, but for pages of program files.
        peak, anonymous = resident_mib("VmHWM"), resident_mib("RssAnon")
        tables = easq.bytes_of_tables() / 2**20
        bf16 = dataclasses.replace(config.trainer, precision="bf16")
        medium = dataclasses.replace(config.trainer, matmul="medium")
        steps: dict[str, Callable[[], None]] = {
            "easq": easq,
            "main_only": Step(without_alignment(config, recipe="main_only"), runtime),
            "easq_bf16": Step(dataclasses.replace(config, trainer=bf16), runtime),
            "easq_medium": Step(dataclasses.replace(config, trainer=medium), runtime),
        }
        if not args.skip_baselines:
            steps |= baselines()
        rates: dict[str, list[float]] = {name: [] for name in steps}
        for name, step in steps.items():
            measure(step, 1 if name in ("full_encoder", "equal_math") else 5)
        for _ in range(args.rounds):
            for name, step in steps.items():
                gc.collect()
                rates[name].append(measure(step, 1 if name in ("full_encoder", "equal_math") else args.steps))
        rate = {name: statistics.median(values) for name, values in rates.items()}
        result = {
            "benchmark": "train_step",
            "impressions_per_cpu_second": {name: round(value) for name, value in rate.items()},
            "spread": {name: [round(min(values)), round(max(values))] for name, values in rates.items()},
            "ratios": {f"easq/{name}": round(rate["easq"] / rate[name], 3) for name in rate if name != "easq"},
            "cpu_time_easq_over_main_only": round(
                statistics.median(m / e for m, e in zip(rates["main_only"], rates["easq"], strict=True)), 3
            ),
            "memory_mib": {
                "after_imports": round(imported),
                "peak": round(peak),
                "tables_and_optimizer": round(tables),
                "peak_less_imports_over_tables": round((peak - imported) / tables, 3),
                "anonymous_less_imports_over_tables": round((anonymous - imported_anonymous) / tables, 3),
            },
            **hardware(),
        }
    line = json.dumps(result)
    print(line)
    if args.out:
        args.out.write_text(line + "\n")


def baselines() -> dict[str, Callable[[], None]]:
    """The impression-level steps, on one fixed batch each."""
    from benchmarks.baselines import Workload, build_equal_math, build_full_encoder, synthetic_batch

    workload = Workload()
    batch = synthetic_batch(workload, torch.Generator().manual_seed(0))
    full, equal = build_full_encoder(workload), build_equal_math(workload)

    def step_full() -> None:
        torch.set_float32_matmul_precision("highest")
        full.step(batch)

    def step_equal() -> None:
        torch.set_float32_matmul_precision("highest")
        equal.step(batch)

    return {"full_encoder": step_full, "equal_math": step_equal}


if __name__ == "__main__":
    main()
