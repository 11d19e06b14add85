"""The methods that studies compare at an equal price, each a family of points, with the weights of its points.

A family has one of three kinds:

- served: the weight of the satisfaction score in the served score. One training gives all points.
- added: the weight of another score that is added to that of `main_only`.
- trained: a weight in the training loss. Every point is a training.

Families that cost one training have six points, the others four. The weights of served and of added scores were chosen
on worlds that no study uses (seeds 10, 11 and 90), so that a price of 1% lies between points of `easq` and of the added
scores; those in training include the defaults of their variants.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from easq_rec.config import Config
from easq_rec.config.variants import ACTIONS, VARIANTS, with_label_weight
from easq_rec.tools.studies.comparison import added_variant, fused_variant
from easq_rec.tools.studies.grid import BASE, Cell
from easq_rec.tools.studies.partner import (
    ACTION_RANKER,
    ACTION_RANKER_AND_ANSWERS,
    ANSWER_EFFECTS,
    ANSWER_PRIOR,
    ITEM_PRIOR,
    Addition,
)

Role = Literal["ours", "baseline", "control"]
EASQ = "easq"
SATISFACTION_WEIGHTS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Weights of the satisfaction score, both log odds, in the families of kind `served`; 0.2 is the default."""
ADDED_WEIGHTS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.8)
"""Weights of added scores. Both scores are standardised: a weight says how much a standard deviation counts."""
FEW = (1, 2)
"""Positions of the weights that `few` keeps of a family of kind `trained`."""


@dataclass(frozen=True, kw_only=True)
class MethodFamily:
    """A method with the weights of its points."""

    name: str
    role: Role
    kind: Literal["served", "added", "trained"]
    weights: tuple[float, ...]
    """Ascending."""
    change: Callable[[Config, float], Config] | None = None
    """Kind `trained`: the config with a weight."""
    needs_actions: bool = False
    """Whether it needs an outcome of `ACTIONS`."""
    needs_later: bool = False
    """Whether it needs an outcome besides the trigger. Without one, it is `main_only`."""

    def label(self, weight: float, setting: str = "") -> str:
        """Label of a point in a `StudyComparison`.

        Args:
            setting: that of its cell.
        """
        variants = {
            "served": fused_variant(self.name, weight),
            "added": added_variant(BASE, self.name, weight),
            "trained": f"{self.name} {weight:g}",
        }
        return f"{variants[self.kind]} {setting}".strip()

    def labels(self, setting: str = "") -> list[str]:
        """Labels of all points."""
        return [self.label(weight, setting) for weight in self.weights]

    def fits(self, config: Config) -> bool:
        """Whether the data of a config have the outcomes that the method needs."""
        schema = config.schema
        if self.needs_actions and not any(outcome.name in ACTIONS for outcome in schema.outcomes):
            return False
        return not self.needs_later or any(outcome.name != schema.trigger for outcome in schema.outcomes)

    def few(self) -> MethodFamily:
        """The family with fewer points, for the small budget: those at `FEW` if each point is a training, else all."""
        if self.kind != "trained":
            return self
        return dataclasses.replace(self, weights=tuple(self.weights[place] for place in FEW))

    def cells(self, base: Config, setting: str = "") -> list[Cell]:
        """Its trainings besides that of `main_only`.

        Args:
            base: with the default alignment.
            setting: of the cells.
        """
        if self.kind == "added":
            return []
        if self.kind == "served":
            config = base if self.name == EASQ else VARIANTS[self.name](base)
            return [Cell(variant=self.name, setting=setting, config=config, fuse=self.weights)]
        assert self.change is not None, self.name
        return [
            Cell(
                variant=self.label(weight),
                setting=setting,
                series=self.name,
                x=weight,
                config=self.change(base, weight),
            )
            for weight in self.weights
        ]


def base_cell(families: Iterable[MethodFamily], base: Config, setting: str = "") -> Cell:
    """`main_only`, which is also evaluated with the scores of the families of kind `added`."""
    additions = tuple(
        Addition(partner=family.name, weight=weight)
        for family in families
        if family.kind == "added"
        for weight in family.weights
    )
    return Cell(variant=BASE, setting=setting, config=VARIANTS[BASE](base), additions=additions)


def _loss(variant: str, term: str) -> Callable[[Config, float], Config]:
    """A change to the variant with a weight of one of its losses."""

    def change(config: Config, weight: float) -> Config:
        changed = VARIANTS[variant](config)
        return dataclasses.replace(changed, losses=changed.losses.weighted(**{term: weight}))

    return change


def _served(name: str, role: Role, *, needs_actions: bool = False) -> MethodFamily:
    return MethodFamily(name=name, role=role, kind="served", weights=SATISFACTION_WEIGHTS, needs_actions=needs_actions)


def _trained(
    name: str, role: Role, term: str, weights: tuple[float, ...], *, needs_later: bool = False
) -> MethodFamily:
    change = _loss(name, term)
    return MethodFamily(name=name, role=role, kind="trained", weights=weights, change=change, needs_later=needs_later)


FAMILIES: dict[str, MethodFamily] = {
    family.name: family
    for family in (
        _served(EASQ, "ours"),
        _trained("with_dense", "ours", "dense", (0.25, 0.5, 1.0, 2.0)),
        _served("ips_answers", "ours"),
        MethodFamily(
            name="label_weights",
            role="baseline",
            kind="trained",
            # An action weighs 0.5 in engagement, and a view 1.
            weights=(1.5, 3.0, 10.0, 30.0),
            change=with_label_weight,
            needs_actions=True,
        ),
        MethodFamily(name=ITEM_PRIOR, role="baseline", kind="added", weights=ADDED_WEIGHTS, needs_actions=True),
        MethodFamily(name=ANSWER_PRIOR, role="baseline", kind="added", weights=ADDED_WEIGHTS),
        MethodFamily(name=ANSWER_EFFECTS, role="baseline", kind="added", weights=ADDED_WEIGHTS),
        MethodFamily(name=ACTION_RANKER, role="baseline", kind="added", weights=ADDED_WEIGHTS, needs_actions=True),
        MethodFamily(
            name=ACTION_RANKER_AND_ANSWERS, role="baseline", kind="added", weights=ADDED_WEIGHTS, needs_actions=True
        ),
        _trained("evidence_on_policy", "baseline", "policy_evidence", (0.1, 0.3, 1.0, 3.0), needs_later=True),
        _trained("reward_model", "baseline", "reward", (0.3, 1.0, 3.0, 10.0), needs_later=True),
        _trained("direct", "baseline", "direct", (0.03, 0.1, 0.3, 1.0)),
        _served("shared_bottom", "baseline"),
        _served("mmoe", "baseline"),
        _served("ple", "baseline"),
        _served("shared_bottom_evidence", "baseline"),
        _served("mmoe_evidence", "baseline"),
        _served("ple_evidence", "baseline"),
        # lambda 2; 6 is the paper's.
        _trained("paper", "baseline", "dpo", (0.3, 1.0, 3.0, 6.0)),
        _served("without_any_answers", "control", needs_actions=True),
        _served("shuffled_answers", "control"),
        _trained("half_targets", "control", "dense", (0.25, 0.5, 1.0, 2.0)),
    )
}
"""All families by name. Baselines are what a team would try before an isolated pathway; controls show what a part of a
method is good for."""
