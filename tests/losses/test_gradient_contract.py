"""The gradient contract says which loss moves which parameters. Every cell is tested on the training model.

The rows come from the losses (`Loss.moves`), so a new loss is tested without a change of this file.

Each loss is tested separately: the weights of the others are 0, and if all outcomes are equal L_main has no pairs. If a
loss must not move a group, the gradients of the group must be exactly zero or absent. Otherwise every tensor of the
group must have a gradient that is not zero.

The contract is tested by autograd on the plain module, and again under DistributedModelParallel. There the tables have
no gradient. Instead their weights are compared: row-wise Adagrad, which is fused into backward, moves a weight if and
only if its gradient is not zero.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from easq_rec.config import Config, LinearName, LoRA, Losses, TrainerConfig
from easq_rec.config.losses import DPO, Dense, Group, Loss, MainBPR, Pointwise, Reward
from easq_rec.data.batch import RequestBatch
from easq_rec.model.lora import AdaptedLinear
from easq_rec.model.towers import MoETower
from easq_rec.training.optim import Optimizers
from easq_rec.training.process import Runtime, quiet, running
from easq_rec.training.sharding.tables import shard
from easq_rec.training.training_model import TrainingModel
from tests.builders import BACKBONES, excite, random_batch, small_config

GROUPS: tuple[Group, ...] = typing.get_args(Group)
NAMES = tuple(Losses().terms)
FORMS = {
    "pointwise": [Pointwise(), Pointwise(among="triggered", outcomes="weighted")],
    "main": [MainBPR(), MainBPR(among="triggered")],
    "dpo": [DPO(policy="score_difference"), DPO(policy="slate_softmax"), DPO(policy="bernoulli")],
    "dense": [Dense(), Dense(target="half")],
    "reward": [Reward(), Reward(form="regression"), Reward(among="triggered")],
}
"""Losses with several forms. Other losses are tested in their default form."""


def only(name: str, form: Loss | None = None) -> Losses:
    """Losses in which only one has an effect.

    At least one loss must be computed in every step. So `main` keeps its weight if the loss is only computed in aligned
    steps. It has no pairs if all outcomes are equal, as in `batch_of`.
    """
    losses = Losses() if form is None else dataclasses.replace(Losses(), **{name: form})
    weights = dict.fromkeys(NAMES, 0.0) | {name: 1.0}
    return losses.weighted(**(weights if losses.terms[name].every_step else weights | {"main": 1.0}))


def title(name: str, form: Loss | None) -> str:
    """Name of a loss, and of its form if it is not the default."""
    match form:
        case DPO():
            return f"{name} {form.policy}"
        case Dense(target="half"):
            return f"{name} half"
        case Pointwise(among="triggered") | MainBPR(among="triggered"):
            return f"{name} triggered"
        case Reward():
            return f"{name} {form.form} {form.among}"
    return name


ALONE = {title(name, form): only(name, form) for name in NAMES for form in FORMS.get(name, [None])}
ALONE |= {
    f"{name} by user": dataclasses.replace(ALONE[name], groups="user")
    for name in ("main", "listwise", "dense", "evidence", "policy_evidence", "reward bpr all", "dpo slate_softmax")
}
"""Losses in which only one has an effect, given the batch of `batch_of`."""


def row(loss: str) -> Loss:
    """The loss with its row of the contract: the groups that it moves."""
    return ALONE[loss].terms[loss.split()[0]]


both = pytest.mark.parametrize("backbone", BACKBONES)
ADAPTERS = LoRA(rank=3)

Gradients = dict[str, Tensor | None]
Measure = Callable[..., Gradients]


def alone(loss: str, backbone: str = "transformer", *, lora: LoRA | None = ADAPTERS, isolate: bool = True) -> Config:
    """A config in which only one loss is not zero."""
    config = small_config(backbone=backbone)
    model = dataclasses.replace(config.model, isolate_embeddings=isolate, lora=lora)
    return dataclasses.replace(config, losses=ALONE[loss], model=model)


def batch_of(config: Config) -> RequestBatch:
    """A batch whose outcomes are all equal if a loss is tested that is only computed in aligned steps."""
    batch = random_batch(config, requests=8, answered=6)
    if any(loss.weight and not loss.every_step for loss in config.losses.terms.values()):
        return dataclasses.replace(batch, outcome_NO=torch.ones_like(batch.outcome_NO))
    return batch


def group(name: str) -> str:
    """The column of the contract to which a parameter belongs."""
    if name.startswith("ranker.embeddings."):
        return "satisfaction embeddings" if ".satisfaction_" in name else "embeddings"
    if name == "ranker.network.own.weight":
        return "satisfaction embeddings"
    if name.endswith(".lora_a"):
        return "lora A"
    if name.endswith(".lora_b"):
        return "lora B"
    part = name.removeprefix("ranker.network.").split(".")[0]
    return {
        "main": "main tower",
        "wide": "main tower",
        "satisfaction": "satisfaction tower",
        "answer_rates": "satisfaction tower",
        "tokens": "backbone",
        "backbone": "backbone",
    }[part]


def pairwise_blind(name: str, loss: str) -> bool:
    """Whether a parameter is a bias that shifts all scores equally, in a loss of differences of scores."""
    return name.endswith(".head.bias") and loss != "dpo bernoulli"


def plain(
    config: Config, prepare: Callable[[TrainingModel], None] = lambda model: None, *, steered: bool = True
) -> Gradients:
    """Gradients by autograd."""
    model = TrainingModel(config, torch.device("cpu"))
    excite(model)
    prepare(model)
    model(batch_of(config), steered)[0].backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def sharded(
    runtime: Runtime,
    config: Config,
    prepare: Callable[[TrainingModel], None] = lambda model: None,
    *,
    steered: bool = True,
) -> Gradients:
    """Gradients under DistributedModelParallel. For a table: the change of its weights in backward."""
    model = TrainingModel(config, torch.device("meta"))
    excite(model.ranker.network)
    prepare(model)
    wrapped = shard(model, config, runtime)
    optimizers = Optimizers(wrapped, config.optim)
    optimizers.before_step(0, 10)
    tables = set(wrapped.fused_optimizer.params)
    assert {group(name) for name in tables} == {"embeddings", "satisfaction embeddings"}
    before = {name: parameter.detach().clone() for name, parameter in wrapped.named_parameters() if name in tables}
    wrapped(batch_of(config), steered)[0].backward()
    return {
        name: parameter.detach() - before[name] if name in tables else parameter.grad
        for name, parameter in wrapped.named_parameters()
    }


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with running(TrainerConfig(device="cpu", threads=1)) as runtime:
        yield runtime


@pytest.fixture(params=["plain", "sharded"])
def measure(request: pytest.FixtureRequest) -> Measure:
    """A function from a config to gradients, on the plain module and under DistributedModelParallel."""
    if request.param == "plain":
        return plain
    quiet()
    return partial(sharded, request.getfixturevalue("runtime"))


def check(found: Gradients, column: str, moves: bool, loss: str) -> None:
    """Checks one cell: every tensor of the group has a gradient that is not zero, or none has one."""
    names = [name for name in found if group(name) == column]
    assert names
    for name in names:
        gradient = found[name]
        moved = gradient is not None and bool(gradient.any())
        if not moves:
            assert not moved, f"L_{loss} must not move {name}"
        elif not pairwise_blind(name, loss):
            assert moved, f"L_{loss} must move {name}"
            assert gradient is not None and gradient.isfinite().all()


@both
@pytest.mark.parametrize("isolate", [True, False], ids=["isolated", "attached"])
@pytest.mark.parametrize("loss", ALONE)
def test_every_cell_of_the_contract(measure: Measure, loss: str, isolate: bool, backbone: str) -> None:
    """With attached embeddings the satisfaction loss reaches the embeddings as well."""
    found = measure(alone(loss, backbone, isolate=isolate))
    assert {group(name) for name in found} == set(GROUPS)
    moved = row(loss).moves if isolate else row(loss).moves | row(loss).moves_attached
    for column in GROUPS:
        check(found, column, column in moved, loss)


def zero(name: str, model: TrainingModel) -> None:
    """Zeroes one half of every adapter."""
    for module in model.modules():
        if isinstance(module, AdaptedLinear):
            torch.nn.init.zeros_(getattr(module, name))


@both
@pytest.mark.parametrize("half", ["lora_a", "lora_b"])
def test_attached_embeddings_are_reached_only_through_adapters(measure: Measure, half: str, backbone: str) -> None:
    """With A = 0 or B = 0 the satisfaction loss does not reach the embeddings, but moves the satisfaction tower."""
    found = measure(alone("satisfaction", backbone, isolate=False), partial(zero, half))
    check(found, "satisfaction embeddings", True, "satisfaction")
    check(found, "embeddings", False, "satisfaction")
    check(found, "backbone", False, "satisfaction")
    check(found, "main tower", False, "satisfaction")
    check(found, "satisfaction tower", True, "satisfaction")


def open_gates(model: TrainingModel) -> None:
    """Opens every gate of the towers. A tower of two experts may start with both gates closed for all answers."""
    for module in model.modules():
        if isinstance(module, MoETower):
            torch.nn.init.ones_(module.router.bias_K)


@both
def test_without_adapters_the_satisfaction_tower_reads_a_constant(measure: Measure, backbone: str) -> None:
    found = measure(alone("satisfaction", backbone, lora=None, isolate=False), open_gates)
    assert not [name for name in found if "lora" in name]
    for column in ("embeddings", "backbone", "main tower"):
        check(found, column, False, "satisfaction")
    check(found, "satisfaction tower", True, "satisfaction")


@pytest.mark.parametrize(
    ("backbone", "targets", "learning"),
    [
        ("transformer", ("attention_out",), ("attention_out",)),
        ("transformer", ("ffn_out",), ("ffn_out",)),
        ("transformer", ("query", "attention_out"), ("query", "attention_out")),
        ("transformer", ("key_value", "attention_out"), ("key_value", "attention_out")),
        ("transformer", ("ffn_in", "ffn_out"), ("ffn_in", "ffn_out")),
        ("hstu", ("attention_out",), ("attention_out",)),
        ("hstu", ("gate", "attention_out"), ("gate", "attention_out")),
        ("hstu", ("query", "key_value", "attention_out"), ("query", "key_value", "attention_out")),
        # A linear without adapter is a constant of the satisfaction stream. So an adapter below it learns nothing,
        # unless the residual stream bypasses the linear, as it does for candidate tokens.
        ("transformer", ("query", "key_value"), ()),
        ("transformer", ("ffn_in",), ()),
        ("transformer", ("input",), ("tokens.candidate",)),
        ("hstu", ("query", "key_value", "gate"), ()),
        ("hstu", ("input",), ("tokens.candidate",)),
    ],
)
def test_linears_without_adapter_are_constants(
    backbone: str, targets: tuple[LinearName, ...], learning: tuple[str, ...]
) -> None:
    """With adapters on some linears only, the contract still holds, and the adapters that the loss reaches learn."""
    found = plain(alone("satisfaction", backbone, lora=LoRA(rank=3, targets=targets), isolate=False), open_gates)
    for column in ("backbone", "main tower"):
        check(found, column, False, "satisfaction")
    check(found, "satisfaction tower", True, "satisfaction")
    if "input" not in targets:
        check(found, "embeddings", False, "satisfaction")
    for name, gradient in found.items():
        if group(name) in ("lora A", "lora B"):
            moved = gradient is not None and bool(gradient.any())
            assert moved == any(f"{part}.lora" in name for part in learning), name


@pytest.mark.parametrize("loss", [loss for loss in ALONE if row(loss).steers])
def test_steering_losses_move_nothing_during_the_warm_up(measure: Measure, loss: str) -> None:
    """L_DPO and L_dense move nothing until the reference has learnt from its first answers."""
    found = measure(alone(loss), steered=False)
    for column in GROUPS:
        check(found, column, False, loss)


@both
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("recipe", ["everything", "paper"])
def test_streams_have_equal_values(recipe: str, seed: int, backbone: str) -> None:
    """The two streams give the same reference score to the answered candidates."""
    config = small_config(recipe, backbone=backbone)
    config = dataclasses.replace(config, losses=dataclasses.replace(config.losses, dpo=DPO(weight=1.0), align_every=1))
    config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, seed=seed))
    model = TrainingModel(config, torch.device("cpu"))
    excite(model, seed=seed)
    open_gates(model)
    batch: RequestBatch = random_batch(config, seed)
    output = model.ranker(batch)
    assert output.reference is not None and output.answered is not None
    assert output.answered.score_N.std() > 0.003
    torch.testing.assert_close(
        output.answered.score_N.detach(), output.reference.score_N[batch.answered_A], rtol=1e-5, atol=1e-5
    )
