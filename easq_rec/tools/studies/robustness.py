"""Study `robustness`: what does alignment lose if answers or likes are bad, and which guard limits it?

Every setting spoils one thing in World 2: users who answer at random or the opposite, answers of one class only, five
passes over the same answers, or bought likes. Worlds of a seed that differ only in answers have the same requests, so
`main_only` and the methods that read no answers are trained once for all of them.

A guard is a part of `easq` that limits a loss: the warm-up that waits for both classes, and what the schema expects of
likes and follows. Settings that a guard should help in are also run with the guard switched off; in addition, without
evidence, and with a tighter bound on the replays of an answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from easq_rec.config import Config
from easq_rec.config.recipes import with_world
from easq_rec.config.variants import without_evidence
from easq_rec.evaluation.mean_interval import Estimate, t_interval
from easq_rec.tools.studies.base import Budget
from easq_rec.tools.studies.comparison import METRICS, StudyComparison
from easq_rec.tools.studies.families import EASQ, FAMILIES, SATISFACTION_WEIGHTS, MethodFamily, base_cell
from easq_rec.tools.studies.grid import BASE, Cell, seeded
from easq_rec.tools.studies.partner import ITEM_PRIOR
from easq_rec.tools.studies.price import POINTS, Priced
from easq_rec.tools.studies.robustness_view import (
    LEGEND,
    PRICE,
    UNKNOWN,
    MethodResult,
    robustness_figure,
    robustness_table,
)
from easq_rec.tools.studies.study import Findings, Study
from easq_rec.tools.studies.verdict import Check, Verdict

Value = TypeVar("Value")
HONEST = "honest"
LONGER = f"longer {BASE}"
"""`main_only` with as many epochs as the setting: the base of the setting that trains longer."""
EPOCHS = 5
REPLAYS = 3
"""Bound on the replays of an answer: about as many as two epochs, the default, replay each."""
LOWEST_ENGAGEMENT = -2.0
"""Change of engagement, in percent, that the claim allows."""


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A change of `easq` that switches a guard off, or another one on."""

    name: str
    effect: str
    """What it changes, for notes."""
    change: Callable[[Config], Config]

    @property
    def method(self) -> str:
        """Name of the changed `easq`."""
        return f"{EASQ}, {self.name}"


def nothing_expected(config: Config) -> Config:
    """The weights of evidence of all outcomes are estimated from answers alone."""
    outcomes = tuple(dataclasses.replace(one, expected_evidence=None) for one in config.schema.outcomes)
    return dataclasses.replace(config, schema=dataclasses.replace(config.schema, outcomes=outcomes))


def _without_warmup(config: Config) -> Config:
    return dataclasses.replace(config, losses=dataclasses.replace(config.losses, warmup_per_class=0))


def _few_replays(config: Config) -> Config:
    return dataclasses.replace(config, replay=dataclasses.replace(config.replay, max_replays=REPLAYS))


NO_EVIDENCE = Guard(name="without evidence", effect="L_evidence is off", change=without_evidence)
NOTHING_EXPECTED = Guard(
    name="nothing expected",
    effect="the weights of evidence of likes and follows are estimated from answers alone",
    change=nothing_expected,
)
NO_WARMUP = Guard(
    name="without warm-up", effect="the satisfaction score counts before both classes came", change=_without_warmup
)
FEW_REPLAYS = Guard(
    name=f"at most {REPLAYS} replays", effect="an answer is replayed a bounded number of times", change=_few_replays
)
EVIDENCE_GUARDS = (NO_EVIDENCE, NOTHING_EXPECTED)

ANSWERED = (EASQ, "reward_model", "shared_bottom")
"""Families that learn from answers. No setting makes the will to answer depend on satisfaction, so `ips_answers`, which
corrects for that, is not among them."""
UNANSWERED = ("label_weights", ITEM_PRIOR, "action_ranker")
"""Families that read no answers."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A setting of the study: one thing that is bad."""

    name: str
    world: Mapping[str, Any] = field(default_factory=dict)
    """Options of the world that differ from the honest one."""
    epochs: int | None = None
    """None: as the recipe."""
    families: tuple[str, ...] = ANSWERED
    guards: tuple[Guard, ...] = ()
    own_base: bool = False
    """Whether it has a `main_only` of its own. False: its requests are those of the honest setting."""
    one_class: bool = False
    """The warm-up never ends: whatever its weight, the satisfaction score does not count in what is served."""

    @property
    def base(self) -> str:
        """Variant with which the methods of the setting are compared."""
        return LONGER if self.epochs is not None else BASE

    def config(self, config: Config) -> Config:
        """The config in this setting."""
        world = dataclasses.replace(config.world, questionnaire_seed=0, **self.world)
        trainer = config.trainer
        if self.epochs is not None:
            steps = trainer.max_steps
            # A number of steps that does not come from epochs is multiplied.
            steps = steps if steps is None else steps * self.epochs
            trainer = dataclasses.replace(trainer, epochs=self.epochs, max_steps=steps)
        return dataclasses.replace(config, world=world, trainer=trainer)

    def labels(self, family: MethodFamily) -> list[str]:
        """Labels of the points of a family."""
        if self.one_class and family.kind == "served" and family.name != NO_WARMUP.method:
            return [f"{family.name} {self.name}"]
        return family.labels(self.name)


