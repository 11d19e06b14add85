"""The learning curve: what would more answers tell?

The answers are divided at random into eighths, which are measured one by one, then in pairs, in halves, and all
together: each level uses every answer once. A power law a - b n^-c is fitted to the means of the levels and continued
to two and four times as many answers.

The interval has two parts: the held-out users are resampled, and the means of the levels are moved at random by what
the spread between the draws of a level says about chance in the answers themselves.

Shape suffixes: A answered impressions, B resamples, L levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np

from easq_rec.data.counts import Floats
from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.tools.studies.worth.answered import Answered
from easq_rec.tools.studies.worth.intervals import HeldOutAnswers, Replicated
from easq_rec.tools.studies.worth.measure import Split, explained, learnable, predicted
from easq_rec.tools.studies.worth.past import Past, past_answers
from easq_rec.tools.studies.worth.questions import CURVES, Source
from easq_rec.tools.studies.worth.regression import NOT_FITTED
from easq_rec.tools.studies.worth.sources import AnswerSources

DRAWS = (8, 4, 2, 1)
"""Draws of each level: a draw of a level of D draws has one answer of D."""
MORE = (2, 4)
"""Times as many answers, that the curve is continued to."""
EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Candidates for c. The limit 0 is a + b log n, a curve that does not flatten."""
DIFFERENCE: Final = "both - behaviour alone"
"""The curve of what answers add to behaviour. Behaviour is weighed by as many answers as both, so that what answers do
for the weights of behaviour cancels."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """The curve at one number of answers."""

    answers: float
    mean: Replicated
    """Percent of the log loss of the base rate explained, mean over the draws."""
    draws: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The curve of one source."""

    source: Source | Literal["both - behaviour alone"]
    levels: Sequence[Level]
    exponent: float
    gains: Mapping[int, Replicated]
    """What times as many answers would add, by the factor."""
    held_out: int

    def values(self) -> dict[str, Any]:
        """As JSON values, without intervals of the levels."""
        return {"source": self.source, "exponent": self.exponent}

    def estimate(self, level: Level) -> Estimate:
        return level.mean.estimate(self.held_out)


def learning_curves(
    answered: Answered,
    behaviour: Mapping[tuple[str, str], Past],
    split: Split,
    *,
    minutes: int,
    seed: int = 0,
) -> list[Curve]:
    """The curves of `CURVES` before the view, and that of `DIFFERENCE`.

    Args:
        minutes: length of the buckets of time.
    """
    generator = np.random.default_rng(seed)
    part_A = generator.permutation(len(answered)) % DRAWS[0]
    held_out = HeldOutAnswers(answered.user_A[split.test_A], answered.value_A[split.test_A])
    constant = held_out.loss(predicted(answered, np.zeros((len(answered), 0)), split))
    found: list[dict[Source, list[Replicated]]] = []
    for draws in DRAWS:
        level: dict[Source, list[Replicated]] = {source: [] for source in CURVES}
        for draw in range(draws):
            kept_A = part_A % draws == draw
            fold_A = np.where(kept_A, split.fold_A, NOT_FITTED).astype(np.int8)
            some = replace(split, fold_A=fold_A, known_A=split.known_A & kept_A)
            if not learnable(answered, some.fit_A):
                continue
            past = past_answers(answered, some.known_A, minutes=minutes, without_own=split.without_own)
            sources = AnswerSources(answered, behaviour, past, some.fit_A)
            for source in CURVES:
                loss = held_out.loss(predicted(answered, sources.numbers(source, "before the view"), some))
                level[source].append(explained(loss, constant))
        found.append(level)
    total, size = int(split.known_A.sum()), len(held_out)
    curves = [_curve(source, [level[source] for level in found], total, size, generator) for source in CURVES]
    adds = [
        [one - other for one, other in zip(level["both"], level["behaviour alone"], strict=True)] for level in found
    ]
    return [*curves, _curve(DIFFERENCE, adds, total, size, generator)]


def _curve(
    source: Source | Literal["both - behaviour alone"],
    drawn: Sequence[Sequence[Replicated]],
    total: int,
    held_out: int,
    generator: np.random.Generator,
) -> Curve:
    there = [(draws, level) for draws, level in zip(DRAWS, drawn, strict=True) if level]
    levels = [
        Level(
            answers=total / draws,
            mean=Replicated(
                value=float(np.mean([one.value for one in level])),
                value_B=np.mean([one.value_B for one in level], axis=0),
            ),
            draws=[one.value for one in level],
        )
        for draws, level in there
    ]
    # The variance of a draw falls as its answers grow, so that of a level's mean is the same at every level: that of
    # all answers.
    freedom = sum(len(level.draws) - 1 for level in levels)
    squares = sum(
        (len(level.draws) - 1) * np.var(level.draws, ddof=1) / draws
        for (draws, _), level in zip(there, levels, strict=True)
        if len(level.draws) > 1
    )
    deviation = float(np.sqrt(squares / freedom)) if freedom else 0.0
    answers_L = np.array([level.answers for level in levels])
    value_L = np.array([level.mean.value for level in levels])
    value_BL = np.stack([level.mean.value_B for level in levels], axis=1)
    value_BL = value_BL + deviation * generator.standard_normal(value_BL.shape)
    exponent, gains = extrapolate(answers_L, value_L[None])
    _, gains_B = extrapolate(answers_L, value_BL)
    return Curve(
        source=source,
        levels=levels,
        exponent=float(exponent[0]),
        gains={
            more: Replicated(value=float(gains[0, index]), value_B=gains_B[:, index]) for index, more in enumerate(MORE)
        },
        held_out=held_out,
    )


def extrapolate(answers_L: Floats, value_BL: Floats) -> tuple[Floats, Floats]:
    """(exponent c (B,), gains over the last level (B, factors of `MORE`)) of the power laws of least squared error."""
    if len(answers_L) < 2:
        return np.full(len(value_BL), np.nan), np.full((len(value_BL), len(MORE)), np.nan)
    errors, gains = [], []
    for exponent in EXPONENTS:
        curve_L = _curve_of(answers_L, exponent)
        design = np.stack([np.ones_like(curve_L), curve_L], axis=1)
        solved, *_ = np.linalg.lstsq(design, value_BL.T, rcond=None)
        errors.append(((design @ solved - value_BL.T) ** 2).sum(axis=0))
        more_L = _curve_of(answers_L[-1] * np.array(MORE), exponent)
        gains.append(solved[1][:, None] * (more_L - curve_L[-1]))
    best_B = np.argmin(np.stack(errors), axis=0)
    return np.array(EXPONENTS)[best_B], np.stack(gains)[best_B, np.arange(len(value_BL))]


def _curve_of(answers: Floats, exponent: float) -> Floats:
    """-n^-c, or log n for c = 0: what rises with the answers."""
    return np.log(answers) if exponent == 0 else -(answers**-exponent)
