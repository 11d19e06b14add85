"""What answers say about an item beside how generous its viewers are.

An average answer mixes both: an item that generous users were asked about looks better than it is. A ridge regression
estimates one effect for each user, item and author. The score of a candidate is the effect of its item plus that of its
author. The effect of the user is the same for all candidates of a request, so it is left out. The penalty of the
regression is the one that predicts left-out answers best.

Legend: N answers or candidates, F users, items and authors together.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold

from easq_rec.answers.rates import Floats
from easq_rec.data.columns import Rows
from easq_rec.serving.item_prior import ItemCounts

PENALTIES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
FOLDS = 5


class AnswerEffects:
    """Standardised effects of items and authors on answers.

    Args:
        user_N, item_N, author_N: of each answer.
        value_N: answers between 0 and 1.
        impressions: over which the effects are standardised.
    """

    def __init__(self, user_N: Rows, item_N: Rows, author_N: Rows, value_N: Floats, impressions: ItemCounts) -> None:
        ids = [np.unique(column_N, return_inverse=True) for column_N in (user_N, item_N, author_N)]
        self._items, self._authors = ids[1][0], ids[2][0]
        self._item_effects, self._author_effects = np.zeros(len(self._items)), np.zeros(len(self._authors))
        if len(value_N) >= FOLDS and value_N.std() > 0:
            widths = [len(unique) for unique, _ in ids]
            starts = np.cumsum([0, *widths])
            columns = np.stack(
                [place_N.reshape(-1) + start for (_, place_N), start in zip(ids, starts, strict=False)], 1
            )
            rows = np.repeat(np.arange(len(value_N)), len(ids))
            ids_NF = sparse.csr_matrix((np.ones(rows.size), (rows, columns.reshape(-1))), (len(value_N), starts[-1]))
            fitted = _ridge(ids_NF, value_N, best_penalty(ids_NF, value_N))
            _, self._item_effects, self._author_effects = np.split(fitted.coef_, starts[1:-1])
        raw_I = self._effect(impressions.item_I, impressions.author_I)
        self._mean = float(np.average(raw_I, weights=impressions.impressions_I))
        self._spread = float(np.sqrt(np.average((raw_I - self._mean) ** 2, weights=impressions.impressions_I)))

    def __call__(self, item_N: Rows, author_N: Rows) -> Floats:
        """The score of candidates, (N,): of an unknown item that of its author; 0 effect if both are unknown."""
        return (self._effect(item_N, author_N) - self._mean) / (self._spread or 1.0)

    def _effect(self, item_N: Rows, author_N: Rows) -> Floats:
        item = _looked_up(self._items, self._item_effects, item_N)
        return item + _looked_up(self._authors, self._author_effects, author_N)


def best_penalty(ids_NF: sparse.csr_matrix, value_N: Floats) -> float:
    """The penalty of `PENALTIES` whose fit to some answers predicts the others best."""
    folds = list(KFold(FOLDS, shuffle=True, random_state=0).split(value_N))

    def error(penalty: float) -> float:
        missed = 0.0
        for fitted, left in folds:
            predicted = _ridge(ids_NF[fitted], value_N[fitted], penalty).predict(ids_NF[left])
            missed += float(((predicted - value_N[left]) ** 2).sum())
        return missed

    return min(PENALTIES, key=error)


def _ridge(ids_NF: sparse.csr_matrix, value_N: Floats, penalty: float) -> Ridge:
    return Ridge(alpha=penalty, solver="sparse_cg").fit(ids_NF, value_N)


def _looked_up(known: Rows, effects: Floats, wanted_N: Rows) -> Floats:
    """The effect of each id, 0 if it is unknown."""
    if not len(known):
        return np.zeros(len(wanted_N))
    place_N = np.searchsorted(known, wanted_N).clip(max=len(known) - 1)
    return np.where(known[place_N] == wanted_N, effects[place_N], 0.0)
