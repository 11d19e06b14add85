"""The served program scores raw columns as the trained ranker scores encoded batches."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from easq_rec.config import Config
from easq_rec.config.variants import VARIANTS
from easq_rec.data.batch import collate
from easq_rec.data.columns import RequestColumns
from easq_rec.data.encode import encode
from easq_rec.data.layout import Layout
from easq_rec.data.row_assignment import RowAssigner
from easq_rec.errors import UserError
from easq_rec.evaluation.predict import served
from easq_rec.export.inputs import example_of, tensors_of
from easq_rec.export.program import ServedProgram
from easq_rec.export.trace import trace
from easq_rec.model.ranker import Ranker
from tests.builders import BACKBONES, EVERYTHING, HISTORY, ragged_requests, random_requests, small_config
from tests.builders import with_every_kind as every_kind
from tests.export.rankers import ranker_of

WITHIN = 2e-5
"""Of scores whose absolute values are a few units, in fp32."""


def of_the_trainer(ranker: Ranker, config: Config, requests: RequestColumns, fuse: float | None = None) -> Tensor:
    """Scores of the path that evaluates a run."""
    encoded = encode(Layout.of(config.schema), requests)
    return served(ranker.score(collate(config.schema, encoded)), fuse)


def of_the_program(program: ServedProgram, requests: RequestColumns) -> Tensor:
    return program(*tensors_of(program.inputs, requests, max_history=HISTORY))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("variant", [EVERYTHING, *VARIANTS])
def test_every_variant_is_served_as_it_is_evaluated(variant: str, backbone: str) -> None:
    config = small_config(variant, backbone=backbone)
    ranker = ranker_of(config)
    requests = ragged_requests(config.schema, np.random.default_rng(1), 12)
    found = of_the_program(ServedProgram(ranker, config), requests)
    expected = of_the_trainer(ranker, config, requests)
    assert found.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=WITHIN)


@pytest.mark.parametrize("user_tokens", ["one", "each"])
@pytest.mark.parametrize("id_space", ["hashed", "admitted"])
def test_features_of_every_kind(user_tokens: str, id_space: Literal["hashed", "admitted"]) -> None:
    config = small_config(EVERYTHING)
    schema = every_kind(config.schema)
    tables = tuple(
        dataclasses.replace(table, rows=33, id_space=id_space) if table.id_space == "hashed" else table
        for table in schema.tables
    )
    config = dataclasses.replace(
        config,
        schema=dataclasses.replace(schema, tables=tables),
        model=dataclasses.replace(config.model, user_tokens=user_tokens),
    )
    ranker = ranker_of(config)
    requests = ragged_requests(config.schema, np.random.default_rng(2), 12)
    assign = RowAssigner(config.schema, ranker.ids.states)
    assign.restart()
    _, _, changes = assign(encode(Layout.of(config.schema), requests.slice(0, 6)), None)
    ranker.ids.apply_changes(changes)
    found = of_the_program(ServedProgram(ranker, config), requests)
    torch.testing.assert_close(found, of_the_trainer(ranker, config, requests), rtol=0, atol=WITHIN)


@pytest.mark.parametrize(("histories", "candidates"), [([0], [1]), ([HISTORY], [1]), ([0, 0], [3, 1]), ([1], [9])])
def test_the_smallest_requests(histories: list[int], candidates: list[int]) -> None:
    config = small_config(EVERYTHING)
    ranker = ranker_of(config)
    requests = random_requests(config.schema, np.random.default_rng(3), histories, candidates)
    found = of_the_program(ServedProgram(ranker, config), requests)
    torch.testing.assert_close(found, of_the_trainer(ranker, config, requests), rtol=0, atol=WITHIN)


def test_a_longer_history_counts_with_its_last_entries() -> None:
    """As the reader cuts it."""
    config = small_config(EVERYTHING)
    ranker = ranker_of(config)
    requests = random_requests(config.schema, np.random.default_rng(4), [HISTORY + 5, 2], [3, 4])
    cut = dataclasses.replace(requests, history=requests.history.last(HISTORY))
    found = of_the_program(ServedProgram(ranker, config), requests)
    torch.testing.assert_close(found, of_the_trainer(ranker, config, cut), rtol=0, atol=WITHIN)


def test_requests_alone_score_as_together() -> None:
    config = small_config(EVERYTHING)
    program = ServedProgram(ranker_of(config), config)
    requests = ragged_requests(config.schema, np.random.default_rng(5), 9)
    alone = [of_the_program(program, requests.slice(at, at + 1)) for at in range(len(requests))]
    torch.testing.assert_close(torch.cat(alone), of_the_program(program, requests), rtol=0, atol=WITHIN)


@pytest.mark.parametrize("fuse", [None, 0.0, 0.7])
def test_the_weight_of_the_satisfaction_score(fuse: float | None) -> None:
    config = small_config("with_dense")
    ranker = ranker_of(config)
    requests = ragged_requests(config.schema, np.random.default_rng(6), 8)
    found = of_the_program(ServedProgram(ranker, config, fuse), requests)
    torch.testing.assert_close(found, of_the_trainer(ranker, config, requests, fuse), rtol=0, atol=WITHIN)


def test_before_the_warm_up_ends_satisfaction_does_not_count() -> None:
    config = small_config(EVERYTHING)
    ranker = ranker_of(config)
    ranker.network.steering.zero_()  # type: ignore[union-attr]
    requests = ragged_requests(config.schema, np.random.default_rng(7), 8)
    scores = ranker.score(collate(config.schema, encode(Layout.of(config.schema), requests)))
    found = of_the_program(ServedProgram(ranker, config), requests)
    torch.testing.assert_close(found, scores.main_N, rtol=0, atol=WITHIN)


def test_edges_of_times_and_numbers() -> None:
    """Entries from the future and from years ago, bounds of age buckets, and numbers of any size."""
    config = small_config(EVERYTHING)
    ranker = ranker_of(config)
    requests = random_requests(config.schema, np.random.default_rng(8), [HISTORY, HISTORY], [4, 4])
    now = np.repeat(requests.timestamp_ms, HISTORY)
    ages = np.array([0, -5_000, 1_000, 2**20 * 1_000, 2**20 * 1_000 - 1, 400 * 86_400_000, 2**40, *range(7)])
    history = {**requests.history.children, "timestamp_ms": now - ages}
    history["watch_ratio"] = np.array([0, 0.125, 0.1249, 1, 2, 1e38, 50, *range(7)], np.float32)
    candidates = dict(requests.candidates.children)
    for feature in config.schema.candidate:
        if feature.kind == "float":
            candidates[feature.column] = np.array([0, -1, 1e-38, 1e38, 1, 2, 3e4, 0.5], np.float32)
        if feature.kind == "id" and config.schema.table(str(feature.table)).id_space == "hashed":
            candidates[feature.column] = np.array([0, -1, 2**63 - 1, -(2**63), 2**31, 63, 64, -64])
    requests = dataclasses.replace(
        requests,
        history=dataclasses.replace(requests.history, children=history),
        candidates=dataclasses.replace(requests.candidates, children=candidates),
    )
    found = of_the_program(ServedProgram(ranker, config), requests)
    assert found.isfinite().all()
    torch.testing.assert_close(found, of_the_trainer(ranker, config, requests), rtol=0, atol=WITHIN)


TRACED = [*((EVERYTHING, backbone) for backbone in BACKBONES), ("ple_evidence", "transformer")]


@pytest.mark.parametrize(("variant", "backbone"), TRACED)
def test_one_graph_serves_every_size(variant: str, backbone: str) -> None:
    config = small_config(variant, backbone=backbone)
    config = dataclasses.replace(config, schema=every_kind(config.schema))
    program = ServedProgram(ranker_of(config), config)
    exported = trace(program, example_of(program.inputs))
    # So that C++ needs no library but libtorch.
    operators = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert not {name for name in operators if not name.startswith(("aten.", "<built-in function "))}
    graph = exported.module()
    rng = np.random.default_rng(9)
    sizes = [([0], [1]), ([HISTORY], [1]), ([0, 0], [3, 1]), ([1, 2, 3], [9, 1, 2]), ([HISTORY] * 9, [12] * 9)]
    for histories, candidates in sizes:
        requests = random_requests(config.schema, rng, histories, candidates)
        columns = tensors_of(program.inputs, requests, max_history=HISTORY)
        torch.testing.assert_close(graph(*columns), program(*columns), rtol=0, atol=WITHIN)


def test_requests_without_candidates_are_refused() -> None:
    config = small_config()
    program = ServedProgram(ranker_of(config), config)
    requests = random_requests(config.schema, np.random.default_rng(0), [2], [0])
    with pytest.raises(UserError, match="have no candidates: send at least one"):
        tensors_of(program.inputs, requests, max_history=HISTORY)
