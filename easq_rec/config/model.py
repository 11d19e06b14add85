"""The knobs of what is learned: the model with its towers and adapters, the losses, and the replay of answers.

A part of `easq_rec.config`, through which everything else imports it.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Literal

from easq_rec.config.schema import require

# ---------------------------------------------------------------------------------------------------------------------
# Model


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A mixture of small MLP experts behind a ReLU router."""

    experts: int
    """Number of the tower's own experts (K1 for the main tower, K2 for the satisfaction tower)."""
    hidden: int = 64
    """Hidden width of each expert."""
    out: int = 64
    """Output width of each expert."""
    gate_floor: float = 0.01
    """Added to every gate: without it a gate whose ReLU closes for all inputs never opens again."""
    activity: float | None = None
    """Share of open gates that an L1 penalty steers to, its weight rising and falling with the distance (ReMoE's
    adaptive L1, arXiv 2412.14711); None: no penalty."""

    def __post_init__(self) -> None:
        require(self.experts >= 0, "tower.experts", self.experts, "0 or more")
        if self.activity is not None:
            require(0 < self.activity <= 1, "tower.activity", self.activity, "above 0 and at most 1, or None")
        require(self.hidden >= 1, "tower.hidden", self.hidden, "at least 1")
        require(self.out >= 1, "tower.out", self.out, "at least 1")
        require(self.gate_floor >= 0, "tower.gate_floor", self.gate_floor, "0 or more")


LinearName = Literal["input", "query", "key_value", "attention_out", "ffn_in", "ffn_out"]


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Low-rank adapters on the backbone's linears (the satisfaction pathway's own parameters)."""

    rank: int = 8
    """Rank r of each adapter."""
    alpha: float = 8.0
    """The adapter's product B A is scaled by alpha / rank."""
    targets: tuple[LinearName, ...] = ("input", "query", "key_value", "attention_out", "ffn_in", "ffn_out")
    """Which linears carry an adapter; the others are constants of the satisfaction stream. So an adapter learns only
    if those behind it on the way to the tower have one as well: query and key_value need attention_out, ffn_in needs
    ffn_out."""

    def __post_init__(self) -> None:
        require(self.rank >= 1, "model.lora.rank", self.rank, "at least 1")
        require(self.alpha > 0, "model.lora.alpha", self.alpha, "more than 0")
        allowed = typing.get_args(LinearName)
        for target in self.targets:
            require(target in allowed, "model.lora.targets", target, f"one of {allowed}")


@dataclass(frozen=True, kw_only=True)
class Model:
    """The request-level Transformer and its towers (sizes of section 4 of the architecture guide)."""

    dim: int = 64
    """Width d of a token."""
    heads: int = 4
    """Attention heads."""
    layers: int = 2
    """Transformer blocks."""
    ffn: int = 256
    """Hidden width of a block's feed-forward net."""
    main: Tower = Tower(experts=6)
    """Main tower: its output is the policy score that is served."""
    satisfaction: Tower | None = Tower(experts=2)
    """Satisfaction tower: its output is the reference score. None: no satisfaction pathway at all."""
    lora: LoRA | None = LoRA()
    """Adapters. None: the satisfaction tower reads the main representation as a constant."""
    isolate_embeddings: bool = True
    """True: the satisfaction loss does not reach the embeddings; False: it does, through the adapters (the paper)."""
    pathway: Literal["adapters", "shared"] = "adapters"
    """What the satisfaction loss may move. adapters: its own pathway alone (EASQ). shared: backbone and embeddings like
    the main loss, which is multi-task learning by hard sharing."""
    shared_experts: int = 0
    """Experts that both towers mix besides their own ones, by gates of their own; needs the shared pathway."""

    @property
    def towers(self) -> dict[str, Tower]:
        """The towers that there are, by name."""
        return {"main": self.main} | ({"satisfaction": self.satisfaction} if self.satisfaction is not None else {})

    def __post_init__(self) -> None:
        require(self.dim >= 1 and self.heads >= 1, "model.dim", self.dim, "at least 1")
        require(self.dim % self.heads == 0, "model.heads", self.heads, f"a divisor of model.dim={self.dim}")
        require(self.layers >= 1, "model.layers", self.layers, "at least 1")
        require(self.ffn >= 1, "model.ffn", self.ffn, "at least 1")
        require(self.shared_experts >= 0, "model.shared_experts", self.shared_experts, "0 or more")
        for name, tower in self.towers.items():
            allowed = "at least 1 without model.shared_experts"
            require(tower.experts + self.shared_experts >= 1, f"model.{name}.experts", tower.experts, allowed)
        if self.pathway == "shared":
            require(self.lora is None, "model.lora", self.lora, "None in the shared pathway, which has no adapters")
            isolated = self.isolate_embeddings
            require(not isolated, "model.isolate_embeddings", isolated, "False in the shared pathway")
        elif self.satisfaction is not None:
            allowed = "0 unless model.pathway='shared': the satisfaction loss must not move what the main tower uses"
            require(self.shared_experts == 0, "model.shared_experts", self.shared_experts, allowed)
        if self.shared_experts and self.satisfaction is not None:
            widths = (self.satisfaction.hidden, self.satisfaction.out)
            allowed = f"({self.main.hidden}, {self.main.out}) as in the main tower, since both mix the shared experts"
            require(widths == (self.main.hidden, self.main.out), "model.satisfaction: (hidden, out)", widths, allowed)


