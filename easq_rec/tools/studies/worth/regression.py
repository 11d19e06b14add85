"""Ridge logistic regression whose penalty is chosen by cross-validation within the fitted answers.

Shape suffixes: A answers, F numbers, V validated answers, C penalties.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from easq_rec.data.counts import Floats

Mask = NDArray[np.bool_]
Folds = NDArray[np.int8]
NOT_FITTED = -1
FOLDS = 5
MANY = 20_000
"""With more fitted answers than this, one fold chooses the penalty as well as all of them."""
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Candidates for scikit-learn's C, the inverse of the penalty, for standardised numbers."""
EDGE = 1e-6
"""Predictions are kept this far from 0 and 1."""


def predict(number_AF: Floats, label_A: Floats, *, fold_A: Folds) -> Floats:
    """(A,): probability that each answer is satisfied.

    The penalty is chosen by cross-validation over the folds: the strongest whose loss is not above the lowest by more
    than one standard error of their difference (Breiman et al. 1984), since the lowest of several noisy losses is often
    that of a model that fits noise. The model is then fitted to all folds. Without numbers the prediction is the rate
    of the fitted rows.

    Args:
        number_AF: the sources.
        label_A: 1 satisfied, 0 dissatisfied; both are among the fitted rows. Those of other rows are ignored.
        fold_A: number of the fold of each fitted row, `NOT_FITTED` for others.
    """
    fit_A = fold_A != NOT_FITTED
    if not number_AF.shape[1]:
        return np.full(len(number_AF), np.clip(label_A[fit_A].mean(), EDGE, 1 - EDGE))
    return _fitted(number_AF, label_A, fit_A, STRENGTHS[_chosen(number_AF, label_A, fold_A)])


def _chosen(number_AF: Floats, label_A: Floats, fold_A: Folds) -> int:
    """Index of the penalty in `STRENGTHS`, of which the strongest comes first."""
    fit_A = fold_A != NOT_FITTED
    folds = np.unique(fold_A[fit_A])
    parts = []
    for fold in folds if fit_A.sum() <= MANY else folds[-1:]:
        validate_A = fold_A == fold
        inner_A = fit_A & ~validate_A
        if both(label_A[inner_A]):
            columns = [
                losses(_fitted(number_AF, label_A, inner_A, c)[validate_A], label_A[validate_A]) for c in STRENGTHS
            ]
            parts.append(np.stack(columns, axis=1))
    if not parts:
        return 0
    loss_VC = np.concatenate(parts)
    above_VC = loss_VC - loss_VC[:, [int(np.argmin(loss_VC.mean(axis=0)))]]
    error_C = above_VC.std(axis=0) / np.sqrt(len(above_VC))
    return int(np.argmax(above_VC.mean(axis=0) <= error_C))


def both(label_A: Floats) -> bool:
    """Whether both classes are there."""
    return bool(label_A.size) and 0 < float(label_A.mean()) < 1


def losses(predicted_A: Floats, label_A: Floats) -> Floats:
    """Cross-entropy of each prediction in nats."""
    return -np.log(np.where(label_A > 0, predicted_A, 1 - predicted_A))


def _fitted(number_AF: Floats, label_A: Floats, fit_A: Mask, c: float) -> Floats:
    # Imported here, because it takes a second and only this study needs it.
    from sklearn.linear_model import LogisticRegression

    some = number_AF[fit_A]
    mean_F, deviation_F = some.mean(axis=0), some.std(axis=0)
    standard_AF = (number_AF - mean_F) / np.where(deviation_F > 0, deviation_F, 1)
    model = LogisticRegression(C=c, solver="newton-cholesky", max_iter=100)
    model.fit(standard_AF[fit_A], label_A[fit_A])
    return np.clip(model.predict_proba(standard_AF)[:, 1], EDGE, 1 - EDGE)
