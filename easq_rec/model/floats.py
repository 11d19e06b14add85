"""How float features enter the network: standardised, or in pieces between quantiles.

An embedding starts with values of about 0.05. Next to it, a raw number such as a log duration of 9.9 would take up
almost all of a normalised vector and differ little between candidates.

Legend: F numbers of the features, G numbers that the network reads, K numbers in pieces, Q pieces, E = Q + 1 edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from easq_rec.config.schema import Feature

LIMIT = 5.0
"""A standardised number is clipped to this many standard deviations, so that an outlier cannot dominate a batch."""
SMALLEST = torch.finfo(torch.float32).tiny
"""Divides by an empty piece. A larger constant, such as 1e-6, would flatten a feature whose values are all small."""


@dataclass(frozen=True, kw_only=True)
class EncodedFloats:
    """The float features of a batch, encoded. Their width is 0 where a group has none."""

    user_RF: Tensor
    history_HF: Tensor
    candidate_NF: Tensor


class FloatEncoder(nn.Module):
    """(..., F) to (..., G), with statistics that are part of the checkpoint.

    The overall rate of a count is left out: it is the same for all candidates of a time. `standard` numbers are
    (x - mean) / deviation. `raw` numbers stay as they are. A number in `quantiles` becomes Q
    numbers (piecewise linear encoding, Gorishniy et al. 2022): number q rises from 0 to 1 between the edges q and
    q + 1, so that a linear layer can represent any function that is linear between the edges.

    Until `fit` is called, the mean is 0, the deviation is 1, and the edges divide the range from -2 to 2.

    Args:
        quantiles: Q.
    """

    mean_F: Tensor
    deviation_F: Tensor
    limit_F: Tensor
    edges_KE: Tensor
    plain_F: Tensor
    pieces_K: Tensor

    def __init__(self, features: tuple[Feature, ...], quantiles: int) -> None:
        super().__init__()
        self.encodings = [encoding for feature in features for encoding in _encodings(feature)]
        """How each number is encoded; None: it is left out."""
        count = len(self.encodings)
        pieces = [index for index, encoding in enumerate(self.encodings) if encoding == "quantiles"]
        plain = [index for index, encoding in enumerate(self.encodings) if encoding in ("standard", "raw")]
        self.width = len(plain) + len(pieces) * quantiles
        # Without features there is nothing to save.
        self.register_buffer("mean_F", torch.zeros(count), persistent=count > 0)
        self.register_buffer("deviation_F", torch.ones(count), persistent=count > 0)
        edges_KE = torch.linspace(-2.0, 2.0, quantiles + 1).repeat(len(pieces), 1)
        self.register_buffer("edges_KE", edges_KE, persistent=bool(pieces))
        limits = [LIMIT if encoding == "standard" else math.inf for encoding in self.encodings]
        self.register_buffer("limit_F", torch.tensor(limits), persistent=False)
        self.register_buffer("plain_F", torch.tensor(plain, dtype=torch.int64), persistent=False)
        self.register_buffer("pieces_K", torch.tensor(pieces, dtype=torch.int64), persistent=False)

    def forward(self, value_F: Tensor) -> Tensor:
        scaled_F = ((value_F - self.mean_F) / self.deviation_F).clamp(-self.limit_F, self.limit_F)
        if len(self.plain_F) == len(self.encodings):
            return scaled_F
        plain_F = scaled_F[..., self.plain_F]
        if not len(self.pieces_K):
            return plain_F
        low_KQ, high_KQ = self.edges_KE[:, :-1], self.edges_KE[:, 1:]
        above_KQ = value_F[..., self.pieces_K, None] - low_KQ
        # Frequent values make equal edges. The piece between them is a step.
        piece_KQ = (above_KQ / (high_KQ - low_KQ).clamp(min=SMALLEST)).clamp(0.0, 1.0)
        return torch.cat([plain_F, piece_KQ.flatten(-2)], dim=-1)

    @torch.no_grad()
    def fit(self, values_NF: NDArray[np.float32]) -> None:
        """Sets the statistics from N examples, the same on every CPU; N = 0 changes nothing."""
        if not len(values_NF):
            return
        edge = 0
        for index, encoding in enumerate(self.encodings):
            column = values_NF[:, index].astype(np.float64)
            if encoding == "standard":
                # fsum rounds once, so the result does not depend on the order of a CPU's sums.
                mean = math.fsum(column) / len(column)
                deviation = math.sqrt(math.fsum((column - mean) ** 2) / len(column))
                self.mean_F[index] = mean
                # A constant column becomes 0.
                self.deviation_F[index] = deviation or 1.0
            elif encoding == "quantiles":
                count = self.edges_KE.shape[1]
                ranks = np.arange(count) * (len(column) - 1) // (count - 1)
                self.edges_KE[edge] = torch.from_numpy(np.sort(column)[ranks])
                edge += 1


def _encodings(feature: Feature) -> list[str | None]:
    """Of each number of a feature."""
    if feature.kind == "count":
        return [feature.encoding, feature.encoding, None]
    return [feature.encoding] * feature.numbers
