"""Options of the model (towers, adapters) and of answer replay.

Other packages import them from `easq_rec.config`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from easq_rec.config.backbones import Backbone, LinearName, Transformer
from easq_rec.config.schema import require

# ---------------------------------------------------------------------------------------------------------------------
# Model


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A small MLP, or a mixture of several behind a ReLU router."""

    experts: int = 1
    """Number of experts that only this tower uses (K1 for the main tower, K2 for the satisfaction tower)."""
    hidden: int = 64
    """Hidden width of each expert."""
    out: int = 64
    """Output width of each expert."""
    gate_floor: float = 0.01
    """Added to every gate, so that a closed expert still learns."""
    activity: float | None = 0.8
    """Target for each gate, if there are several experts: the share of the candidates for which it is open. Training
    moves the router's biases towards it, without a loss (arXiv 2408.15664). None: biases are trained by gradients, and
    gates may close for all candidates."""

    def __post_init__(self) -> None:
        require(self.experts >= 0, "tower.experts", self.experts, "0 or more")
        if self.activity is not None:
            require(0 < self.activity < 1, "tower.activity", self.activity, "between 0 and 1, or None")
        require(self.hidden >= 1, "tower.hidden", self.hidden, "at least 1")
        require(self.out >= 1, "tower.out", self.out, "at least 1")
        if self.activity is None:
            require(self.gate_floor >= 0, "tower.gate_floor", self.gate_floor, "0 or more")
        else:
            # The gates of a candidate are divided by their sum.
            require(self.gate_floor > 0, "tower.gate_floor", self.gate_floor, "above 0, unless tower.activity is None")


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Low-rank adapters on the backbone's linear layers; they belong to the satisfaction pathway."""

    rank: int = 8
    """Rank r of each adapter."""
    alpha: float = 8.0
    """The adapter's product B A is scaled by alpha / rank."""
    targets: tuple[LinearName, ...] | None = None
    """Linear layers with an adapter, among `input` and those of the backbone; None: all. The others are constants of
    the satisfaction stream. So an adapter learns only if the later layers on its path to the tower have one too: query,
    key_value and gate need attention_out, ffn_in needs ffn_out."""

    def __post_init__(self) -> None:
        require(self.rank >= 1, "model.lora.rank", self.rank, "at least 1")
        require(self.alpha > 0, "model.lora.alpha", self.alpha, "more than 0")


