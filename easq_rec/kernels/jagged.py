"""Conversion between lists of different lengths, stored one after the other, and padded tensors.

Legend: R lists, L the longest, M entries of all lists, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

# Importing fbgemm_gpu registers torch.ops.fbgemm.
import fbgemm_gpu  # noqa: F401
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Lists:
    """The shape of R lists. Its numbers are on the host, so that no operation waits for the device."""

    traced: ClassVar[bool] = False
    """Whether the numbers are symbols of a traced program, on which nothing may depend but shapes."""

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

    def spread(self, x_RK: Tensor) -> Tensor:
        """One value of each list to each of its entries, (R, ...) to (M, ...)."""
        return x_RK.repeat_interleave(self.offsets_R1.diff(), dim=0, output_size=self.total)

    def mask(self) -> Tensor:
        """(R, L), True at entries, False at padding."""
        position_L = torch.arange(self.longest, device=self.offsets_R1.device)
        return position_L < self.offsets_R1.diff()[:, None]


@dataclass(frozen=True, kw_only=True)
class TracedLists(Lists):
    """Lists of a traced program: the same conversions in operators whose shapes depend only on shapes of inputs.

    L is the number of slots that the caller gives, at least as long as the longest list; of a longer list, the last L
    entries count.
    """

    traced: ClassVar[bool] = True

    owner_M: Tensor
    """The list of each entry."""

    @staticmethod
    def of(length_R: Tensor, entries: Tensor, slots: Tensor) -> TracedLists:
        """Lists of these lengths.

        Args:
            entries: any tensor (M, ...); only M is read.
            slots: any tensor (L,); only L is read.
        """
        offsets_R1 = torch.cat([length_R.new_zeros(1), length_R.cumsum(0)])
        total = entries.shape[0]
        place_M = torch.arange(total, device=length_R.device)
        return TracedLists(
            offsets_R1=offsets_R1,
            count=length_R.shape[0],
            total=total,
            longest=slots.shape[0],
            owner_M=torch.bucketize(place_M, offsets_R1[1:], right=True),
        )

    @property
    def full(self) -> bool:
        return False

    def pad(self, x_MD: Tensor) -> Tensor:
        kept_R1 = self.offsets_R1.diff().clamp(max=self.longest)[:, None]
        slot_L = torch.arange(self.longest, device=x_MD.device)
        place_RL = self.offsets_R1[1:, None] - kept_R1 + slot_L
        # A row of zeros behind the entries is the padding.
        place_RL = torch.where(slot_L < kept_R1, place_RL, self.total)
        return torch.cat([x_MD, x_MD.new_zeros(1, x_MD.shape[1])])[place_RL]

    def flatten(self, x_RLD: Tensor) -> Tensor:
        place_M = torch.arange(self.total, device=x_RLD.device) - self.spread(self.offsets_R1[:-1])
        return x_RLD.flatten(0, 1)[self.owner_M * self.longest + place_M]

    def spread(self, x_RK: Tensor) -> Tensor:
        return x_RK[self.owner_M]
