"""Counts of answers reach the satisfaction tower in all places where it scores, and never the main tower."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from easq_rec.config import Config
from easq_rec.config.counts import without_answer_counts
from easq_rec.config.schema import Feature
from easq_rec.data.batch import RequestBatch
from easq_rec.model.answer_rates import AnswerRates
from easq_rec.training.training_model import TrainingModel
from tests.builders import excite, random_batch, small_config

FEATURES = (Feature(name="a", kind="count"), Feature(name="b", kind="count"))


def config_with(*, counts: bool = True, dim: int | None = None) -> Config:
    config = small_config()
    schema = config.schema if counts else without_answer_counts(config.schema)
    dim = schema.satisfaction_dim if dim is None else dim
    return dataclasses.replace(config, schema=dataclasses.replace(schema, satisfaction_dim=dim))


def model_of(config: Config) -> TrainingModel:
    made = TrainingModel(config, torch.device("cpu"))
    excite(made)
    return made


def outputs(model: TrainingModel, batch: RequestBatch) -> dict[str, Tensor]:
    found = model.ranker(batch)
    assert found.reference is not None and found.answered is not None and found.evidence is not None
    return {
        "main": found.main.score_N,
        "reference": found.reference.score_N,
        "answered": found.answered.score_N,
        "evidence": found.evidence.score_N,
    }


def test_the_score_is_that_of_naive_bayes() -> None:
    """Each weight starts at 1 / C. The number of answers, the second number of a count, is not read."""
    rates = AnswerRates(FEATURES)
    with torch.no_grad():
        rates.weight_C.fill_(rates.laws()["weight_C"].value)  # type: ignore[attr-defined]
    value_NF = torch.randn(7, 6)
    expected_N = ((value_NF[:, 0] - value_NF[:, 2]) + (value_NF[:, 3] - value_NF[:, 5])) / 2
    torch.testing.assert_close(rates(value_NF), expected_N)


@pytest.mark.parametrize("dim", [0, 8], ids=["counts only", "with embeddings"])
def test_without_answers_the_score_starts_as_that_of_the_tower(dim: int) -> None:
    """A film without answers has the overall rate. All other initial weights are those of a model without counts."""
    one = TrainingModel(config_with(dim=dim), torch.device("cpu"))
    other = TrainingModel(config_with(dim=dim, counts=False), torch.device("cpu"))
    added = {name for name in one.state_dict() if name not in other.state_dict()}
    assert added == {"ranker.network.answer_rates.weight_C"}
    batch = random_batch(config_with(dim=dim))
    number_NF = batch.satisfaction_NF.clone()
    number_NF[:, 0::3] = number_NF[:, 2::3]
    unanswered = outputs(one, dataclasses.replace(batch, satisfaction_NF=number_NF))
    without = outputs(other, random_batch(config_with(dim=dim, counts=False)))
    for name, score_N in without.items():
        assert torch.equal(unanswered[name], score_N), name


@pytest.mark.parametrize("dim", [0, 8], ids=["counts only", "with embeddings"])
def test_only_the_satisfaction_tower_reads_the_numbers(dim: int) -> None:
    config = config_with(dim=dim)
    model, batch = model_of(config), random_batch(config)
    # The rates rise, and the overall rates stay.
    higher_NF = batch.satisfaction_NF + torch.tensor([1.0, 0.0, 0.0]).repeat(len(config.schema.satisfaction))
    changed = dataclasses.replace(batch, satisfaction_NF=higher_NF)
    before, after = outputs(model, batch), outputs(model, changed)
    assert torch.equal(before["main"], after["main"])
    for name in ("reference", "answered", "evidence"):
        assert len(before[name]) and bool((before[name] != after[name]).all()), name
    ranker = model.ranker.eval()
    one, other = ranker.score(batch), ranker.score(changed)
    assert torch.equal(one.main_N, other.main_N)
    assert one.satisfaction_N is not None and other.satisfaction_N is not None
    assert bool((one.satisfaction_N != other.satisfaction_N).all())


def test_a_candidate_reads_its_own_numbers() -> None:
    """In every place, the numbers of one candidate change the score of this candidate only."""
    config = config_with()
    model, batch = model_of(config), random_batch(config)
    before = outputs(model, batch)
    answered, evidence = batch.answered_A.tolist(), batch.evidence_candidate_E.tolist()
    for place in (answered[1], evidence[1]):
        numbers_NF = batch.satisfaction_NF.clone()
        numbers_NF[place, 0] += 1.0
        after = outputs(model, dataclasses.replace(batch, satisfaction_NF=numbers_NF))
        for name, rows in (
            ("reference", range(len(before["reference"]))),
            ("answered", answered),
            ("evidence", evidence),
        ):
            changed = (before[name] != after[name]).nonzero().flatten().tolist()
            assert changed == [index for index, row in enumerate(rows) if row == place], name


def test_without_a_satisfaction_tower_nothing_is_built() -> None:
    config = dataclasses.replace(small_config("main_only"), schema=small_config().schema)
    assert not any("answer_rates" in name for name, _ in TrainingModel(config, torch.device("cpu")).named_parameters())


def test_in_steps_that_do_not_align_the_numbers_have_no_gradient() -> None:
    config = config_with()
    model, batch = model_of(config), random_batch(config, aligned=False)
    model(batch, True)[0].backward()
    rates = model.ranker.network.answer_rates
    assert rates is not None and rates.weight_C.grad is None
    assert any(parameter is rates.weight_C for parameter in model.ranker.network.pathway())
