"""Alignment methods and backbones to compare, each as a change of a config with the default alignment."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from easq_rec.config import HSTU, Config, LoRA, Losses, Tower
from easq_rec.config import counts as schema_counts
from easq_rec.config.losses import DPO, Among, MainBPR, Reward
from easq_rec.errors import UserError

EXPERTS = {"main": 6, "satisfaction": 2}
"""The paper's numbers of experts of the towers (K1, K2)."""
ACTIONS = ("like", "follow")
"""Outcomes by which a user approves of a video after a view, in the schemas of the recipes."""
LABEL_WEIGHT = 3.0
"""Weight of an action in the utility of label engineering, where a view weighs 1."""
EVIDENCE_BY_HAND = 1.5
"""Weight of evidence of an action that nobody estimated: the odds of a like are 4.5 times as high if the viewer is
satisfied. A guess, as one would make it without answers; it is not fitted to any log."""

DENSE = 1.0
"""Weight of L_dense where it steers the policy."""
OWN_DIM = 8
"""Width of embeddings that only the satisfaction tower reads."""
REWARD = 1.0
"""Weight of L_reward: rewards, which are log odds, count as much as the utility of the outcomes does in L_main."""


def main_only(config: Config) -> Config:
    """The production ranker without alignment: only engagement."""
    return _changed(
        _without_own_inputs(config),
        model={"satisfaction": None, "satisfaction_weight": 0.0, "lora": None},
        losses=config.losses.without_reference(),
    )


def label_weights(config: Config) -> Config:
    """Label engineering: `main_only`, trained on a utility in which a like or a follow weighs 3. Evaluation measures
    engagement with the weights of the recipe."""
    return with_label_weight(config, LABEL_WEIGHT)


def with_label_weight(config: Config, weight: float) -> Config:
    """`label_weights` in which an action weighs `weight`."""
    actions = _actions(config, "label_weights")
    outcomes = tuple(
        replace(outcome, training_weight=weight) if outcome.name in actions else outcome
        for outcome in config.schema.outcomes
    )
    return _changed(main_only(config), schema={"outcomes": outcomes})


def action_ranker(config: Config) -> Config:
    """A ranker of actions: `main_only` that learns only likes and follows, and only from triggered candidates, so that
    they say what users thought of what they watched. Meant to be fused with `main_only`."""
    actions = _actions(config, "action_ranker")
    outcomes = tuple(
        outcome if outcome.name in actions else replace(outcome, training_weight=0.0)
        for outcome in config.schema.outcomes
    )
    config = main_only(config)
    losses = config.losses
    among: Among = "triggered" if config.schema.trigger is not None else "all"
    losses = replace(
        losses,
        pointwise=replace(losses.pointwise, among=among, outcomes="weighted"),
        main=replace(losses.main, among=among),
    )
    return _changed(config, schema={"outcomes": outcomes}, losses=losses)


def shared_bottom(config: Config) -> Config:
    """Hard sharing (Caruana 1997): two towers of one MLP each on one backbone, which both losses train."""
    return _hard_sharing(config, main=1, satisfaction=1, shared=0)


def mmoe(config: Config) -> Config:
    """Multi-gate mixture of experts (Ma et al. 2018): all experts are shared, and each task has separate gates.

    Gates are ReLU routers in all variants, not softmax, so that the variants differ only in sharing.
    """
    return _hard_sharing(config, main=0, satisfaction=0, shared=sum(EXPERTS.values()))


def ple(config: Config) -> Config:
    """One level of progressive layered extraction (Tang et al. 2020): task-specific and shared experts."""
    shared = EXPERTS["main"] // 2
    return _hard_sharing(config, main=EXPERTS["main"] - shared, satisfaction=EXPERTS["satisfaction"], shared=shared)


def shared_bottom_evidence(config: Config) -> Config:
    """`shared_bottom` with L_evidence and the satisfaction tower's own tables."""
    return _as_informed(shared_bottom, config)


def mmoe_evidence(config: Config) -> Config:
    """`mmoe` with L_evidence and the satisfaction tower's own tables."""
    return _as_informed(mmoe, config)


def ple_evidence(config: Config) -> Config:
    """`ple` with L_evidence and the satisfaction tower's own tables."""
    return _as_informed(ple, config)


def direct(config: Config) -> Config:
    """The pairwise answer loss on the policy score: no satisfaction tower, no reference."""
    config = main_only(_in_every_step(config))
    return _changed(config, losses=config.losses.weighted(direct=0.3))


def evidence_on_policy(config: Config) -> Config:
    """L_evidence on the policy score: no satisfaction tower, no reference. Answers only set the weights of evidence."""
    config = main_only(_in_every_step(config))
    return _changed(config, losses=config.losses.weighted(policy_evidence=0.3))


def reward_model(config: Config) -> Config:
    """A reward model: a regression of answers on outcomes labels every impression, and the policy score orders pairs of
    a request by their rewards. No satisfaction tower, no reference."""
    config = main_only(_in_every_step(config))
    return _changed(config, losses=config.losses.weighted(reward=REWARD))


