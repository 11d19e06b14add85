"""What a loss is to the objective: a term of a sum.

`RequestTerm` compares candidates of one request; their number of pairs is known from labels, before the network runs.
`AnswerTerm` compares answered candidates of all requests and ranks, which exchange one value per answer.

Legend: R requests, C candidates (padded), N candidates, A answers of this rank.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from easq_rec.config import Losses
from easq_rec.data.batch import RequestBatch
from easq_rec.losses.pairs import RequestPairs, margins
from easq_rec.model.network import NetworkOutput


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """What the losses of one step read. Padded tensors are made once, when the first loss asks for them."""

    output: NetworkOutput
    batch: RequestBatch
    pairs: RequestPairs

    @cached_property
    def policy_RC(self) -> Tensor:
        """Policy scores of all scored requests, zeros at padding."""
        return self.output.candidates.pad(self.output.main.score_N[:, None]).squeeze(-1)

    @cached_property
    def reference_RC(self) -> Tensor:
        """Reference scores of the same candidates, constants."""
        assert self.output.reference is not None
        return self.output.candidates.pad(self.output.reference.score_N[:, None]).squeeze(-1)

    @cached_property
    def mask_RC(self) -> Tensor:
        """True at candidates, False at padding."""
        return self.output.candidates.mask()

    @property
    def stream_policy_RC(self) -> Tensor:
        """Policy scores of the stream's requests."""
        return self.policy_RC[: self.batch.stream.requests]

    @property
    def stream_reference_RC(self) -> Tensor:
        """Reference scores of the stream's requests, constants."""
        return self.reference_RC[: self.batch.stream.requests]

    @cached_property
    def margin_RCC(self) -> Tensor:
        """`margins` of the stream's policy scores."""
        return margins(self.stream_policy_RC)


class RequestTerm(ABC):
    """A loss over candidates of the same request."""

    @abstractmethod
    def count(self, pairs: RequestPairs) -> Tensor:
        """Number of this rank's comparisons, an int64 scalar. The sum over ranks divides `total`."""

    @abstractmethod
    def total(self, inputs: LossInputs) -> Tensor:
        """Sum of the loss over this rank's comparisons, a scalar."""


class AnswerTerm(ABC):
    """A pairwise logistic loss over answered candidates, across requests and ranks."""

    @abstractmethod
    def values(self, inputs: LossInputs) -> Tensor:
        """What is compared of this rank's answered candidates, differentiable, (A,). Higher is better."""


Term = RequestTerm | AnswerTerm


def terms_of(losses: Losses) -> dict[str, Term]:
    """The terms of the losses in force, by name."""
    return {name: pkgutil.resolve_name(loss.term)(loss) for name, loss in losses.in_force.items()}
