"""Options of the losses, and the properties of each loss that other modules use.

A loss has two parts: a frozen dataclass here, which loads without torch, and a term in `easq_rec.losses`, which
computes it. `Losses` has one field per loss. To add a loss, write the term in a new file, and add its dataclass and one
line in `Losses` here. No other code names single losses.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from easq_rec.config.schema import require

Group = Literal[
    "embeddings",
    "backbone",
    "main tower",
    "lora A",
    "lora B",
    "satisfaction tower",
    "satisfaction embeddings",
]
"""Groups of parameters in the gradient contract (`docs/explanation/gradients.md`)."""

POLICY: frozenset[Group] = frozenset({"embeddings", "backbone", "main tower"})
"""Groups that compute the policy score."""
SATISFACTION_HEAD: frozenset[Group] = frozenset({"satisfaction tower", "satisfaction embeddings"})
"""Groups that compute the satisfaction score from the adapted representation."""
PATHWAY: frozenset[Group] = SATISFACTION_HEAD | {"lora A", "lora B"}
"""All parameters of the satisfaction pathway."""

Among = Literal["all", "triggered"]
"""Candidates that a loss compares. triggered: only those with the schema's `trigger` outcome."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """One weighted term of the training loss. Class variables describe it to other modules."""

    weight: float = 0.0
    """Weight in the sum; 0 switches the loss off."""

    term: ClassVar[str]
    """Class that computes the loss, as `module:name`; a string, because this module loads without torch."""
    label: ClassVar[str]
    """Name in logs and reports."""
    description: ClassVar[str]
    """One sentence for reports."""
    moves: ClassVar[frozenset[Group]]
    """Row of the gradient contract: groups whose parameters get a gradient. No other parameter gets one."""
    moves_attached: ClassVar[frozenset[Group]] = frozenset()
    """Groups that also get a gradient if `model.isolate_embeddings` is False."""
    every_step: ClassVar[bool] = False
    """True: computed in every step. False: only in aligned steps, and scaled by `losses.align_every`."""
    reference: ClassVar[bool] = False
    """Reads scores of the satisfaction tower."""
    steers: ClassVar[bool] = False
    """The reference steers the policy: off during the warm-up, and scaled down by `losses.divergence_bound`."""
    policy_on_replayed: ClassVar[bool] = False
    """Reads the policy score of replayed requests."""
    replays: ClassVar[bool] = False
    """Compares replayed answers."""
    evidence: ClassVar[bool] = False
    """Compares candidates with evidence: by the satisfaction score if `reference` is True, else by the policy score."""
    rewards: ClassVar[bool] = False
    """Reads the reward of every candidate, which is fitted to the answers so far (`losses.reward`)."""
    at_zero_weight: ClassVar[bool] = False
    """Stays in the graph at weight 0, so that its parameters get zero gradients."""

    @property
    def slates(self) -> bool:
        """Whether an answered candidate is compared with the other candidates of its request."""
        return False

    @property
    def weighs_answers(self) -> bool:
        """Whether the pairs of an `AnswerTerm` weigh the product of the weights of their answers."""
        return False

    @property
    def compared(self) -> Among:
        """Candidates that the loss compares."""
        return getattr(self, "among", "all")

    @property
    def in_force(self) -> bool:
        """Whether training computes the loss."""
        return self.weight > 0 or self.at_zero_weight


@dataclass(frozen=True, kw_only=True)
class Pointwise(Loss):
    """Cross-entropy of every outcome of every candidate, with one output of the main tower per outcome."""

    weight: float = 1.0
    """Weight of the cross-entropy of the outcomes; 0 switches it off. It needs model.policy_score=expected_utility."""
    among: Among = "all"
    """Candidates that the cross-entropy reads."""
    outcomes: Literal["all", "weighted"] = "all"
    """Outcomes that are predicted. weighted: only those whose weight in the utility of training is not 0."""

    term = "easq_rec.losses.pointwise:PointwiseTerm"
    label = "L_point"
    description = "The policy predicts every outcome of a candidate."
    moves = POLICY
    every_step = True


@dataclass(frozen=True, kw_only=True)
class MainBPR(Loss):
    """Bayesian personalised ranking of a request's candidates by engagement utility (Rendle et al. 2009)."""

    weight: float = 1.0
    """Weight of the pairwise engagement loss on the policy score; 0 switches it off."""
    pairs: Literal["equal", "utility"] = "utility"
    """Weight of a pair. equal: 1 (the paper). utility: the difference of the two utilities."""
    among: Among = "all"
    """Candidates that are compared."""

    term = "easq_rec.losses.main_bpr:MainBPRTerm"
    label = "L_main"
    description = "The policy orders pairs of a request's candidates by engagement utility."
    moves = POLICY
    every_step = True