# ---------------------------------------------------------------------------------------------------------------------
# Losses, replay


@dataclass(frozen=True, kw_only=True)
class Losses:
    """L = L_main + satisfaction L_satis + evidence L_evidence + dpo L_DPO + dense L_dense + direct L_direct."""

    satisfaction: float = 1.0
    """Weight of the pairwise satisfaction loss on answered pairs (lambda 1)."""
    evidence: float = 0.0
    """Weight of L_evidence, in which outcomes speak for or against satisfaction, each as far as the answers so far bear
    it out; 0 switches it off."""
    evidence_caution: float = 1.64
    """Standard errors that an outcome's weight of evidence must be away from zero to count (1.64: 90% confidence)."""
    dpo: float = 0.0
    """Weight of the DPO loss against the online reference on answered pairs (lambda 2); 0 switches it off."""
    dense: float = 0.3
    """Weight of L_dense, in which the reference annotates every pair of a request (lambda 3); 0 switches it off."""
    align_every: int = 1
    """Steps from one that aligns to the next; those between train L_main alone and cost what they cost without
    alignment. All other losses weigh as many times more, which is as much over all steps."""
    dense_temperature: float = 1.0
    """Divides the differences of reference scores that L_dense takes for preferences: above 1 they are softer."""
    direct: float = 0.0
    """Weight of the pairwise answer loss on the policy score itself, a baseline without a reference; 0: none."""
    policy: Literal["score_difference", "slate_softmax", "bernoulli"] = "slate_softmax"
    """What log pi means in the DPO loss. score_difference is the paper's literal form."""
    beta: float = 1.0
    """Temperature of the DPO loss (the paper uses 0.1 with score_difference)."""
    dense_warmup_steps: int = 100
    """Steps before L_dense and L_DPO set in, while the reference learns its first answers."""
    warmup_answers: int = 0
    """Answers that must have been admitted before L_dense and L_DPO set in."""
    reference_smoothing: float = 0.0
    """The reference score comes from an exponential moving average of the satisfaction tower, which keeps this share of
    itself per step; 0: from the tower as it is."""
    divergence_bound: float | None = None
    """Mean KL of sigmoid(policy score) from sigmoid(reference score), in nats, above which the weights of L_DPO and
    L_dense are lowered by bound / KL for the step; None: they stay."""
    uncertain: Literal["ignore", "between"] = "ignore"
    """Whether `uncertain` answers form no pairs or rank between the other two."""

    @property
    def rankable(self) -> tuple[int, ...]:
        """Answer codes that take part in pairs."""
        return (0, 1, 2) if self.uncertain == "between" else (0, 2)

    @property
    def needs_slates(self) -> bool:
        """Whether an answered candidate is compared with the other candidates of its request."""
        return self.dpo > 0 and self.policy == "slate_softmax"

    def __post_init__(self) -> None:
        for name in ("satisfaction", "evidence", "evidence_caution", "dpo", "dense", "direct"):
            require(getattr(self, name) >= 0, f"losses.{name}", getattr(self, name), "0 or more")
        require(self.beta > 0, "losses.beta", self.beta, "more than 0")
        require(self.dense_temperature > 0, "losses.dense_temperature", self.dense_temperature, "more than 0")
        require(self.align_every >= 1, "losses.align_every", self.align_every, "at least 1")
        require(self.dense_warmup_steps >= 0, "losses.dense_warmup_steps", self.dense_warmup_steps, "0 or more")
        require(self.warmup_answers >= 0, "losses.warmup_answers", self.warmup_answers, "0 or more")
        smoothing = self.reference_smoothing
        require(0 <= smoothing < 1, "losses.reference_smoothing", smoothing, "from 0 to less than 1")
        if self.divergence_bound is not None:
            require(self.divergence_bound > 0, "losses.divergence_bound", self.divergence_bound, "above 0, or None")


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The buffer of answered requests from which every batch takes some."""

    answers_per_step: int = 16
    """Answers appended to each rank's batch, with their requests, in a step that aligns (losses.align_every)."""
    capacity: int = 65_536
    """Most recent answers kept."""
    max_replays: int = 1_000
    """How often one answer may be replayed."""
    shuffled: bool = False
    """True: a control, in which every answer is that of another candidate, so that nothing can be learnt from any."""
    balance: bool = False
    """True: a draw has equally many answers of each class, as far as there are enough; False: as they come."""

    def __post_init__(self) -> None:
        require(self.answers_per_step >= 1, "replay.answers_per_step", self.answers_per_step, "at least 1")
        require(self.capacity >= 1, "replay.capacity", self.capacity, "at least 1")
        require(self.max_replays >= 1, "replay.max_replays", self.max_replays, "at least 1")
