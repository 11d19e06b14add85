"""The policy score is the main tower's score plus the weighted satisfaction score, once the warm-up is over."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from easq_rec.errors import UserError
from easq_rec.evaluation.predict import served
from easq_rec.model.ranker import Ranker
from tests.builders import excite, random_batch, small_config

WEIGHT = 0.7


def ranker(weight: float = WEIGHT) -> Ranker:
    config = small_config()
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, satisfaction_weight=weight))
    made = Ranker(config, torch.device("cpu")).eval()
    excite(made)
    return made


def test_satisfaction_counts_from_the_end_of_the_warm_up_on() -> None:
    made, batch = ranker(), random_batch(small_config(), requests=6, answered=0)
    before = made.score(batch)
    assert before.satisfaction_N is not None and before.satisfaction_N.std() > 0.01
    assert torch.equal(before.served_N, before.main_N)
    made.network.steer()
    after = made.score(batch)
    torch.testing.assert_close(after.served_N, after.main_N + WEIGHT * after.satisfaction_N)
    assert torch.equal(after.main_N, before.main_N)


def test_the_end_of_the_warm_up_is_part_of_the_checkpoint() -> None:
    one, other = ranker(), ranker()
    one.network.steer()
    other.load_state_dict(one.state_dict())
    batch = random_batch(small_config(), requests=6, answered=0)
    assert torch.equal(other.score(batch).served_N, one.score(batch).served_N)
    assert not torch.equal(one.score(batch).served_N, one.score(batch).main_N)


def test_a_weight_of_0_serves_the_main_tower_and_has_no_state() -> None:
    made, batch = ranker(0.0), random_batch(small_config(), requests=6, answered=0)
    made.network.steer()
    assert torch.equal(made.score(batch).served_N, made.score(batch).main_N)
    assert not any("steering" in name for name in made.state_dict())


def test_another_weight_replaces_that_of_the_config() -> None:
    made, batch = ranker(), random_batch(small_config(), requests=6, answered=0)
    scores = made.score(batch)
    assert scores.satisfaction_N is not None
    torch.testing.assert_close(served(scores, 2.0), scores.main_N + 2.0 * scores.satisfaction_N)
    assert torch.equal(served(scores, 0.0), scores.main_N) and torch.equal(served(scores, None), scores.served_N)


def test_the_sum_is_the_best_policy_near_that_of_the_main_tower() -> None:
    """It maximises the mean satisfaction score less 1 / weight times the divergence from the main tower's policy."""
    generator = torch.Generator().manual_seed(0)
    main_C, satisfaction_C = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    made = ranker()
    made.network.steer()

    def value(score_C: torch.Tensor) -> float:
        log_C, log_main_C = score_C.log_softmax(0), main_C.log_softmax(0)
        divergence = (log_C.exp() * (log_C - log_main_C)).sum()
        return float((log_C.exp() * satisfaction_C).sum() - divergence / WEIGHT)

    best_C = made.network.policy_score(main_C, satisfaction_C)
    for _ in range(50):
        moved_C = best_C + 0.1 * torch.randn(5, generator=generator, dtype=torch.float64)
        assert value(moved_C) < value(best_C)
    assert value(main_C) < value(best_C)


@pytest.mark.parametrize(("weight", "message"), [(float("nan"), "a finite number"), (float("inf"), "a finite number")])
def test_impossible_weights_are_refused(weight: float, message: str) -> None:
    with pytest.raises(UserError, match=f"model.satisfaction_weight.*{message}"):
        dataclasses.replace(small_config().model, satisfaction_weight=weight)


def test_a_weight_without_a_satisfaction_tower_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.satisfaction_weight.*0 without a satisfaction tower"):
        dataclasses.replace(small_config("main_only").model, satisfaction_weight=0.2)
