"""Every loss of the config has a term, which the objective computes if the loss is in force."""

from __future__ import annotations

import pkgutil

import pytest

from easq_rec.config import Losses
from easq_rec.config.losses import Loss
from easq_rec.losses.term import AnswerTerm, RequestTerm, terms_of


@pytest.mark.parametrize("name", Losses().terms)
def test_the_config_of_a_loss_names_the_class_of_its_term(name: str) -> None:
    loss: Loss = Losses().terms[name]
    assert issubclass(pkgutil.resolve_name(loss.term), (RequestTerm, AnswerTerm))
    assert loss.label and loss.description.endswith(".") and loss.moves


def test_a_weight_switches_a_term_on_and_off() -> None:
    """Terms are in the order of the config. L_satis stays on at weight 0, so that its parameters have gradients."""
    assert list(terms_of(Losses())) == ["pointwise", "main", "satisfaction", "dense"]
    assert list(terms_of(Losses().without_reference())) == ["pointwise", "main", "satisfaction"]
    every = dict.fromkeys(Losses().terms, 0.5)
    assert list(terms_of(Losses().weighted(**every))) == list(every)


def test_a_loss_in_every_step_is_required() -> None:
    with pytest.raises(ValueError, match="at least one loss that is computed in every step"):
        Losses().weighted(pointwise=0.0, main=0.0)
    assert Losses().weighted(pointwise=0.0, main=0.0, listwise=1.0).main.weight == 0


def test_losses_are_switched_by_their_requirements() -> None:
    losses = Losses().weighted(direct=0.5, listwise=0.2)
    weights = {name: loss.weight for name, loss in losses.aligned_by(dpo=2.0).terms.items() if loss.weight}
    assert weights == {"pointwise": 1.0, "main": 1.0, "dpo": 2.0, "listwise": 0.2}
    weights = {name: loss.weight for name, loss in losses.without_reference().terms.items() if loss.weight}
    assert weights == {"pointwise": 1.0, "main": 1.0, "direct": 0.5, "listwise": 0.2}
    assert losses.aligns_without_reference and not losses.aligned_by().aligns_without_reference
    assert losses.replays_answers and not losses.aligned_by(policy_evidence=1.0).replays_answers
    assert losses.aligned_by(policy_evidence=1.0).aligns_without_reference
    assert losses.aligned_by(evidence=1.0).evidence_scores
    assert not losses.aligned_by(policy_evidence=1.0).evidence_scores
    assert losses.aligned_by(dpo=1.0).slates and not losses.slates