def reward_regression(config: Config) -> Config:
    """`reward_model` with the squared error of the score against the reward, both centred in the request."""
    config = main_only(_in_every_step(config))
    return _changed(config, losses=replace(config.losses, reward=Reward(weight=REWARD, form="regression")))


def paper(config: Config) -> Config:
    """EASQ in the literal form of arXiv 2601.20215: score-difference DPO (beta 0.1, lambda 2 = 6) in every step,
    adapters whose gradients reach the embeddings, 6 and 2 routed experts, no separate satisfaction embeddings, no
    L_dense and no L_evidence."""
    config = with_moe(_in_every_step(config))
    losses = config.losses.aligned_by(satisfaction=1.0)
    return _changed(
        _without_own_inputs(config),
        model={
            "isolate_embeddings": False,
            "policy_score": "single",
            "satisfaction_weight": 0.0,
            "lora": config.model.lora or LoRA(),
        },
        losses=replace(
            losses,
            main=MainBPR(pairs="equal"),
            dpo=DPO(weight=6.0, policy="score_difference", beta=0.1),
            warmup_per_class=0,
        ).weighted(pointwise=0.0),
    )


def without_lora(config: Config) -> Config:
    """The satisfaction tower reads the main representation as a constant."""
    return _changed(config, model={"lora": None})


def with_moe(config: Config) -> Config:
    """Several routed experts per tower, each as wide as the tower's only one."""
    return _with_experts(config, EXPERTS)


def without_moe(config: Config) -> Config:
    """One expert per tower."""
    return _with_experts(config, dict.fromkeys(EXPERTS, 1))


def with_dense(config: Config) -> Config:
    """The reference annotates every pair of a request, and the main tower learns its preferences (L_dense), instead of
    adding the satisfaction score to what is served."""
    return _changed(config, model={"satisfaction_weight": 0.0}, losses=config.losses.weighted(dense=DENSE))


def without_evidence(config: Config) -> Config:
    """No L_evidence: the reference learns only from answers."""
    return _changed(config, losses=config.losses.weighted(evidence=0.0))


def without_answers(config: Config) -> Config:
    """A control: the reference learns only from L_evidence, and counts no answers. Answers still set the weights of
    evidence."""
    return _changed(without_answer_counts(config), losses=config.losses.weighted(satisfaction=0.0))


def without_any_answers(config: Config) -> Config:
    """A control: no answer is read. The reference learns only from L_evidence, whose weights are set by hand."""
    by_hand = dict.fromkeys(_actions(config, "without_any_answers"), EVIDENCE_BY_HAND)
    losses = config.losses.weighted(satisfaction=0.0, evidence=1.0)
    losses = replace(losses, evidence=replace(losses.evidence, weights=by_hand), warmup_per_class=0)
    return _changed(without_answer_counts(config), losses=losses)


def shuffled_answers(config: Config) -> Config:
    """A control: L_satis and L_DPO compare permuted answers, and the reference counts none. True answers still set the
    weights of evidence."""
    return _changed(without_answer_counts(config), replay={"shuffled": "replayed"})


def ips_answers(config: Config) -> Config:
    """L_satis weighs an answer by the inverse of the estimated probability that an impression with its outcomes is
    answered, which corrects for users who answer more readily after some outcomes."""
    losses = config.losses
    satisfaction = replace(losses.satisfaction, pairs="inverse_propensity")
    return _changed(config, losses=replace(losses, satisfaction=satisfaction))


def half_targets(config: Config) -> Config:
    """A control of `with_dense`: its preferences are all 1/2, so that it only shrinks differences of the score."""
    config = with_dense(config)
    return _changed(config, losses=replace(config.losses, dense=replace(config.losses.dense, target="half")))


def with_embeddings(config: Config) -> Config:
    """The satisfaction tower has separate embeddings, which only it reads."""
    return _changed(config, schema={"satisfaction_dim": OWN_DIM})


def without_dpo(config: Config) -> Config:
    """No L_DPO."""
    return _changed(config, losses=config.losses.weighted(dpo=0.0))


def without_isolation(config: Config) -> Config:
    """The satisfaction loss reaches the embeddings through the adapters."""
    return _changed(config, model={"isolate_embeddings": False})


def with_dpo(config: Config) -> Config:
    """L_DPO over the request's slate (lambda 2 = 0.3) instead of adding the satisfaction score to what is served."""
    losses = replace(config.losses, dpo=DPO(weight=0.3, policy="slate_softmax", beta=1.0))
    return _changed(config, model={"satisfaction_weight": 0.0}, losses=losses)


def hstu(config: Config) -> Config:
    """HSTU in place of the recipe's backbone, with as many heads and layers."""
    backbone = config.model.backbone
    return _changed(config, model={"backbone": HSTU(heads=backbone.heads, layers=backbone.layers)})


def counts(config: Config) -> Config:
    """Features that count what happened before, by video, author, tag, user, tab and duration. `easq-rec data counts`
    adds their columns to the data. The recipes of the built-in worlds have them without this."""
    return dataclasses.replace(config, schema=schema_counts.with_usual_counts(config.schema))