@dataclass(frozen=True, kw_only=True)
class Satisfaction(Loss):
    """Pairwise logistic loss of the satisfaction score on answered pairs, across requests."""

    weight: float = 1.0
    """Weight of the pairwise satisfaction loss on answered pairs (lambda 1)."""
    pairs: Literal["equal", "inverse_propensity"] = "equal"
    """Weight of a pair. equal: 1. inverse_propensity: the product of the weights of its two answers. The weight of an
    answer is the inverse of the estimated probability that an impression with its outcomes is answered, relative to the
    overall one. It corrects for users who answer more readily after some outcomes."""
    most_weight: float = 10.0
    """Bound on the weight of an answer with pairs=inverse_propensity: weights lie between its inverse and itself."""

    term = "easq_rec.losses.satisfaction:SatisfactionTerm"
    label = "L_satis"
    description = "The satisfaction tower orders pairs of answers."
    moves = PATHWAY
    moves_attached = frozenset({"embeddings"})
    reference = True
    replays = True
    at_zero_weight = True

    @property
    def weighs_answers(self) -> bool:
        return self.weight > 0 and self.pairs == "inverse_propensity"

    def __post_init__(self) -> None:
        require(self.most_weight >= 1, "losses.satisfaction.most_weight", self.most_weight, "1 or more")


@dataclass(frozen=True, kw_only=True)
class DPO(Loss):
    """Direct preference optimisation on answered pairs, against the online reference."""

    weight: float = 0.0
    """Weight of the DPO loss against the online reference on answered pairs (lambda 2); 0 switches it off."""
    policy: Literal["score_difference", "slate_softmax", "bernoulli"] = "slate_softmax"
    """Meaning of log pi. score_difference is the paper's literal form."""
    beta: float = 1.0
    """Temperature (the paper uses 0.1 with score_difference)."""

    term = "easq_rec.losses.dpo:DPOTerm"
    label = "L_DPO"
    description = "The policy follows answered pairs, relative to the reference."
    moves = POLICY
    reference = True
    steers = True
    replays = True
    policy_on_replayed = True

    @property
    def slates(self) -> bool:
        return self.weight > 0 and self.policy == "slate_softmax"

    def __post_init__(self) -> None:
        require(self.beta > 0, "losses.dpo.beta", self.beta, "more than 0")


@dataclass(frozen=True, kw_only=True)
class Dense(Loss):
    """Soft-label preference optimisation: the reference annotates every pair of a request."""

    weight: float = 0.3
    """Weight of L_dense, in which the reference annotates every pair of a request (lambda 3); 0 switches it off."""
    temperature: float = 1.0
    """Divides the reference score differences that give the preferences; above 1 makes them softer."""
    target: Literal["reference", "half"] = "reference"
    """Preferences of the pairs. reference: those of the reference. half: a control in which all are 1/2, so that the
    loss only shrinks the differences of the policy score."""
    among: Among = "all"
    """Candidates that are compared. triggered: only those about which users may be asked, so that the reference
    annotates no candidate of a kind that it has never learned from."""

    term = "easq_rec.losses.dense:DenseTerm"
    label = "L_dense"
    description = "The policy follows the reference on all pairs of a request."
    moves = POLICY
    reference = True
    steers = True

    def __post_init__(self) -> None:
        require(self.temperature > 0, "losses.dense.temperature", self.temperature, "more than 0")


@dataclass(frozen=True, kw_only=True)
class Evidence(Loss):
    """Outcomes as noisy observations of answers that were not given."""

    weight: float = 0.0
    """Weight of L_evidence, in which outcomes are evidence for or against satisfaction; 0 switches it off."""
    caution: float = 2.6
    """Number of standard errors by which an outcome's estimated weight of evidence must differ from zero to be used
    (2.6: 99% confidence)."""
    expectation_error: float = 0.7
    """Standard error of the weights of evidence that the schema expects of outcomes (0.7: an odds ratio is expected
    within a factor of 4 in 95% of logs). The weight of such an outcome is the mean of what is expected and of what the
    answers say, each weighed by its precision, and `caution` does not apply to it."""
    weights: dict[str, float] | None = None
    """Weights of evidence by hand: for outcomes by name, the log odds ratio of the outcome between satisfied and
    dissatisfied candidates; 0 for outcomes that are not named. None: estimated from the answers so far."""

    term = "easq_rec.losses.evidence:EvidenceTerm"
    label = "L_evidence"
    description = "The satisfaction tower explains outcomes that are correlated with answers."
    moves = SATISFACTION_HEAD
    reference = True
    evidence = True

    def __post_init__(self) -> None:
        require(self.caution >= 0, "losses.evidence.caution", self.caution, "0 or more")
        error = self.expectation_error
        require(error > 0, "losses.evidence.expectation_error", error, "more than 0")
        if self.weights is not None:
            usable = any(self.weights.values()) and all(math.isfinite(weight) for weight in self.weights.values())
            allowed = "finite numbers, of which one is not 0, or None"
            require(usable, "losses.evidence.weights", self.weights, allowed)


