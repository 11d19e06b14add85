"""Float features are standardised or encoded in pieces, with statistics that are the same on every CPU."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from easq_rec.config.schema import Feature
from easq_rec.model.floats import LIMIT, FloatEncoder
from easq_rec.model.tokens import AGE_BUCKETS, RATIO_BUCKETS, Tokenizer, age_bucket
from tests.builders import small_config

RAW = Feature(name="raw", kind="float", encoding="raw")
STANDARD = Feature(name="standard", kind="float_list", length=2)
PIECES = Feature(name="pieces", kind="float", encoding="quantiles")


def sample(count: int = 1_000) -> np.ndarray:
    rng = np.random.default_rng(0)
    columns = (rng.normal(7, 3, count), rng.normal(-2, 0.1, count), np.full(count, 4.0), rng.exponential(5, count))
    return np.stack(columns, axis=1).astype(np.float32)


def test_standard_numbers_have_mean_zero_and_deviation_one() -> None:
    values = sample()
    encoder = FloatEncoder((RAW, STANDARD), quantiles=4)
    encoder.fit(values[:, :3])
    found = encoder(torch.from_numpy(values[:, :3])).numpy()
    assert np.array_equal(found[:, 0], values[:, 0]), "raw numbers stay as they are"
    assert found[:, 1].mean() == pytest.approx(0, abs=1e-4) and found[:, 1].std() == pytest.approx(1, rel=1e-3)
    assert not found[:, 2].any(), "a constant becomes 0"
    far = encoder(torch.tensor([[1e30, 1e30, -1e30]]))
    assert far.tolist() == [[pytest.approx(1e30), LIMIT, -LIMIT]]


def test_pieces_equal_a_loop_over_edges() -> None:
    values = sample()[:, 3:]
    encoder = FloatEncoder((PIECES,), quantiles=8)
    encoder.fit(values)
    edges = encoder.edges_KE[0].tolist()
    assert edges == sorted(edges) and edges[0] == values.min() and edges[-1] == values.max()
    assert [int((values <= edge).sum()) for edge in edges[1:-1]] == pytest.approx([125 * q for q in range(1, 8)], abs=2)
    x_N1 = torch.tensor([[-1.0], [edges[0]], [edges[3]], [0.7 * edges[4] + 0.3 * edges[5]], [edges[-1]], [1e6]])
    for x, found in zip(x_N1.flatten().tolist(), encoder(x_N1).tolist(), strict=True):
        pairs = itertools.pairwise(edges)
        expected = [min(max((x - low) / (high - low), 0.0), 1.0) for low, high in pairs]
        assert found == pytest.approx(expected, abs=1e-5)


def test_a_frequent_value_makes_a_step() -> None:
    values = np.array([[0.0]] * 90 + [[1.0]] * 10, dtype=np.float32)
    encoder = FloatEncoder((PIECES,), quantiles=4)
    encoder.fit(values)
    below, at, above = encoder(torch.tensor([[-1.0], [0.0], [1.0]])).sum(-1).tolist()
    assert below == at == 0 and above > 0


def test_statistics_do_not_depend_on_the_order_of_the_examples() -> None:
    values = sample()
    encoders = [FloatEncoder((RAW, STANDARD, PIECES), quantiles=5) for _ in range(2)]
    encoders[0].fit(values)
    encoders[1].fit(values[np.random.default_rng(1).permutation(len(values))])
    for name, value in encoders[0].state_dict().items():
        assert torch.equal(value, encoders[1].state_dict()[name]), name


def test_without_examples_nothing_changes() -> None:
    encoder = FloatEncoder((STANDARD,), quantiles=5)
    encoder.fit(np.zeros((0, 2), dtype=np.float32))
    x_NF = torch.randn(3, 2)
    assert torch.equal(encoder(x_NF), x_NF)


def test_age_buckets_are_half_octaves() -> None:
    ages = torch.tensor([-5.0, 0.0, 0.3, 0.42, 1.0, 3.0, 60.0, 86_400.0, 3.2e7, 1e12])
    expected = [min(int(2 * np.log2(1 + max(age, 0))), AGE_BUCKETS - 1) for age in ages.tolist()]
    assert age_bucket(ages).tolist() == expected
    assert len(set(expected)) > 7 and age_bucket(torch.tensor([365 * 86_400.0])) < AGE_BUCKETS - 1


def test_pieces_of_tiny_numbers_rise_from_0_to_1() -> None:
    values = np.linspace(0, 1e-8, 101, dtype=np.float32)[:, None]
    encoder = FloatEncoder((PIECES,), quantiles=4)
    encoder.fit(values)
    assert encoder(torch.tensor([[1e-8]])).tolist() == [[1.0] * 4]
    assert encoder(torch.tensor([[0.5e-8]]))[0, :2].tolist() == [1.0, pytest.approx(1.0, abs=1e-3)]


def test_a_huge_watch_ratio_is_in_the_last_bucket() -> None:
    """Its integer would be negative."""
    config = small_config()
    tokens = Tokenizer(config.schema, config.model, 4)
    ratio_H = torch.tensor([0.0, 0.5, 1e38])
    row_H = tokens.context_rows(torch.arange(3), torch.zeros(3), ratio_H)[:, 2]
    assert (row_H - row_H[0]).tolist() == [0, 4, RATIO_BUCKETS - 1]