def without_counts(config: Config) -> Config:
    """No features that count what happened before, of outcomes or of answers: the ranker learns from ids and numbers
    alone."""
    return dataclasses.replace(config, schema=schema_counts.without_counts(config.schema))


def answer_counts(config: Config) -> Config:
    """The satisfaction tower reads how earlier answers about the video and its author were. `easq-rec data counts` adds
    their columns to the data. A ranker without that tower does not read them."""
    if config.model.satisfaction is None:
        return config
    return dataclasses.replace(config, schema=schema_counts.with_usual_answer_counts(config.schema))


def without_answer_counts(config: Config) -> Config:
    """No features that count earlier answers."""
    return dataclasses.replace(config, schema=schema_counts.without_answer_counts(config.schema))


def _of_paper(change: Callable[[Config], Config]) -> Callable[[Config], Config]:
    return lambda config: change(paper(config))


EASQ_CHANGED = (
    without_lora,
    with_dense,
    without_isolation,
    without_evidence,
    without_answers,
    without_any_answers,
    shuffled_answers,
    half_targets,
    ips_answers,
    with_embeddings,
    with_dpo,
    with_moe,
)
METHODS = (
    main_only,
    label_weights,
    action_ranker,
    shared_bottom,
    mmoe,
    ple,
    shared_bottom_evidence,
    mmoe_evidence,
    ple_evidence,
    direct,
    evidence_on_policy,
    reward_model,
    reward_regression,
    paper,
)
VARIANTS: dict[str, Callable[[Config], Config]] = {
    **{change.__name__: change for change in METHODS},
    **{f"paper_{change.__name__}": _of_paper(change) for change in (without_lora, without_moe, without_dpo)},
    **{change.__name__: change for change in (*EASQ_CHANGED, hstu)},
}
"""Variants by name; names that do not begin with `paper` change the default alignment."""
ADDITIONS: dict[str, Callable[[Config], Config]] = {
    change.__name__: change for change in (without_answer_counts, answer_counts, without_counts, counts)
}
"""Changes of any config, also of a variant, by name. A name comes before those that it ends with."""


def _without_own_inputs(config: Config) -> Config:
    """No embeddings and no counts that only the satisfaction tower reads."""
    schema = schema_counts.without_answer_counts(config.schema)
    return replace(config, schema=replace(schema, satisfaction_dim=0, satisfaction=()))


def _hard_sharing(config: Config, *, main: int, satisfaction: int, shared: int) -> Config:
    """Multi-task learning: the satisfaction loss trains backbone and embeddings. The satisfaction score counts in the
    policy score as in the default."""
    model = config.model
    assert model.satisfaction is not None, "variants change a config that has the default alignment"
    tower = replace(model.satisfaction, experts=satisfaction, hidden=model.main.hidden, out=model.main.out)
    return _changed(
        _without_own_inputs(_in_every_step(config)),
        model={
            "pathway": "shared",
            "lora": None,
            "isolate_embeddings": False,
            "main": replace(model.main, experts=main),
            "satisfaction": tower,
            "shared_experts": shared,
        },
        losses=config.losses.aligned_by(satisfaction=1.0),
    )


def _as_informed(sharing: Callable[[Config], Config], config: Config) -> Config:
    """A method of hard sharing whose satisfaction tower also learns from outcomes, and has inputs of its own."""
    changed, schema = sharing(config), config.schema
    own = {"satisfaction_dim": OWN_DIM, "satisfaction": schema.satisfaction, "counts": schema.counts}
    return _changed(changed, schema=own, losses=changed.losses.weighted(evidence=1.0))


def _actions(config: Config, variant: str) -> list[str]:
    """The outcomes of `ACTIONS` in the schema. Raises UserError, which names the variant, if there are none."""
    names = [outcome.name for outcome in config.schema.outcomes]
    found = [name for name in names if name in ACTIONS]
    if not found:
        raise UserError(
            f"variant {variant} needs an outcome named {' or '.join(ACTIONS)}: recipe {config.recipe!r} has only "
            f"{', '.join(names)}"
        )
    return found


def _with_experts(config: Config, experts: dict[str, int]) -> Config:
    towers: dict[str, Tower] = {
        name: replace(tower, experts=experts[name]) for name, tower in config.model.towers.items()
    }
    return _changed(config, model=towers)


def _in_every_step(config: Config) -> Config:
    """The config with every step aligned, the same total number of answers, and one learning rate."""
    replayed, every = config.replay.answers_per_step, config.losses.align_every
    return _changed(
        config,
        losses=replace(config.losses, align_every=1),
        replay={"answers_per_step": max(replayed // every, 1)},
        optim={"pathway_lr": 1.0},
    )


def _changed(
    config: Config,
    *,
    schema: Any = None,
    model: Any = None,
    losses: Losses | None = None,
    replay: Any = None,
    optim: Any = None,
) -> Config:
    """The config with other losses and some other fields replaced."""
    return dataclasses.replace(
        config,
        schema=replace(config.schema, **(schema or {})),
        model=replace(config.model, **(model or {})),
        losses=losses or config.losses,
        replay=replace(config.replay, **(replay or {})),
        optim=replace(config.optim, **(optim or {})),
    )
