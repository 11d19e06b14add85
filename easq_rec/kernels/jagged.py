"""Conversion between lists of different lengths, stored one after the other, and padded tensors.

Legend: R lists, L the longest, M entries of all lists, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

# Importing fbgemm_gpu registers torch.ops.fbgemm.
import fbgemm_gpu  # noqa: F401
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Lists:
    """The shape of R lists. Its numbers are on the host, so that no operation waits for the device."""

    offsets_R1: Tensor
    """Where each list begins, and where the last one ends."""
    count: int
    """R."""
    total: int
    """M."""
    longest: int
    """L."""

    @property
    def full(self) -> bool:
        """Whether all lists have the same length, so that padding is a reshape."""
        return self.total == self.count * self.longest

    def pad(self, x_MD: Tensor) -> Tensor:
        """(M, D) to (R, L, D), with zeros after the end of each list."""
        if self.full:
            return x_MD.reshape(self.count, self.longest, x_MD.shape[-1])
        padded: Tensor = torch.ops.fbgemm.jagged_to_padded_dense(x_MD, [self.offsets_R1], [self.longest], 0.0)
        return padded

    def flatten(self, x_RLD: Tensor) -> Tensor:
        """(R, L, D) to (M, D), without the padding."""
        if self.full:
            return x_RLD.reshape(self.total, x_RLD.shape[-1])
        flat: Tensor = torch.ops.fbgemm.dense_to_jagged(x_RLD, [self.offsets_R1], self.total)[0]
        return flat

    def mask(self) -> Tensor:
        """(R, L), True at entries, False at padding."""
        position_L = torch.arange(self.longest, device=self.offsets_R1.device)
        return position_L < self.offsets_R1.diff()[:, None]
