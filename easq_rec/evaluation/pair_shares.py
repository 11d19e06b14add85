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


class ImpressionPairs:
    """The pairs of a log, for the shares of any number of its labels.

    Args:
        item_N: the item of each impression: any integers or texts.
        user_N: its user.

    Raises:
        UserError: the arrays differ in length or are empty.
    """

    def __init__(self, item_N: NDArray[Any], user_N: NDArray[Any]) -> None:
        if len(item_N) != len(user_N) or not len(item_N):
            raise UserError(
                f"pair shares: {len(item_N)} items and {len(user_N)} users: give one of each per impression, and at "
                "least one impression"
            )
        item, user = (np.unique(key, return_inverse=True)[1] for key in (item_N, user_N))
        both = np.unique(item * (int(user.max()) + 1) + user, return_inverse=True)[1]
        self._item, self._user, self._both = (_Groups(key) for key in (item, user, both))

    def shares(self, label_N: NDArray[Any]) -> PairShares:
        """Shares of the variance of a label. Raises UserError if it has another length or a value is not finite."""
        label = np.asarray(label_N, dtype=np.float64)
        if len(label) != len(self._item.key):
            raise UserError(f"pair shares: {len(label)} labels of {len(self._item.key)} impressions: give one for each")
        if not np.isfinite(label).all():
            raise UserError(
                f"pair shares: {np.count_nonzero(~np.isfinite(label))} labels are not finite: leave them out"
            )
        centred = label - label.mean()
        square = centred * centred
        variance = float(square.mean())
        # The computed variance of a constant may be a rounding error above 0.
        constant = bool((label == label[0]).all())

        def share(groups: _Groups) -> float:
            # Repeated impressions of one item by one user belong to neither share.
            pairs = groups.pairs - self._both.pairs
            if constant or not pairs:
                return math.nan
            return (groups.products(centred) - self._both.products(centred)) / pairs / variance

        return PairShares(item=share(self._item), user=share(self._user))


def pair_shares(label_N: NDArray[Any], item_N: NDArray[Any], user_N: NDArray[Any]) -> PairShares:
    """Shares of the variance of one label; arguments and errors as of `ImpressionPairs`."""
    return ImpressionPairs(item_N, user_N).shares(label_N)


class _Groups:
    """Impressions with the same key, 0 to the number of keys."""

    def __init__(self, key: NDArray[np.int64]) -> None:
        self.key = key
        count = np.bincount(key).astype(np.float64)
        self.pairs = float((count * count).sum())
        """Ordered pairs within the groups, each impression with itself included."""

    def products(self, value: Floats) -> float:
        """Sum of the products of values over these pairs."""
        total = np.bincount(self.key, weights=value)
        return float((total * total).sum())