@dataclass(frozen=True, kw_only=True)
class Model:
    """The backbone and its towers."""

    dim: int = 64
    """Width d of a token."""
    backbone: Backbone = Transformer()
    """Turns the tokens of a request into one vector per candidate."""
    main: Tower = Tower()
    """Main tower: it computes the policy score, which is served."""
    policy_score: Literal["single", "expected_utility"] = "expected_utility"
    """single: one output of the main tower, trained by comparisons (the paper). expected_utility: one output per
    outcome, trained by `losses.pointwise`; the score is the log odds of their expected utility."""
    satisfaction: Tower | None = Tower()
    """Satisfaction tower: its output is the reference score. None: no satisfaction pathway."""
    satisfaction_weight: float = 0.0
    """Weight of the satisfaction score in the policy score: the policy score is the main tower's score plus this weight
    times the satisfaction score, both log odds. It counts once the warm-up is over (`losses.warmup_per_class`), and no
    loss of the main tower sees it. 0: the main tower's score alone."""
    lora: LoRA | None = LoRA()
    """Adapters. None: the satisfaction tower reads the main representation as a constant."""
    isolate_embeddings: bool = True
    """True: the satisfaction loss does not reach the embeddings; False: it does, through the adapters (the paper)."""
    table_std: float = 0.05
    """Standard deviation of the initial values of the tables. The larger it is, the more the start of a rare id
    remains in its score."""
    feature_dropout: float = 0.0
    """Probability that training leaves an id feature of the user or of a candidate out of an example, if the feature
    does not declare its own (`dropout` in the schema). Replayed answers keep all features."""
    quantiles: int = 16
    """Pieces of a float feature with encoding `quantiles`."""
    user_tokens: Literal["each", "one"] = "each"
    """each: one token per user feature. one: one token of all user features, which makes requests of many user features
    and few candidates cheaper."""
    wide: bool = False
    """True: a linear function and a factorization machine are added to the outputs of the main tower (the wide part of
    DeepFM). They read the same embeddings of user and candidate as the backbone."""
    residual: bool = False
    """True: the outcomes' outputs of the main tower learn the residual of a score that the counts make: the prior log
    odds of the outcome, and for each of its counts, with a learned weight, how much the log odds of the smoothed rate
    differ from the prior. Needs counts of binary outcomes."""
    pathway: Literal["adapters", "shared"] = "adapters"
    """Parameters that L_satis and L_evidence train. adapters: only the satisfaction pathway (EASQ). shared: also
    backbone and embeddings, as the main loss does: multi-task learning by hard sharing."""
    shared_experts: int = 0
    """Experts that both towers mix with separate gates, in addition to the experts of each tower; needs the shared
    pathway."""

    @property
    def towers(self) -> dict[str, Tower]:
        """The existing towers by name."""
        return {"main": self.main} | ({"satisfaction": self.satisfaction} if self.satisfaction is not None else {})

    def __post_init__(self) -> None:
        require(self.dim >= 1, "model.dim", self.dim, "at least 1")
        weight, fused = self.satisfaction_weight, self.satisfaction is not None
        require(math.isfinite(weight), "model.satisfaction_weight", weight, "a finite number")
        require(fused or not weight, "model.satisfaction_weight", weight, "0 without a satisfaction tower")
        require(self.table_std >= 0, "model.table_std", self.table_std, "0 or more")
        rate = self.feature_dropout
        require(0 <= rate < 1, "model.feature_dropout", rate, "0 or more and below 1")
        if self.residual:
            score, allowed = self.policy_score, "'expected_utility' with model.residual: it has outputs for outcomes"
            require(score == "expected_utility", "model.policy_score", score, allowed)
        require(self.quantiles >= 1, "model.quantiles", self.quantiles, "at least 1")
        heads = self.backbone.heads
        require(self.dim % heads == 0, "model.backbone.heads", heads, f"a divisor of model.dim={self.dim}")
        linears = ("input", *sorted(self.backbone.linears))
        for target in (self.lora and self.lora.targets) or ():
            require(target in linears, "model.lora.targets", target, f"one of {linears} with this backbone")
        require(self.shared_experts >= 0, "model.shared_experts", self.shared_experts, "0 or more")
        for name, tower in self.towers.items():
            allowed = "at least 1 without model.shared_experts"
            require(tower.experts + self.shared_experts >= 1, f"model.{name}.experts", tower.experts, allowed)
        if self.pathway == "shared":
            require(self.lora is None, "model.lora", self.lora, "None in the shared pathway, which has no adapters")
            isolated = self.isolate_embeddings
            require(not isolated, "model.isolate_embeddings", isolated, "False in the shared pathway")
        elif self.satisfaction is not None:
            allowed = "0 unless model.pathway='shared': the satisfaction loss must not train what the main tower uses"
            require(self.shared_experts == 0, "model.shared_experts", self.shared_experts, allowed)
        if self.shared_experts and self.satisfaction is not None:
            widths = (self.satisfaction.hidden, self.satisfaction.out)
            allowed = f"({self.main.hidden}, {self.main.out}) as in the main tower, since both mix the shared experts"
            require(widths == (self.main.hidden, self.main.out), "model.satisfaction: (hidden, out)", widths, allowed)


# ---------------------------------------------------------------------------------------------------------------------
# Replay


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The buffer of answered requests that are added to batches."""

    answers_per_step: int = 16
    """Answers added to each rank's batch, with their requests, in an aligned step (losses.align_every)."""
    capacity: int = 65_536
    """Number of most recent answers to keep."""
    max_replays: int = 12
    """Maximum of the mean number of replays of the answers in the buffer. A step that would exceed it draws no answers,
    and the least replayed answers are drawn first. With more replays the satisfaction tower overfits where answers are
    few."""
    shuffled: Literal["no", "replayed", "all"] = "no"
    """Controls that permute the answers over candidates, so that they carry no information. replayed: those that losses
    compare; the weights of evidence still come from the true answers. all: also those that set these weights, which
    then are 0 except by chance. no: no control."""
    balance: bool = False
    """True: a draw has equally many answers of each class, if there are enough; False: a uniform draw."""

    def __post_init__(self) -> None:
        require(self.answers_per_step >= 1, "replay.answers_per_step", self.answers_per_step, "at least 1")
        require(self.capacity >= 1, "replay.capacity", self.capacity, "at least 1")
        require(self.max_replays >= 1, "replay.max_replays", self.max_replays, "at least 1")
