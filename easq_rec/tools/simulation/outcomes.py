"""Actions of simulated users on the videos that they are shown, and the questionnaire.

The log of a world and the simulated experiment on it (`online.py`) share these draws. The questionnaire's rule and its
defaults are the paper's (arXiv 2601.20215): only an impression watched for more than 7 s or more than half triggers
it. Shapes: R requests, C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from easq_rec.answers.questionnaire import Questionnaire
from easq_rec.config import World
from easq_rec.config.answer_scale import NO_ANSWER, THREE_ANSWERS
from easq_rec.data import exact
from easq_rec.data.exact import sigmoid
from easq_rec.tools.simulation.latents import ANSWER_NOISE, Calibration, Float, Int, Latents, utilities

LONG_VIEW_MS = 7_000
"""A long view is watched for longer than this, or for more than half of the video."""
LIKE_BIAS, LIKE_SATISFACTION, LIKE_ENGAGEMENT = -2.4, 1.1, 0.2
FOLLOW_BIAS, FOLLOW_SATISFACTION, FOLLOW_ENGAGEMENT = -3.8, 1.0, 0.1
LATER = {"comment": (-4.2, 0.9, 0.2), "forward": (-3.5, 1.0, 0.1), "returned": (-1.9, 1.25, 0.0)}
"""Bias, and weights of satisfaction and engagement, of the actions after a long view."""
DELAY_MEDIAN_MS, DELAY_SIGMA = 30 * 60_000, 1.2
DELAY_RANGE_MS = (60_000, 2 * 86_400_000)


@dataclass(frozen=True, kw_only=True, eq=False)
class Streams:
    """Random states of the draws. Later additions have separate states, so that existing worlds did not change."""

    log: np.random.Generator
    later: np.random.Generator
    questionnaire: np.random.Generator
    """The log's state, unless the world has a separate seed for the questionnaire."""

    @staticmethod
    def of(config: World) -> Streams:
        """The random states of a world's log."""
        log = np.random.default_rng([config.seed, 2])
        own = config.questionnaire_seed
        questionnaire = log if own is None else np.random.default_rng([config.seed, 4, own])
        return Streams(log=log, later=np.random.default_rng([config.seed, 3]), questionnaire=questionnaire)


class LatentScores(NamedTuple):
    """The two utilities of users [R] and their candidates [R, C]."""

    engage: Float
    """Logit of a long view."""
    satisfy: Float
    """Standard normal under the logging policy."""


def latent_scores(latents: Latents, calibration: Calibration, users: Int, videos: Int) -> LatentScores:
    """The utilities of users [R] and videos [R, C]."""
    engage, raw = utilities(
        latents, users, videos, calibration.affinity_mean, calibration.affinity_std, calibration.aversion
    )
    satisfy = (raw - np.float32(calibration.satisfaction_mean)) / np.float32(calibration.satisfaction_std)
    return LatentScores(engage, satisfy)


def outcomes(
    streams: Streams,
    config: World,
    latents: Latents,
    calibration: Calibration,
    scores: LatentScores,
    timestamp_ms: Int,
    videos: Int,
) -> dict[str, NDArray[Any]]:
    """Actions and answers of users on their candidates [R, C]: the outcome fields of a `Round`.

    Args:
        timestamp_ms: [R] times of the requests.
    """
    rng, shape = streams.log, videos.shape
    engage, satisfy = scores

    def uniform() -> NDArray[np.float32]:
        return rng.random(shape, dtype=np.float32)

    probability = sigmoid(engage)
    long_view = uniform() < probability
    # The watch time is on the side of the limit that the draw chose; a long view can be longer than the video.
    duration = latents.duration_ms[videos]
    limit = np.minimum(LONG_VIEW_MS, duration // 2)
    # u ** exp(-engage / 2) with u uniform and above 0.
    progress = exact.exp(exact.exp(-0.5 * engage) * exact.log(1 - rng.random(shape)))
    longest = duration * np.float32(1.25) - limit
    watch = np.where(long_view, limit + 1 + longest * progress, limit * progress).astype(np.int32)
    like = long_view & (uniform() < sigmoid(LIKE_BIAS + LIKE_SATISFACTION * satisfy + LIKE_ENGAGEMENT * engage))
    follow = long_view & (uniform() < sigmoid(FOLLOW_BIAS + FOLLOW_SATISFACTION * satisfy + FOLLOW_ENGAGEMENT * engage))
    asked = _questionnaire(streams, config, calibration, satisfy, watch, duration, timestamp_ms)
    return {
        "watch_ms": watch,
        "long_view": long_view.astype(np.int8),
        "like": like.astype(np.int8),
        "follow": follow.astype(np.int8),
        **{
            name: (
                long_view
                & (
                    streams.later.random(shape, dtype=np.float32)
                    < sigmoid(bias + by_satisfaction * satisfy + by_engagement * engage)
                )
            ).astype(np.int8)
            for name, (bias, by_satisfaction, by_engagement) in LATER.items()
        },
        "true_satisfaction": np.searchsorted(calibration.grades, satisfy).astype(np.float32),
        "true_engagement": probability,
        **asked,
    }


def _questionnaire(
    streams: Streams,
    config: World,
    calibration: Calibration,
    satisfy: Float,
    watch: NDArray[np.int32],
    duration: NDArray[np.int32],
    timestamp_ms: Int,
) -> dict[str, NDArray[Any]]:
    """Prompts, answers and their times."""
    rng, shape = streams.questionnaire, satisfy.shape
    rule = Questionnaire(trigger_watch_s=config.trigger_watch_s, trigger_progress=config.trigger_progress)
    triggered = rule.triggered(watch, duration)
    # One draw for both: users who answer were asked.
    draw = rng.random(shape, dtype=np.float32)
    shown = triggered & (draw < config.shown_rate)
    rows, columns = np.nonzero(triggered & (draw < answer_rate(config, watch, duration)))

    def normal() -> NDArray[np.float64]:
        # A separate stream draws for all impressions, so that an impression gets the same answer under every rule.
        return exact.normal(rng, len(rows)) if rng is streams.log else exact.normal(rng, *shape)[rows, columns]

    noisy = satisfy[rows, columns] + ANSWER_NOISE * normal()
    answer = np.full(shape, NO_ANSWER, dtype=np.int8)
    answer[rows, columns] = THREE_ANSWERS.first + np.searchsorted(calibration.answers, noisy)
    delay_ms = np.clip(DELAY_MEDIAN_MS * exact.exp(DELAY_SIGMA * normal()), *DELAY_RANGE_MS)
    answered_at_ms = np.zeros(shape, dtype=np.int64)
    answered_at_ms[rows, columns] = timestamp_ms[rows] + delay_ms.astype(np.int64)
    return {"shown": shown.astype(np.int8), "answer": answer, "answered_at_ms": answered_at_ms}


def answer_rate(config: World, watch: NDArray[np.int32], duration: NDArray[np.int32]) -> float | NDArray[np.float64]:
    """Probability that a triggered impression gets an answer; per impression if it depends on watching."""
    if not config.response_progress or not config.shown_rate:
        return config.answer_rate
    seen = np.minimum(watch / duration, 1.0)
    odds = exact.exp(config.response_progress * (seen - 0.5))
    rate = config.answer_rate / config.shown_rate
    return np.asarray(config.shown_rate * rate * odds / (1 - rate + rate * odds))
