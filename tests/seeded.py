"""Digests of what a seed determines: data, simulated experiment, order, replayed answers and initial weights.

python -m tests.seeded      prints them for a small world, and the data of the other world, as JSON
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from easq_rec.config import Config, World
from easq_rec.config.command_line import parse_config
from easq_rec.data.sources import open_sources
from easq_rec.tools.simulation.online import Arm, Experiment, Stage
from easq_rec.tools.simulation.rounds import Round
from easq_rec.tools.simulation.world import generate
from easq_rec.training.process import quiet, running
from easq_rec.training.sharding.tables import shard
from easq_rec.training.training_model import TrainingModel
from easq_rec.upstream.torch_sharded_tensor import ShardedTensor

STEPS = 20
"""Number of batches in the digests of the order and of the replay."""
SMALL = (
    *("--world.requests", "400", "--world.users", "80", "--world.videos", "120", "--world.density", "5000"),
    *("--world.rho", "0.2", "--trainer.batch-size", "16", "--trainer.device", "cpu", "--trainer.threads", "1"),
)


def digests(config: Config, directory: Path) -> dict[str, str]:
    """Digests of the data in a directory, and of the order, replay and initial weights that the config's seed gives."""
    return {"data": data(directory), **order(config, directory), **weights(config)}


def data(directory: Path) -> str:
    """Digest of all values. It does not depend on the parts, row groups and compression of the files."""
    digest = hashlib.sha256()
    for name in ("requests", "answers"):
        table = pa.concat_tables([pq.read_table(part) for part in sorted((directory / name).glob("*.parquet"))])
        for column in table.column_names:
            digest.update(f"{name}.{column}".encode())
            _add(digest, table[column].combine_chunks())
    return digest.hexdigest()


def order(config: Config, directory: Path) -> dict[str, str]:
    """Digests of the first batches: of requests and candidates with evidence, and of replayed answers."""
    stream, replay = hashlib.sha256(), hashlib.sha256()
    loader = open_sources(config, directory).loader
    for batch, state in loader.batches(loader.start(), steps=STEPS):
        request_id_R, streamed = batch.keys.request_id_R, batch.stream.requests
        for values in (request_id_R[:streamed], batch.evidence_candidate_E):
            stream.update(np.asarray(values, dtype="<i8").tobytes())
        for values in (request_id_R[streamed:], batch.answered_A, batch.answer_A, state.replay.replays):
            replay.update(np.asarray(values, dtype="<i8").tobytes())
    return {"order": stream.hexdigest(), "replay": replay.hexdigest()}


def weights(config: Config) -> dict[str, str]:
    """Digests of the initial weights as the trainer creates them, with sharded tables on one rank."""
    quiet()
    dense, tables = hashlib.sha256(), hashlib.sha256()
    with running(config.trainer) as runtime:
        model = shard(TrainingModel(config, torch.device("meta")), config, runtime)
        for name, value in sorted(model.state_dict().items()):
            parts = [part.tensor for part in value.local_shards()] if isinstance(value, ShardedTensor) else [value]
            digest = tables if isinstance(value, ShardedTensor) else dense
            digest.update(name.encode())
            for part in parts:
                digest.update(part.detach().numpy().tobytes())
    return {"dense": dense.hexdigest(), "tables": tables.hexdigest()}


def experiment(config: Config) -> str:
    """Digest of two days of a simulated experiment in which users come and leave."""
    stage, digest = Stage.of(config.world), hashlib.sha256()
    arm = Arm(stage, Experiment(pool=20, slate=8), np.arange(config.world.users))
    for _ in range(2):
        served, day = arm.serve_day(lambda pool: pool.true_engagement)
        for field in dataclasses.fields(Round):
            digest.update(np.ascontiguousarray(getattr(served.requests, field.name)).tobytes())
        digest.update(served.seen.tobytes() + repr(day).encode())
    return digest.hexdigest()


def _add(digest: Any, array: pa.Array) -> None:
    digest.update(array.is_valid().to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_list(array.type):
        digest.update(array.value_lengths().fill_null(0).to_numpy().tobytes())
        _add(digest, array.flatten())
    elif pa.types.is_struct(array.type):
        for index in range(array.type.num_fields):
            _add(digest, array.field(index))
    else:
        digest.update(array.fill_null(0).to_numpy(zero_copy_only=False).tobytes())


def main() -> None:
    config = parse_config(["quickstart", *SMALL], prog="tests.seeded")
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "world"
        generate(config.world, directory)
        found = {**digests(config, directory), "experiment": experiment(config)}
        other = World(version=2, requests=400, users=80, videos=120, density=5_000.0, response_satisfaction=0.5)
        generate(other, Path(folder) / "other")
        found["data_of_world_2"] = data(Path(folder) / "other")
    print(json.dumps({"capability": torch.backends.cpu.get_cpu_capability(), "digests": found}))


if __name__ == "__main__":
    main()