@dataclass(frozen=True, kw_only=True)
class Direct(Loss):
    """The pairwise answer loss on the policy score: a baseline without a reference."""

    weight: float = 0.0
    """Weight of the pairwise answer loss on the policy score; 0 switches it off."""

    term = "easq_rec.losses.direct:DirectTerm"
    label = "answer loss on the policy score"
    description = "The policy orders pairs of answers without a reference."
    moves = POLICY
    replays = True
    policy_on_replayed = True


@dataclass(frozen=True, kw_only=True)
class PolicyEvidence(Loss):
    """L_evidence on the policy score: a baseline without a reference. Its weights of evidence are those of
    `losses.evidence`, whose own weight may be 0."""

    weight: float = 0.0
    """Weight of L_evidence on the policy score; 0 switches it off."""

    term = "easq_rec.losses.policy_evidence:PolicyEvidenceTerm"
    label = "L_evidence on the policy score"
    description = "The policy explains outcomes that are correlated with answers, without a reference."
    moves = POLICY
    evidence = True


@dataclass(frozen=True, kw_only=True)
class Reward(Loss):
    """A reward model: a logistic regression of answers on outcomes labels every impression, and the policy score
    follows the labels. A baseline without a reference."""

    weight: float = 0.0
    """Weight of the loss by which the policy score follows the rewards; 0 switches it off."""
    form: Literal["bpr", "regression"] = "bpr"
    """bpr: the policy orders pairs by reward, and a pair weighs as much as the two rewards differ. regression: squared
    error of the score against the reward, both centred in the request."""
    ridge: float = 1.0
    """Penalty of the regression that fits the reward: the precision of a normal prior of each outcome's log odds ratio.
    1: before there are answers, a ratio beyond 7.4 (two standard deviations) is thought unlikely."""
    among: Among = "all"
    """Candidates that are compared. all: every impression has a label. triggered: only impressions of the kind about
    which users are asked."""

    term = "easq_rec.losses.reward:RewardTerm"
    label = "L_reward"
    description = "The policy follows a reward that a regression of answers on outcomes gives to every impression."
    moves = POLICY
    rewards = True

    def __post_init__(self) -> None:
        require(self.ridge > 0, "losses.reward.ridge", self.ridge, "more than 0")


