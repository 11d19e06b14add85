"""What happens to the candidates of a request: actions of simulated users, and the questionnaire.

The log of a world and the simulated experiment on it (`online.py`) share these draws. The questionnaire's rule and its
defaults are the paper's (arXiv 2601.20215): only an impression watched for more than 7 s or more than half triggers
it. Shapes: R requests, C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from easq_rec.answers.questionnaire import Questionnaire
from easq_rec.config import World
from easq_rec.config.answer_scale import NO_ANSWER, THREE_ANSWERS
from easq_rec.data import exact
from easq_rec.tools.simulation.latents import Float, Int
from easq_rec.tools.simulation.models import Model
from easq_rec.tools.simulation.scores import ANSWER_QUANTILES, LatentScores

DELAY_MEDIAN_MS, DELAY_SIGMA = 30 * 60_000, 1.2
DELAY_RANGE_MS = (60_000, 2 * 86_400_000)


@dataclass(frozen=True, kw_only=True, eq=False)
class Streams:
    """Random states of the draws. Later additions have separate states, so that existing worlds did not change."""

    log: np.random.Generator
    later: np.random.Generator
    questionnaire: np.random.Generator
    """The log's state, unless the world has a separate seed for the questionnaire."""
    careless: np.random.Generator
    """Of answers that are given at random."""

    @staticmethod
    def of(config: World) -> Streams:
        """The random states of a world's log."""
        log = np.random.default_rng([config.seed, 2])
        own = config.questionnaire_seed
        questionnaire = log if own is None else np.random.default_rng([config.seed, 4, own])
        return Streams(
            log=log,
            later=np.random.default_rng([config.seed, 3]),
            questionnaire=questionnaire,
            careless=np.random.default_rng([config.seed, 10]),
        )


def outcomes(
    streams: Streams, model: Model, scores: LatentScores, timestamp_ms: Int, users: Int, videos: Int
) -> dict[str, NDArray[Any]]:
    """Actions and answers of users [R] on their candidates [R, C]: the outcome fields of a `Round`.

    Args:
        timestamp_ms: [R] times of the requests.
    """
    acted = model.act(streams.log, scores, users, videos)
    asked = _questionnaire(streams, model, scores.satisfy, acted["watch_ms"], timestamp_ms, users, videos)
    return {
        **acted,
        **model.act_later(streams.later, scores, users, videos, acted),
        "true_satisfaction": np.searchsorted(model.thresholds.grades, scores.satisfy).astype(np.float32),
        **asked,
    }


def _questionnaire(
    streams: Streams,
    model: Model,
    satisfy: Float,
    watch: NDArray[np.int32],
    timestamp_ms: Int,
    users: Int,
    videos: Int,
) -> dict[str, NDArray[Any]]:
    """Prompts, answers and their times."""
    rng, shape, config = streams.questionnaire, satisfy.shape, model.config
    duration = model.latents.duration_ms[videos]
    rule = Questionnaire(trigger_watch_s=config.trigger_watch_s, trigger_progress=config.trigger_progress)
    triggered = rule.triggered(watch, duration)
    # One draw for both: users who answer were asked.
    draw = rng.random(shape, dtype=np.float32)
    shown = triggered & (draw < config.shown_rate)
    rate = answer_rate(config, watch, duration, model.response_odds(users, satisfy))
    rows, columns = np.nonzero(triggered & (draw < rate))

    def normal() -> NDArray[np.float64]:
        # A separate stream draws for all impressions, so that an impression gets the same answer under every rule.
        return exact.normal(rng, len(rows)) if rng is streams.log else exact.normal(rng, *shape)[rows, columns]

    noisy = satisfy[rows, columns] + model.answer_noise * normal()
    given = THREE_ANSWERS.first + np.searchsorted(model.thresholds.answers, noisy)
    careless = model.careless(users)
    if careless is not None:
        # Drawn for all impressions, so that an impression gets the same answer under every rule.
        chance = streams.careless.random(shape)[rows, columns]
        given = given_carelessly(given, chance, careless[rows], inverted=config.careless == "inverted")
    delay_ms = np.clip(DELAY_MEDIAN_MS * exact.exp(DELAY_SIGMA * normal()), *DELAY_RANGE_MS)
    if model.satisfied_misreport or model.dissatisfied_misreport:
        replaced = rng.random(len(rows)) if rng is streams.log else rng.random(shape)[rows, columns]
        given = misreported(given, replaced, model.satisfied_misreport, model.dissatisfied_misreport)
    answer = np.full(shape, NO_ANSWER, dtype=np.int8)
    answer[rows, columns] = given
    answered_at_ms = np.zeros(shape, dtype=np.int64)
    answered_at_ms[rows, columns] = timestamp_ms[rows] + delay_ms.astype(np.int64)
    return {"shown": shown.astype(np.int8), "answer": answer, "answered_at_ms": answered_at_ms}


def given_carelessly(given: Int, draw: NDArray[np.float64], careless: NDArray[np.bool_], *, inverted: bool) -> Int:
    """Answers [A] after those of careless users were replaced.

    Args:
        draw: [A] uniform; chooses the class of a random answer.
        careless: [A] whether the user is careless.
        inverted: True: by the opposite class. False: by a random class, each as often as in the answers of all
            impressions.
    """
    if inverted:
        replaced = THREE_ANSWERS.first + THREE_ANSWERS.last - given
    else:
        replaced = THREE_ANSWERS.first + np.searchsorted(ANSWER_QUANTILES, draw, side="right")
    return np.where(careless, replaced, given)


def misreported(given: Int, draw: NDArray[np.float64], satisfied: float, dissatisfied: float) -> Int:
    """Answers [A] of which some are replaced by their opposite.

    Args:
        draw: [A] uniform.
        satisfied: probability that a satisfied user answers dissatisfied.
        dissatisfied: the reverse.
    """
    (low,), (high,) = THREE_ANSWERS.dissatisfied_codes, THREE_ANSWERS.satisfied_codes
    lowered, raised = (given == high) & (draw < satisfied), (given == low) & (draw < dissatisfied)
    return np.where(lowered, low, np.where(raised, high, given))


def answer_rate(
    config: World, watch: NDArray[np.int32], duration: NDArray[np.int32], factor: float | NDArray[np.float64] = 1.0
) -> float | NDArray[np.float64]:
    """Probability that a triggered impression gets an answer; per impression if it depends on the impression.

    Args:
        factor: of the odds of an answer to a shown prompt.
    """
    constant = isinstance(factor, float)
    if (constant and not config.response_progress) or not config.shown_rate:
        return config.answer_rate
    odds = factor
    if config.response_progress:
        seen = np.minimum(watch / duration, 1.0)
        odds = factor * exact.exp(config.response_progress * (seen - 0.5))
    rate = config.answer_rate / config.shown_rate
    return np.asarray(config.shown_rate * rate * odds / (1 - rate + rate * odds))
