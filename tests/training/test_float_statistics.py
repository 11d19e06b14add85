"""Statistics of float features come from a sample of the training data, and are the same for every number of ranks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from easq_rec.config import World, recipes
from easq_rec.config.schema import Feature, FeatureSchema
from easq_rec.data.sources import open_sources
from easq_rec.model.tokens import Tokenizer
from easq_rec.tools.simulation.world import generate
from easq_rec.training.float_statistics import fit_floats


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("world") / "data"
    generate(World(requests=400, users=60, videos=100, density=500.0), directory)
    return directory


def schema(encoding: str) -> FeatureSchema:
    """The schema of `quickstart` without counts, with an encoding of its only float, the duration."""
    found = recipes.recipe("quickstart_without_counts").schema
    candidate = [
        dataclasses.replace(feature, encoding=encoding) if feature.kind == "float" else feature
        for feature in found.candidate
    ]
    return dataclasses.replace(found, candidate=tuple(candidate))


def fitted(world: Path, encoding: str, *, rank: int = 0, world_size: int = 1) -> Tokenizer:
    config = dataclasses.replace(recipes.recipe("quickstart_without_counts"), schema=schema(encoding))
    sources = open_sources(config, world, rank=rank, world_size=world_size)
    tokens = Tokenizer(config.schema, config.model, 50)
    fit_floats(tokens, sources.train, config.schema)
    return tokens


def durations(world: Path) -> np.ndarray:
    """log(1 + duration) of all candidates of the training period."""
    table = pq.read_table(world / "requests", columns=["timestamp_ms", "candidates"])
    config = recipes.recipe("quickstart_without_counts")
    end_ms = open_sources(config, world).train_period.end_ms
    rows = table.filter(table["timestamp_ms"].to_numpy() < end_ms)["candidates"].to_pylist()
    return np.log1p(np.array([candidate["duration_ms"] for row in rows for candidate in row], dtype=np.float32))


def test_the_sample_of_a_small_log_is_all_of_its_training_period(world: Path) -> None:
    expected = durations(world)
    numbers = fitted(world, "standard").candidate_numbers
    assert float(numbers.mean_F[0]) == pytest.approx(expected.mean(), rel=1e-5)
    assert float(numbers.deviation_F[0]) == pytest.approx(expected.std(), rel=1e-3)
    edges = fitted(world, "quantiles").candidate_numbers.edges_KE[0]
    assert (float(edges[0]), float(edges[-1])) == (expected.min(), expected.max())
    assert float(edges[8]) == pytest.approx(np.median(expected), rel=1e-2)


def test_every_rank_fits_the_same_statistics(world: Path) -> None:
    one, other = fitted(world, "standard"), fitted(world, "standard", rank=1, world_size=2)
    assert torch.equal(one.candidate_numbers.mean_F, other.candidate_numbers.mean_F)
    assert torch.equal(one.candidate_numbers.deviation_F, other.candidate_numbers.deviation_F)


def test_schemas_without_floats_read_nothing(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = recipes.recipe("quickstart_without_counts")
    ids = tuple(feature for feature in config.schema.candidate if isinstance(feature, Feature) and feature.table)
    config = dataclasses.replace(config, schema=dataclasses.replace(config.schema, candidate=ids))
    sources = open_sources(config, world)
    monkeypatch.setattr(type(sources.train), "read", lambda *_: pytest.fail("it reads the data"))
    fit_floats(Tokenizer(config.schema, config.model, 50), sources.train, config.schema)