@dataclass(frozen=True, kw_only=True)
class Listwise(Loss):
    """Listwise softmax of the policy score over a request, by engagement utility (ListNet, Cao et al. 2007)."""

    weight: float = 0.0
    """Weight of the listwise engagement loss on the policy score, which can replace L_main or be added to it; 0
    switches it off."""

    term = "easq_rec.losses.listwise:ListwiseTerm"
    label = "L_list"
    description = "The policy's softmax over a request follows the softmax of engagement utility."
    moves = POLICY
    every_step = True


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The training loss: the weighted sum of these losses. Fields of type `Loss` are its terms."""

    pointwise: Pointwise = Pointwise()
    main: MainBPR = MainBPR()
    satisfaction: Satisfaction = Satisfaction()
    dpo: DPO = DPO()
    dense: Dense = Dense()
    evidence: Evidence = Evidence()
    direct: Direct = Direct()
    listwise: Listwise = Listwise()
    policy_evidence: PolicyEvidence = PolicyEvidence()
    reward: Reward = Reward()

    groups: Literal["request", "user"] = "request"
    """Candidates that L_main, L_list, L_dense, L_evidence (on either score), L_reward and the slate_softmax of L_DPO
    compare. request: those of a request. user: those of all requests of a user in a rank's batch, for feeds whose
    requests have few candidates; see data.user_requests."""
    align_every: int = 1
    """Interval between aligned steps. The other steps train only on engagement and cost as much as without alignment.
    Losses that are computed only in aligned steps are scaled by this number."""
    warmup_steps: int = 100
    """Steps before L_dense and L_DPO take effect, and the satisfaction score counts in the policy score, while the
    satisfaction tower learns its first answers."""
    warmup_per_class: int = 0
    """Satisfied answers, and as many dissatisfied ones, that must be admitted before L_dense and L_DPO take effect, and
    the satisfaction score counts in the policy score. Answers of one class form no pairs, so the satisfaction tower
    learns nothing from them."""
    reference_smoothing: float = 0.0
    """Decay per step of an exponential moving average of the satisfaction tower that computes the reference score; 0:
    the tower itself computes it."""
    divergence_bound: float | None = None
    """Mean KL of sigmoid(policy score) from sigmoid(reference score), in nats, above which the weights of L_DPO and
    L_dense are multiplied by bound / KL for the step; None: no bound."""
    uncertain: Literal["ignore", "between"] = "ignore"
    """ignore: uncertain answers form no pairs. between: they rank between dissatisfied and satisfied answers."""

    @property
    def terms(self) -> dict[str, Loss]:
        """All losses by name, in the order of summation."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Loss)}

    @property
    def in_force(self) -> dict[str, Loss]:
        """The losses that training computes."""
        return {name: loss for name, loss in self.terms.items() if loss.in_force}

    @property
    def aligns_without_reference(self) -> bool:
        """Whether aligned steps compute a loss that needs no satisfaction tower."""
        return any(loss.weight > 0 and not loss.reference and not loss.every_step for loss in self.terms.values())

    @property
    def replays_answers(self) -> bool:
        """Whether a loss compares replayed answers."""
        return any(loss.weight > 0 and loss.replays for loss in self.terms.values())

    @property
    def reads_answers(self) -> bool:
        """Whether training needs answers: to compare them, to estimate weights of evidence or rewards, or to end the
        warm-up."""
        used = [loss for loss in self.terms.values() if loss.weight > 0]
        estimates = self.evidence.weights is None and any(loss.evidence for loss in used)
        waits = self.warmup_per_class > 0 and any(loss.steers for loss in used)
        return self.replays_answers or estimates or waits or self.rewards

    @property
    def rewards(self) -> bool:
        """Whether a loss reads rewards."""
        return any(loss.weight > 0 and loss.rewards for loss in self.terms.values())

    @property
    def weighs_answers(self) -> bool:
        """Whether a loss reads weights of answers."""
        return any(loss.weighs_answers for loss in self.terms.values())

    @property
    def slates(self) -> bool:
        """Whether an answered candidate is compared with the other candidates of its request."""
        return any(loss.slates for loss in self.terms.values())

    @property
    def policy_on_replayed(self) -> bool:
        """Whether a loss reads the policy score of replayed requests."""
        return any(loss.weight > 0 and loss.policy_on_replayed for loss in self.terms.values())

    @property
    def evidence_scores(self) -> bool:
        """Whether a loss reads the satisfaction score of candidates whose outcomes are evidence."""
        return any(loss.weight > 0 and loss.evidence and loss.reference for loss in self.terms.values())

    def weighted(self, **weights: float) -> Losses:
        """The same losses with other weights, by name."""
        terms = self.terms
        changed = {name: dataclasses.replace(terms[name], weight=weight) for name, weight in weights.items()}
        return dataclasses.replace(self, **changed)  # type: ignore[arg-type]

    def aligned_by(self, **weights: float) -> Losses:
        """The losses with these weights, and 0 for all others that are computed only in aligned steps."""
        off = {name: 0.0 for name, loss in self.terms.items() if not loss.every_step}
        return self.weighted(**(off | weights))

    def without_reference(self) -> Losses:
        """The losses without those that need a satisfaction tower."""
        return self.weighted(**{name: 0.0 for name, loss in self.terms.items() if loss.reference})

    def __post_init__(self) -> None:
        for name, loss in self.terms.items():
            require(loss.weight >= 0, f"losses.{name}.weight", loss.weight, "0 or more")
        always = {name: loss.weight for name, loss in self.terms.items() if loss.every_step}
        allowed = "a weight above 0 for at least one loss that is computed in every step"
        require(any(always.values()), "losses: weights", always, allowed)
        require(self.align_every >= 1, "losses.align_every", self.align_every, "at least 1")
        require(self.warmup_steps >= 0, "losses.warmup_steps", self.warmup_steps, "0 or more")
        require(self.warmup_per_class >= 0, "losses.warmup_per_class", self.warmup_per_class, "0 or more")
        smoothing = self.reference_smoothing
        require(0 <= smoothing < 1, "losses.reference_smoothing", smoothing, "from 0 to less than 1")
        if self.divergence_bound is not None:
            require(self.divergence_bound > 0, "losses.divergence_bound", self.divergence_bound, "above 0, or None")
