"""Where the network's backward pass ends and the tables' begins."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from easq_rec.training.boundary import Boundary
from easq_rec.training.training_model import TrainingModel
from tests.builders import excite, random_batch, small_config


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("variant", ["easq", "with_dpo", "direct", "paper", "shared_bottom", "ple", "main_only"])
def test_the_gradients_of_the_network_are_complete(variant: str, aligned: bool) -> None:
    """All of them, when the first gradient comes to the tables; they are sent to the other ranks then."""
    config = small_config(variant)
    model = TrainingModel(config, torch.device("cpu"))
    excite(model)
    network = model.ranker.network
    found: list[dict[str, Tensor]] = []
    passed: list[Tensor] = []

    def arrive() -> None:
        assert not passed
        found.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})

    def pass_on(gradient: Tensor) -> Tensor:
        passed.append(gradient)
        return 2 * gradient

    network.watch = Boundary(arrive, pass_on).watch
    answered = {} if aligned else {"answered": 0}
    for step in (1, 2):
        model.zero_grad()
        model(random_batch(config, aligned=aligned, **answered))[0].backward()
        assert len(found) == step
        assert {name for name, p in network.named_parameters() if p.grad is not None} == set(found[-1]) != set()
        for name, gradient in found[-1].items():
            torch.testing.assert_close(gradient, network.get_parameter(name).grad, rtol=0, atol=0, msg=name)
        passed.clear()


def test_the_tables_are_given_what_is_passed_on() -> None:
    config = small_config("main_only")
    gradients = []
    for factor in (1.0, 3.0):
        model = TrainingModel(config, torch.device("cpu"))
        excite(model)
        model.ranker.network.watch = Boundary(lambda: None, lambda gradient, factor=factor: factor * gradient).watch
        model(random_batch(config))[0].backward()
        gradients.append([p.grad for p in model.ranker.embeddings.parameters()])
    for one, three in zip(*gradients, strict=True):
        torch.testing.assert_close(3 * one, three)
    assert any(bool(one.any()) for one in gradients[0])
