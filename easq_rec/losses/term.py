"""What a loss is to the objective: a term of a sum.

`RequestTerm` compares candidates of one group, which is a request, or the requests of a user; their number of pairs is
known from labels, before the network runs.
`AnswerTerm` compares answered candidates of all requests and ranks, which exchange one value per answer.

Legend: G groups, C candidates (padded), N candidates, A answers of this rank.
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
    def policy_GC(self) -> Tensor:
        """Policy scores of the stream's candidates, zeros at padding."""
        return self.pairs.groups.pad(self.output.main.score_N)

    @cached_property
    def reference_GC(self) -> Tensor:
        """Reference scores of the same candidates, constants."""
        assert self.output.reference is not None
        return self.pairs.groups.pad(self.output.reference.score_N)

    @cached_property
    def margin_GCC(self) -> Tensor:
        """`margins` of the stream's policy scores."""
        return margins(self.policy_GC)


class RequestTerm(ABC):
    """A loss over candidates of the same group: a request, or the requests of a user (`losses.groups`)."""

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