SETTINGS = (
    Condition(name=HONEST, families=(*ANSWERED, *UNANSWERED), guards=EVIDENCE_GUARDS, own_base=True),
    Condition(name="10% random", world={"careless_users": 0.1}, guards=EVIDENCE_GUARDS),
    Condition(name="30% random", world={"careless_users": 0.3}, guards=EVIDENCE_GUARDS),
    Condition(name="10% inverted", world={"careless_users": 0.1, "careless": "inverted"}, guards=EVIDENCE_GUARDS),
    Condition(name="30% inverted", world={"careless_users": 0.3, "careless": "inverted"}, guards=EVIDENCE_GUARDS),
    Condition(name="one class", world={"satisfied_misreport": 1.0}, guards=(NO_WARMUP,), one_class=True),
    Condition(
        name=f"{EPOCHS} epochs",
        epochs=EPOCHS,
        families=(EASQ, "shared_bottom"),
        guards=(FEW_REPLAYS,),
        own_base=True,
    ),
    Condition(
        name="1% bought",
        world={"bought_videos": 0.01},
        families=(*ANSWERED, *UNANSWERED),
        guards=EVIDENCE_GUARDS,
        own_base=True,
    ),
)
SMALL_SETTINGS = (HONEST, "30% inverted", "one class", f"{EPOCHS} epochs", "1% bought")
SMALL_FAMILIES = (EASQ, ITEM_PRIOR)
"""Families at the small budget."""


def settings(budget: Budget) -> list[Condition]:
    """The settings of a budget, the honest one first."""
    if budget != "small":
        return list(SETTINGS)
    return [
        dataclasses.replace(
            one,
            families=tuple(name for name in one.families if name in SMALL_FAMILIES),
            guards=one.guards[:1] if one.name != HONEST else (),
        )
        for one in SETTINGS
        if one.name in SMALL_SETTINGS
    ]


def families(setting: Condition, budget: Budget) -> list[MethodFamily]:
    """The families of a setting, then `easq` with each of its guards changed."""
    changed = [
        MethodFamily(name=guard.method, role="ours", kind="served", weights=SATISFACTION_WEIGHTS)
        for guard in setting.guards
    ]
    chosen = [*(FAMILIES[name] for name in setting.families), *changed]
    # The study compares a family between settings, and two trained points show how it changes.
    return [family.few() for family in chosen]


def _cells(base: Config, seeds: Sequence[int], budget: Budget) -> list[Cell]:
    base = with_world(base, 2)
    return [
        cell
        for seed in seeds
        for setting in settings(budget)
        for cell in _of_setting(setting, seeded(setting.config(base), seed), budget)
    ]


def _of_setting(setting: Condition, there: Config, budget: Budget) -> list[Cell]:
    cells, changes = [], {guard.method: guard.change for guard in setting.guards}
    chosen = families(setting, budget)
    if setting.own_base:
        cells.append(dataclasses.replace(base_cell(chosen, there, setting.name), variant=setting.base))
    for family in chosen:
        if family.name in changes:
            config = changes[family.name](there)
            made = [Cell(variant=family.name, setting=setting.name, config=config, fuse=family.weights)]
        else:
            made = family.cells(there, setting.name)
        if setting.labels(family) != family.labels(setting.name):
            made = [dataclasses.replace(cell, fuse=()) for cell in made]
        cells += made
    return cells


@dataclass(frozen=True, kw_only=True)
class MethodChanges:
    """A method in a setting, by block: the worlds of a seed differ between settings."""

    priced: Priced
    satisfaction: Mapping[str, float]
    """Change at the default weight, in percent."""
    engagement: Mapping[str, float]

    @classmethod
    def of(cls, found: StudyComparison, setting: Condition, family: MethodFamily) -> MethodChanges:
        """What the cells of a family measured."""
        label, base = f"{family.name} {setting.name}", setting.base
        priced = Priced.of(found, setting.labels(family), base=base)
        changes = {
            name: _by_block(found.change_by_pair(label, METRICS[name], base)) for name in ("satisfaction", "engagement")
        }
        return cls(priced=Priced(by_world=_by_block(priced.by_world)), **changes)


def _by_block(by_pair: Mapping[str, Value]) -> dict[str, Value]:
    """Values by the block of a pairing key, which is its first part: `world 3` of `world 3 DIGEST`."""
    return {pair.rpartition(" ")[0]: value for pair, value in by_pair.items()}


