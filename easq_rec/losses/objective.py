"""The weighted sum of the losses: a fold over their terms.

Legend: N candidates, A answers of this rank, B answers of all ranks, X losses over answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from easq_rec.config import Losses
from easq_rec.config.answer_scale import NO_ANSWER
from easq_rec.config.losses import Loss
from easq_rec.data.batch import RequestBatch
from easq_rec.losses.answered import answered_pairs, better_answers
from easq_rec.losses.comparison import CountedPairs
from easq_rec.losses.divergence import bernoulli_kl
from easq_rec.losses.ranks import Pending, Ranks
from easq_rec.losses.term import AnswerTerm, LossInputs, RequestTerm, Term
from easq_rec.model.network import NetworkOutput

ANSWERED = "answered"
"""Name of the pairs that all losses over answers share."""


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """Constants of one training step. A loss is this rank's part: their sum over ranks is the mean over all pairs."""

    loss: Tensor
    """What is differentiated, scaled for the mean of gradients over ranks."""
    losses: dict[str, Tensor]
    """Each loss by its name in the config (`main`, `satisfaction`, `dpo`, ...), before its weight."""
    pairs: dict[str, Tensor]
    """Number of comparisons over all ranks, by the name of a loss over requests, and `answered` for those over
    answers."""
    divergence: Tensor | None
    """Mean KL of sigmoid(policy score) from sigmoid(reference score) over all ranks; None without
    `losses.divergence_bound`."""
    network: NetworkOutput


class Objective(nn.Module):
    """The weighted sum of the losses, each normalised by its pairs over all ranks.

    So W ranks on B / W requests each have the gradient of one rank on B requests.

    Args:
        terms: the losses in force, by name.
        slots: answers per rank and step at most; all ranks exchange that many values.
    """

    def __init__(
        self,
        config: Losses,
        terms: Mapping[str, Term],
        *,
        slots: int,
        ranks: Ranks,
    ) -> None:
        super().__init__()
        self.config = config
        self.losses = config.terms
        self.terms = dict(terms)
        self.slots = slots
        self.ranks = ranks

    def forward(
        self, output: NetworkOutput, batch: RequestBatch, pairs: CountedPairs, *, steered: bool = True
    ) -> StepOutput:
        """
        Args:
            steered: whether the losses by which the reference moves the policy take effect; False during the warm-up.
        """
        inputs = LossInputs(output=output, batch=batch, pairs=pairs.pairs)
        due = {name: term for name, term in self.terms.items() if self._is_due(self.losses[name], output, batch)}
        moving = {name: term for name, term in due.items() if steered or not self.losses[name].steers}
        # Answers travel between the ranks while the losses over requests are computed.
        values_A = {name: term.values(inputs) for name, term in moving.items() if isinstance(term, AnswerTerm)}
        weight_A = self._weights(values_A, batch)
        values_B = self._start_exchange(values_A, weight_A, batch.answer_A) if values_A else None
        sums = {name: term.total(inputs) for name, term in moving.items() if isinstance(term, RequestTerm)}
        counts = pairs.counts()
        means = {name: total / counts[name].clamp(min=1) for name, total in sums.items()}
        if values_B is not None:
            answered, counts[ANSWERED] = self._answered(values_A, weight_A, batch.answer_A, values_B())
            means |= answered
        divergence = self._divergence(output, batch.stream.candidates)
        if divergence is not None and self.config.divergence_bound is not None:
            lowered = (self.config.divergence_bound / divergence).clamp(max=1.0)
            means = {name: mean * lowered if self.losses[name].steers else mean for name, mean in means.items()}
        zero = output.main.score_N.new_zeros(())
        # The order of the config, in which floating-point sums are reproducible.
        parts = {name: means.get(name, zero) for name in due}
        loss = sum((self._weight(self.losses[name]) * parts[name] for name in moving), start=zero)
        return StepOutput(
            loss=loss * self.ranks.size,
            losses={name: part.detach() for name, part in parts.items()},
            pairs=counts,
            divergence=divergence,
            network=output,
        )

    @staticmethod
    def _is_due(loss: Loss, output: NetworkOutput, batch: RequestBatch) -> bool:
        """Whether the step computes a loss."""
        return loss.every_step or (batch.aligned and (output.reference is not None or not loss.reference))

    def _weight(self, loss: Loss) -> float:
        """Losses that are computed only in aligned steps are scaled by `align_every`."""
        return loss.weight if loss.every_step else self.config.align_every * loss.weight

    def _weights(self, values_A: dict[str, Tensor], batch: RequestBatch) -> Tensor | None:
        """Weights of this rank's answers, if a loss weighs them; on all ranks or on none."""
        if not any(self.losses[name].weighs_answers for name in values_A):
            return None
        if batch.answer_weight_A is not None:
            return batch.answer_weight_A
        assert not len(batch.answer_A), "losses weigh answers, but the batch has no weights"
        return batch.outcome_NO.new_zeros(0)

    def _start_exchange(self, values_A: dict[str, Tensor], weight_A: Tensor | None, label_A: Tensor) -> Pending:
        """Starts to gather the values of all ranks' answers with their weights, if any, and labels, (X + 1 or 2, B)."""
        given = [*values_A.values(), *([weight_A] if weight_A is not None else []), label_A]
        rows = [row.to(given[0].dtype) for row in given]
        return self.ranks.start_gather(torch.stack(rows).detach(), self.slots, NO_ANSWER)

    def _answered(
        self, values_A: dict[str, Tensor], weight_A: Tensor | None, label_A: Tensor, rows_XB: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """(mean of each loss over answered pairs, number of pairs), from the gathered rows."""
        *values_B, label_B = rows_XB
        weights = (weight_A, values_B.pop()) if weight_A is not None else None
        means, pairs = {}, label_A.new_zeros(())
        for (name, value_A), value_B in zip(values_A.items(), values_B, strict=True):
            if weights is not None and self.losses[name].weighs_answers:
                total, weight = answered_pairs(value_A, label_A, value_B, label_B, weights)
                # The weight of all pairs may lie between 0 and 1.
                means[name], pairs = total / torch.where(weight > 0, weight, 1.0), better_answers(label_B).sum()
            else:
                total, pairs = answered_pairs(value_A, label_A, value_B, label_B)
                means[name] = total / pairs.clamp(min=1)
        return means, pairs

    def _divergence(self, output: NetworkOutput, candidates: int) -> Tensor | None:
        """Mean over the stream's candidates of all ranks."""
        if output.reference is None or self.config.divergence_bound is None:
            return None
        policy_N, reference_N = output.main.score_N[:candidates].detach(), output.reference.score_N[:candidates]
        total = bernoulli_kl(policy_N, reference_N).sum()
        total, count = self.ranks.sum(torch.stack([total, total.new_full((), float(candidates))]))
        return total / count.clamp(min=1)
