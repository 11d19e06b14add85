"""What training leaves out is declared, repeatable, and the same on any number of ranks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from easq_rec.config import Config
from easq_rec.config.schema import Feature
from easq_rec.config.schema_file import parse_schema, schema_to_toml
from easq_rec.data.batch import RequestBatch, collate
from easq_rec.data.encode import EncodedRequests, encode
from easq_rec.data.feature_dropout import FeatureDropout
from easq_rec.data.layout import Layout
from easq_rec.data.loader import TrainLoader
from easq_rec.data.order import RequestReader
from easq_rec.data.sources import open_sources
from easq_rec.errors import UserError
from easq_rec.model.ranker import Ranker
from tests.builders import ragged_requests, random_answers, small_config
from tests.data.builders import SCHEMA, make_rows, open_dataset, write_dataset


def requests_of(config: Config, count: int, seed: int = 0) -> EncodedRequests:
    rng = np.random.default_rng(seed)
    return encode(Layout.of(config.schema), ragged_requests(config.schema, rng, count))


def declared(config: Config, **rates: float) -> Config:
    """The config with rates of features by name; the others have that of `model.feature_dropout`."""

    def changed(features: tuple[Feature, ...]) -> tuple[Feature, ...]:
        return tuple(dataclasses.replace(f, dropout=rates.get(f.name)) for f in features)

    schema = dataclasses.replace(
        config.schema, user=changed(config.schema.user), candidate=changed(config.schema.candidate)
    )
    return dataclasses.replace(config, schema=schema)


def test_each_feature_is_left_out_as_often_as_declared() -> None:
    config = declared(small_config("main_only"), video_id=0.5, author_id=0.0)
    schema = config.schema
    dropout = FeatureDropout(schema, rate=0.2, seed=1)
    requests = requests_of(config, 2_000)
    scales = dropout(requests, 0)
    for features, scale in ((schema.user_ids, scales.user_RU), (schema.candidate_ids, scales.candidate_NC)):
        assert scale.shape[1] == len(features)
        for feature, column in zip(features, scale.T, strict=True):
            rate = 0.2 if feature.dropout is None else feature.dropout
            assert set(np.unique(column)) <= {np.float32(0), np.float32(1 / (1 - rate))}
            assert abs(float((column == 0).mean()) - rate) <= 4 * (rate * (1 - rate) / len(column)) ** 0.5
            assert float(column.mean()) == pytest.approx(1.0, abs=0.1), "serving, where nothing is left out"
    # Features, candidates, epochs and seeds are independent of each other.
    first, second = scales.user_RU[:, :2].T if scales.user_RU.shape[1] > 1 else scales.candidate_NC[:, [0, -1]].T
    assert abs(np.corrcoef(first == 0, second == 0)[0, 1]) < 0.1
    for other in (dropout(requests, 1), FeatureDropout(schema, rate=0.2, seed=2)(requests, 0)):
        assert 0.2 < float((other.candidate_NC[:, 0] == scales.candidate_NC[:, 0]).mean()) < 0.8


def test_it_does_not_depend_on_the_other_requests() -> None:
    config = small_config("main_only")
    dropout, requests = FeatureDropout(config.schema, rate=0.3, seed=1), requests_of(config, 20)
    whole = dropout(requests, 3)
    ends = requests.candidates.offsets
    for request in range(20):
        alone = dropout(requests.take(np.array([request])), 3)
        assert np.array_equal(alone.user_RU, whole.user_RU[request : request + 1])
        assert np.array_equal(alone.candidate_NC, whole.candidate_NC[ends[request] : ends[request + 1]])


def left_out(tmp_path: Path, rank: int, world_size: int) -> dict[int, Any]:
    """By request id: what two epochs leave out of the request."""
    dataset = open_dataset(tmp_path)
    reader = RequestReader(
        dataset, batch_size=3, rank=rank, world_size=world_size, shuffle_row_groups=2, spread=True, seed=3
    )
    dropout = FeatureDropout.of(SCHEMA, rate=0.5, seed=3)
    loader = TrainLoader(SCHEMA, reader, None, dropout=dropout)
    found: dict[int, Any] = {}
    for batch, state in loader.batches(loader.start(), steps=2 * reader.steps_per_epoch):
        assert batch.user_scale_RU is not None and batch.candidate_scale_NC is not None
        ends = batch.candidate_offsets_R1.tolist()
        for request, identity in enumerate(batch.keys.request_id_R.tolist()):
            part = batch.candidate_scale_NC[ends[request] : ends[request + 1]]
            found[state.position.epoch, identity] = (batch.user_scale_RU[request].tolist(), part.tolist())
    return found


def test_ranks_and_epochs(tmp_path: Path) -> None:
    """Two ranks leave out what one leaves out; a second epoch leaves out something else."""
    write_dataset(tmp_path, make_rows(np.random.default_rng(0), 24), file_sizes=[12, 12], row_group_sizes=[4])
    one = left_out(tmp_path, 0, 1)
    two = left_out(tmp_path, 0, 2) | left_out(tmp_path, 1, 2)
    assert one == two
    identities = {identity for _, identity in one}
    assert len(one) == 2 * len(identities) == 48
    assert any(one[0, identity] != one[1, identity] for identity in identities)


@pytest.mark.parametrize(("model", "declared_rate"), [(0.5, None), (0.0, 0.5), (0.0, None)])
def test_the_rates_of_a_config_reach_its_training_batches(
    tmp_path: Path, model: float, declared_rate: float | None
) -> None:
    """Whether the model or one feature of the schema sets a rate."""
    write_dataset(tmp_path / "requests", make_rows(np.random.default_rng(0), 24), file_sizes=[24], row_group_sizes=[4])
    config = small_config("main_only")
    candidate = tuple(
        dataclasses.replace(feature, dropout=declared_rate if feature.name == "video_id" else None)
        for feature in SCHEMA.candidate
    )
    config = dataclasses.replace(
        config,
        schema=dataclasses.replace(SCHEMA, candidate=candidate, satisfaction_dim=0),
        model=dataclasses.replace(config.model, feature_dropout=model),
    )
    loader = open_sources(config, tmp_path).loader
    (batch, _), *_ = loader.batches(loader.start(), steps=1)
    if not model and not declared_rate:
        assert batch.user_scale_RU is None and batch.candidate_scale_NC is None
        return
    assert batch.user_scale_RU is not None and batch.candidate_scale_NC is not None
    assert bool((batch.user_scale_RU == 0).any()) == bool(model), "the rate of a feature is its own"
    assert bool((batch.candidate_scale_NC == 0).any())


def batches(config: Config) -> tuple[RequestBatch, RequestBatch]:
    """(with features left out, without) of the same requests and answers."""
    stream, replayed = requests_of(config, 8), requests_of(config, 3, seed=1)
    answers = random_answers(replayed, np.random.default_rng(0)) if config.aligned else None
    scales = FeatureDropout(config.schema, rate=0.4, seed=1)(stream, 0)
    with_it = collate(config.schema, stream, answers, scales=scales)
    return with_it, collate(config.schema, stream, answers)


def test_the_network_reads_the_scaled_embeddings() -> None:
    """The slow reference multiplies feature by feature. Replayed requests and floats keep their values."""
    config = small_config()
    ranker = Ranker(config, torch.device("cpu")).train()
    batch, whole = batches(config)
    found, plain = (ranker.network._whole(*ranker.embeddings(one), one).embedded for one in (batch, whole))
    assert batch.user_scale_RU is not None and batch.candidate_scale_NC is not None
    for scale_NC, features, one_NM, all_NM, kept in (
        (batch.user_scale_RU, config.schema.user_ids, found.user_RM, plain.user_RM, batch.stream.requests),
        (
            batch.candidate_scale_NC,
            config.schema.candidate_ids,
            found.candidate_NF,
            plain.candidate_NF,
            batch.stream.candidates,
        ),
    ):
        expected_NM, place = all_NM.clone(), 0
        for index, feature in enumerate(features):
            dim = config.schema.table(str(feature.table)).dim
            expected_NM[:, place : place + dim] *= scale_NC[:, index, None]
            place += dim
        torch.testing.assert_close(one_NM, expected_NM)
        assert not torch.equal(one_NM[:kept], all_NM[:kept]) and torch.equal(one_NM[kept:], all_NM[kept:])
        assert torch.equal(one_NM[:, place:], all_NM[:, place:])
    assert torch.equal(found.history_HG, plain.history_HG)


def test_nothing_is_left_out_by_default() -> None:
    schema = small_config().schema
    assert FeatureDropout.of(schema, rate=0.0, seed=0) is None
    assert FeatureDropout.of(schema, rate=0.1, seed=0) is not None


def test_a_schema_file_keeps_the_rate() -> None:
    schema = declared(small_config(), video_id=0.25).schema
    assert "dropout = 0.25" in schema_to_toml(schema)
    assert parse_schema(schema_to_toml(schema), "schema.toml") == schema


def test_faults_are_named() -> None:
    config = small_config()
    with pytest.raises(UserError, match=r"feature video_id: dropout=1.0 is not allowed: 0 or more and below 1"):
        declared(config, video_id=1.0)
    with pytest.raises(UserError, match=r"feature duration: dropout=0.1 is not allowed: none for a feature without"):
        Feature(name="duration", kind="float", dropout=0.1)
    history = (dataclasses.replace(config.schema.history[0], dropout=0.1), *config.schema.history[1:])
    with pytest.raises(UserError, match=r"schema.history: dropout=\['video_id'\] is not allowed: none"):
        dataclasses.replace(config.schema, history=history)
    with pytest.raises(UserError, match=r"model.feature_dropout=-0.1 is not allowed: 0 or more and below 1"):
        dataclasses.replace(config.model, feature_dropout=-0.1)
