"""A reward: how much the outcomes of an impression speak for satisfaction, fitted to the answers so far.

A logistic regression predicts whether an answer is satisfied or dissatisfied from the outcomes of its candidate: from
all of them together, so that an outcome which only accompanies another has no weight of its own. The reward of any
impression is the log odds that the regression predicts, without the intercept, which no comparison reads.

A ridge penalty keeps the weights small while there are few answers. It is a normal prior of the log odds ratios.

Legend: A answers in time order, O outcomes, P patterns of outcomes, D intercept and outcomes, 2 satisfied and
dissatisfied.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from easq_rec.answers.class_counts import ClassCounts
from easq_rec.config.answer_scale import AnswerScale

Floats = npt.NDArray[np.float64]

MOST_STEPS = 100
"""Bound on the steps of Newton's method, which takes fewer than ten unless a class is very rare."""
TOLERANCE = 1e-12
"""Squared length of the last step, in units of the curvature, per answer: far below what float32 shows."""


class RewardModel:
    """Weights of the outcomes in the reward, fitted to the first answers, for any number of them.

    The answers are counted by the pattern of their outcomes, so a fit costs as much as there are patterns. Each fit
    starts from the same weights. So it depends only on the number of answers, and a resumed run has the same rewards.

    Args:
        answer_A: answer codes.
        happened_AO: whether the answered candidate had the outcome.
        scale: defines satisfied and dissatisfied answers. Other answers are not read.
        ridge: precision of the prior of each weight, above 0.
    """

    def __init__(
        self,
        answer_A: npt.NDArray[np.integer],
        happened_AO: npt.NDArray[np.bool_],
        *,
        scale: AnswerScale,
        ridge: float,
    ) -> None:
        self._ridge = ridge
        self._of_class_2A = ClassCounts(answer_A, scale).of_class_2A
        pattern_PO, pattern_A = np.unique(happened_AO, axis=0, return_inverse=True)
        self._pattern_PO = pattern_PO.astype(np.float64)
        self._pattern_A = pattern_A.reshape(-1)
        self._counted = 0
        self._count_2P = np.zeros((2, len(pattern_PO)), np.int64)
        self._weight_O = np.zeros(happened_AO.shape[1], np.float32)

    def weights(self, admitted: int) -> npt.NDArray[np.float32]:
        """Weights of the outcomes in the reward, from the first `admitted` answers, (O,).

        All are 0 unless some of these answers are satisfied and some are dissatisfied.
        """
        if admitted < self._counted:
            self._counted = 0
            self._count_2P = np.zeros_like(self._count_2P)
            self._weight_O = np.zeros_like(self._weight_O)
        if admitted > self._counted:
            fresh = slice(self._counted, admitted)
            patterns = len(self._pattern_PO)
            self._count_2P += np.stack(
                [np.bincount(self._pattern_A[fresh][of[fresh]], minlength=patterns) for of in self._of_class_2A]
            )
            self._counted = admitted
            self._weight_O = ridge_logistic(self._pattern_PO, self._count_2P, self._ridge).astype(np.float32)
        return self._weight_O


def ridge_logistic(pattern_PO: Floats, count_2P: npt.NDArray[np.int64], ridge: float) -> Floats:
    """Weights of a logistic regression of satisfied against dissatisfied answers, (O,).

    They minimise the negative log-likelihood plus ridge / 2 times the sum of their squares; the intercept is free. The
    minimum is unique. Newton's method finds it, and halves a step that would not descend.

    Args:
        pattern_PO: the outcomes of each pattern, 0 or 1.
        count_2P: satisfied and dissatisfied answers of each pattern.
    """
    satisfied_P, answers_P = count_2P[0].astype(np.float64), count_2P.sum(axis=0).astype(np.float64)
    satisfied, dissatisfied = (int(total) for total in count_2P.sum(axis=1))
    if not satisfied or not dissatisfied:
        return np.zeros(pattern_PO.shape[1])
    design_PD = np.concatenate([np.ones((len(pattern_PO), 1)), pattern_PO], axis=1)
    penalty_D = np.full(design_PD.shape[1], ridge)
    penalty_D[0] = 0.0

    def cost(weight_D: Floats) -> float:
        logit_P = design_PD @ weight_D
        likelihood_P = answers_P * np.logaddexp(0.0, logit_P) - satisfied_P * logit_P
        return float(likelihood_P.sum() + 0.5 * (penalty_D * weight_D**2).sum())

    weight_D = np.zeros(design_PD.shape[1])
    weight_D[0] = np.log(satisfied / dissatisfied)
    for _ in range(MOST_STEPS):
        probability_P = 1 / (1 + np.exp(-(design_PD @ weight_D)))
        gradient_D = design_PD.T @ (answers_P * probability_P - satisfied_P) + penalty_D * weight_D
        curvature_P = answers_P * probability_P * (1 - probability_P)
        curvature_DD = design_PD.T @ (curvature_P[:, None] * design_PD) + np.diag(penalty_D)
        step_D = np.linalg.solve(curvature_DD, gradient_D)
        decrease = float(gradient_D @ step_D)
        if decrease <= TOLERANCE * answers_P.sum():
            break
        size, before = 1.0, cost(weight_D)
        while cost(weight_D - size * step_D) > before - 0.25 * size * decrease and size > 1e-6:
            size /= 2
        weight_D = weight_D - size * step_D
    return weight_D[1:]
