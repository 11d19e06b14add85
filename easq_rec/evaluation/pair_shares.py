"""How much of a label belongs to the item and how much to the user: shares of its variance, from pairs of impressions.

The share of the item is the mean product of the centred labels over all pairs of impressions of the same item by
different users, divided by the variance of the label; the share of the user is the same over pairs of the same user
and different items. Neither needs a model, and independent noise of the labels has a share of 0. Shares are not bounded
by 0 from below: with few pairs they can be negative by chance.

Shapes: N impressions.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from easq_rec.errors import UserError

Floats = NDArray[np.float64]


class PairShares(NamedTuple):
    """Shares of a label's variance; NaN without such pairs, or if the label does not vary."""

    item: float
    user: float


def pair_shares(label_N: NDArray[Any], item_N: NDArray[Any], user_N: NDArray[Any]) -> PairShares:
    """Shares of the variance of a label by pairs of impressions, in time and memory of a sort.

    Args:
        label_N: the label of each impression, for example 0 or 1.
        item_N: the item of each impression: any integers or texts.
        user_N: its user.

    Raises:
        UserError: the arrays differ in length, are empty, or a label is not finite.
    """
    lengths = {"labels": len(label_N), "items": len(item_N), "users": len(user_N)}
    if len(set(lengths.values())) > 1 or not len(label_N):
        raise UserError(f"pair shares: {lengths}: give one item and one user per label, and at least one label")
    label = np.asarray(label_N, dtype=np.float64)
    if not np.isfinite(label).all():
        raise UserError(f"pair shares: {np.count_nonzero(~np.isfinite(label))} labels are not finite: leave them out")
    centred = label - label.mean()
    square = centred * centred
    variance = float(square.mean())
    # A label that does not vary has a variance of rounding errors only.
    constant = bool((label == label[0]).all())
    item, user = (np.unique(key, return_inverse=True)[1] for key in (item_N, user_N))
    both = np.unique(item * (int(user.max()) + 1) + user, return_inverse=True)[1]
    repeated = _same_key(centred, square, both)

    def share(key: NDArray[np.int64]) -> float:
        product, count = (same - again for same, again in zip(_same_key(centred, square, key), repeated, strict=True))
        return math.nan if constant or not count else product / count / variance

    return PairShares(item=share(item), user=share(user))


def _same_key(centred: Floats, square: Floats, key: NDArray[np.int64]) -> tuple[float, float]:
    """(sum of the products of labels, number) of ordered pairs of different impressions with the same key."""
    count = np.bincount(key).astype(np.float64)
    total = np.bincount(key, weights=centred)
    product = (total * total).sum() - square.sum()
    return float(product), float((count * (count - 1)).sum())