def measure(found: StudyComparison, budget: Budget) -> dict[tuple[str, str], MethodChanges]:
    """What was measured, by names of setting and method."""
    return {
        (setting.name, family.name): MethodChanges.of(found, setting, family)
        for setting in settings(budget)
        for family in families(setting, budget)
    }


def results_of(measured: Mapping[tuple[str, str], MethodChanges], budget: Budget) -> list[MethodResult]:
    """The methods of each setting that were measured."""
    found = []
    for setting in settings(budget):
        guards = {guard.method for guard in setting.guards}
        for family in families(setting, budget):
            one = measured[setting.name, family.name]
            if not one.priced.by_world:
                continue
            honest, easq = measured.get((HONEST, family.name)), measured[setting.name, EASQ]
            compared = honest is not None and setting.name != HONEST
            found.append(
                MethodResult(
                    setting=setting.name,
                    method=family.name,
                    role="guard" if family.name in guards else "ours" if family.name == EASQ else "baseline",
                    satisfaction=t_interval(one.satisfaction.values()),
                    engagement=t_interval(one.engagement.values()),
                    gain=one.priced.gain(PRICE),
                    lost=honest.priced.lead(one.priced, PRICE) if honest and compared else UNKNOWN,
                    easq_less_it=UNKNOWN if family.name == EASQ else easq.priced.lead(one.priced, PRICE),
                )
            )
    return found


def _conclude(found: StudyComparison, budget: Budget) -> Findings:
    measured = measure(found, budget)
    results = results_of(measured, budget)
    return Findings(
        verdict=Verdict(
            claim="In every setting easq at its default weight has a higher satisfaction NDCG@5 than main_only (+0%), "
            "or the same as main_only with answers of one class, and an engagement NDCG@5 above "
            f"{LOWEST_ENGAGEMENT:g}%",
            checks=[check for setting in settings(budget) for check in _checks(setting, measured[setting.name, EASQ])],
            budget=budget,
        ),
        notes=[
            *(_guard_note(setting, guard, measured) for setting in settings(budget) for guard in setting.guards),
            *_longer_notes(found, budget),
            "Methods that read no answers are the same in all settings that change only answers.",
            LEGEND,
        ],
        plots={"robustness.png": robustness_figure(results)},
        tables=[robustness_table(results)],
        extra={"robustness": [one.values() for one in results]},
    )


def _checks(setting: Condition, easq: MethodChanges) -> list[Check]:
    base = "main_only of as many epochs" if setting.epochs is not None else BASE
    return [
        Check(
            what=f"{setting.name}: satisfaction NDCG@5 of easq against {base}",
            measured=t_interval(easq.satisfaction.values()),
            wanted="around" if setting.one_class else "above",
            threshold=0.0,
        ),
        Check(
            what=f"{setting.name}: engagement NDCG@5 of easq against {base}",
            measured=t_interval(easq.engagement.values()),
            wanted="above",
            threshold=LOWEST_ENGAGEMENT,
        ),
    ]


def _guard_note(setting: Condition, guard: Guard, measured: Mapping[tuple[str, str], MethodChanges]) -> str:
    """How `easq` does with a guard changed."""
    easq, changed = measured[setting.name, EASQ], measured[setting.name, guard.method]
    default = _difference(changed.satisfaction, easq.satisfaction)
    return (
        f"{setting.name}, {guard.name}: {guard.effect}. At the default weight satisfaction changes by "
        f"{_shown(changed.satisfaction)} and engagement by {_shown(changed.engagement)}; with the usual guards they "
        f"change by {_shown(easq.satisfaction)} and {_shown(easq.engagement)}. The change adds "
        f"{default.text(f' {POINTS}', 2)} to satisfaction at this weight, and "
        f"{changed.priced.lead(easq.priced, PRICE).text(f' {POINTS}', 2)} to the gain at {PRICE:g}%."
    )


def _longer_notes(found: StudyComparison, budget: Budget) -> list[str]:
    """How more epochs compare with the default number."""
    notes = []
    for setting in settings(budget):
        if setting.epochs is None:
            continue
        easq, longer = (
            {
                name: t_interval(found.change_by_pair(f"{method} {setting.name}", METRICS[name]).values())
                for name in ("satisfaction", "engagement")
            }
            for method in (EASQ, LONGER)
        )
        notes.append(
            f"{setting.name} against main_only of the default number of epochs: main_only "
            f"{longer['satisfaction'].text()} satisfaction and {longer['engagement'].text()} engagement, easq "
            f"{easq['satisfaction'].text()} and {easq['engagement'].text()}."
        )
    return notes


def _difference(mine: Mapping[str, float], theirs: Mapping[str, float]) -> Estimate:
    return t_interval(mine[block] - theirs[block] for block in mine if block in theirs)


def _shown(values: Mapping[str, float]) -> str:
    return t_interval(values.values()).text()


STUDY = Study(
    name="robustness",
    question="What does alignment lose if answers or likes are bad, and which guard limits it?",
    cells=_cells,
    conclude=_conclude,
    worlds_only=True,
    only_version=2,
)
