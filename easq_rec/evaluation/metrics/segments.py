"""Items sorted within segments: the common basis of NDCG, AUC and pair counts.

Memory and time are linear in N (after one sort) for segments of any sizes. See `easq_rec.evaluation.metrics` for the
shape suffixes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DIGIT_BITS = 3
"""Bits per digit: levels are compared by digit, so that the table of `won_pairs` has at most 8 rows. Grades need one
or two digits."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """Items sorted by segment, and within a segment by descending value. A place is a position in that order."""

    item_N: Tensor
    """The item at each place (int64)."""
    segment_N: Tensor
    """The segment of this item, as an ascending dense id."""
    value_N: Tensor
    first_N: Tensor
    """First place of the items that tie with this item, itself included."""
    end_N: Tensor
    """Place after the last of these ties."""
    start_S1: Tensor
    """First place of each segment; N at the end."""

    @staticmethod
    def of(value_N: Tensor, segment_N: Tensor, segments: int) -> Order:
        """Sorts items. `segment_N` has dense ids 0..segments-1 in any order; values must not be NaN."""
        item_N = descending_within_segments(value_N, segment_N)
        return Order.of_sorted(item_N, value_N[item_N], segment_N[item_N], segments)

    @staticmethod
    def of_sorted(item_N: Tensor, value_N: Tensor, segment_N: Tensor, segments: int) -> Order:
        """Finds segments and ties of sorted items."""
        items, device = item_N.numel(), item_N.device
        opens_N = torch.ones(items, dtype=torch.bool, device=device)
        opens_N[1:] = (value_N[1:] != value_N[:-1]) | (segment_N[1:] != segment_N[:-1])
        first_G = opens_N.nonzero().squeeze(1)
        if first_G.numel() == items:  # no ties
            first_N, end_N = first_G, first_G + 1
        else:
            group_N = opens_N.cumsum(0) - 1
            end_G = torch.cat([first_G[1:], first_G.new_full((min(items, 1),), items)])
            first_N, end_N = first_G[group_N], end_G[group_N]
        start_S1 = torch.zeros(segments + 1, dtype=torch.int64, device=device)
        torch.cumsum(torch.bincount(segment_N, minlength=segments), 0, out=start_S1[1:])
        return Order(
            item_N=item_N, segment_N=segment_N, value_N=value_N, first_N=first_N, end_N=end_N, start_S1=start_S1
        )

    @property
    def segments(self) -> int:
        return self.start_S1.numel() - 1

    def only(self, kept_N: Tensor) -> Order:
        """The items at the kept places, in the same order; `item_N` still refers to the original items."""
        if bool(kept_N.all()):
            return self
        return Order.of_sorted(self.item_N[kept_N], self.value_N[kept_N], self.segment_N[kept_N], self.segments)


def won_pairs(order: Order, level_N: Tensor) -> tuple[Tensor, Tensor]:
    """Counts, for the item at each place, the items of its segment that it should beat, and those that it does beat.

    Args:
        order: items by segment and descending score.
        level_N: int64, 0 or more, of the item at each place: an item should beat those of lower level.

    Returns:
        (won_N, pairs_N), float64, by place: items of lower level and lower score (a tie in the score counts half);
        items of lower level.

    The highest differing digit decides a pair of levels: among items of a segment with equal higher digits, the pairs
    that a digit decides are counted from running sums.
    """
    items = level_N.numel()
    won_N = torch.zeros(items, dtype=torch.float64, device=level_N.device)
    pairs_N = torch.zeros_like(won_N)
    if not items:
        return won_N, pairs_N
    place_N: Tensor | None = None  # of the item in the given order; None: the same place
    top = max(int(level_N.max()).bit_length() - 1, 0) // DIGIT_BITS * DIGIT_BITS
    for shift in range(top, -1, -DIGIT_BITS):
        digit_N = (level_N >> shift) & (2**DIGIT_BITS - 1)
        won, pairs = _won_by_digit(order, digit_N)
        if place_N is None:
            won_N, pairs_N = won, pairs
        else:
            won_N.index_add_(0, place_N, won)
            pairs_N.index_add_(0, place_N, pairs)
        if shift:
            # Later digits compare only items with equal digits so far. The sort keeps the order of the scores.
            narrower_N = (order.segment_N << DIGIT_BITS) + digit_N
            by_N = narrower_N.argsort(stable=True)
            _, segment_N = torch.unique_consecutive(narrower_N[by_N], return_inverse=True)
            level_N = level_N[by_N]
            place_N = by_N if place_N is None else place_N[by_N]
            segments = int(segment_N[-1]) + 1
            order = Order.of_sorted(order.item_N[by_N], order.value_N[by_N], segment_N, segments)
    return won_N, pairs_N


def _won_by_digit(order: Order, digit_N: Tensor) -> tuple[Tensor, Tensor]:
    """`won_pairs` for levels of one digit."""
    items = digit_N.numel()
    digits = int(digit_N.max()) + 1
    # below[d, n]: items with a digit lower than d at the places before n.
    below = torch.zeros(digits, items + 1, dtype=torch.int32, device=digit_N.device)
    lower = digit_N.to(torch.int8) < torch.arange(digits, dtype=torch.int8, device=digit_N.device)[:, None]
    torch.cumsum(lower, 1, dtype=torch.int32, out=below[:, 1:])
    flat, row_N = below.flatten(), digit_N * (items + 1)
    last_N = flat[row_N + order.start_S1[1:][order.segment_N]]
    begin_N = flat[row_N + order.start_S1[:-1][order.segment_N]]
    # Later items have a lower score.
    tied = flat[row_N + order.first_N].double() + flat[row_N + order.end_N]
    return last_N - tied / 2, (last_N - begin_N).double()


def levels(truth_N: Tensor) -> Tensor:
    """Dense levels (int64, from 0) in the order of the truths, which must not be NaN."""
    whole_N = truth_N.long()
    if truth_N.numel() and bool(((whole_N == truth_N) & (whole_N >= 0) & (whole_N < 64)).all()):
        return whole_N  # grades are levels
    return torch.unique(truth_N, return_inverse=True)[1]


def descending_within_segments(value_N: Tensor, segment_N: Tensor) -> Tensor:
    """Permutation that sorts by segment, and within a segment by descending value (ties in any order)."""
    narrow_N = value_N.float()
    if value_N.is_floating_point() and torch.equal(narrow_N.to(value_N.dtype), value_N):
        # Segment and value fit one integer: one sort instead of two stable ones. The bits of an IEEE float order like
        # its magnitude, and flipping the bits of negatives orders them too (-0.0 is just below 0.0, which suffices for
        # equal values).
        bits_N = narrow_N.view(torch.int32)
        ascending_N = bits_N ^ ((bits_N >> 31) & 0x7FFFFFFF)
        return _argsort((segment_N << 32) - ascending_N.long())
    order_N = value_N.argsort(descending=True, stable=True)
    return order_N[segment_N[order_N].argsort(stable=True)]


def _argsort(key_N: Tensor) -> Tensor:
    # On the CPU numpy's vectorised sort takes a fifth of the time of torch's.
    return torch.from_numpy(key_N.numpy().argsort()) if key_N.device.type == "cpu" else key_N.argsort()


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def request_of(lengths_R: Tensor, **value_N: Tensor) -> Tensor:
    """Request index of each candidate, (N,) int64, after checking that the lengths describe the values."""
    if bool((lengths_R < 0).any()):
        raise ValueError(f"lengths_R contains {int(lengths_R.min())}: candidates per request must be 0 or more")
    items = int(lengths_R.sum())
    same_size(items, "the sum of lengths_R", **value_N)
    request_R = torch.arange(lengths_R.numel(), device=lengths_R.device)
    return request_R.repeat_interleave(lengths_R, output_size=items)


def same_size(items: int, owner: str, **values: Tensor) -> None:
    """Raises ValueError if the shape of a value is not (items,)."""
    for name, value in values.items():
        if value.shape != (items,):
            raise ValueError(f"{name} has shape {tuple(value.shape)}, but {owner} requires ({items},)")


def checked_score(score_N: Tensor) -> Tensor:
    """The detached scores. Raises ValueError if one is NaN."""
    # A diverged model must not count as a ranking: a sort would put NaN first, a comparison would count it as lost.
    score_N = score_N.detach()
    if (unknown := int(score_N.isnan().count_nonzero())) > 0:
        first = int(score_N.isnan().nonzero()[0])
        raise ValueError(f"score_N has {unknown} NaN of {score_N.numel()} (the first at {first}): NaN cannot be ranked")
    return score_N


def checked_gain(name: str, gain_N: Tensor) -> Tensor:
    """The gains. Raises ValueError if one is negative or not finite."""
    allowed_N = (gain_N >= 0) & (gain_N < float("inf"))  # NaN is neither
    if not bool(allowed_N.all()):
        first = int((~allowed_N).nonzero()[0])
        raise ValueError(f"{name} is {float(gain_N[first])} at {first}: it must be finite, and 0 or more")
    return gain_N
