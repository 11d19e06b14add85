"""Weights and intercepts that give World 2 the configured shares and the rates of public logs.

They are measured on a sample of the logging policy that never enters the log. All steps use exact functions, so that
they give the same bits on every CPU. Shapes: R requests, C candidates per request.
"""

from __future__ import annotations

import math

import numpy as np

from easq_rec.config import World
from easq_rec.data import exact
from easq_rec.data.exact import sigmoid
from easq_rec.evaluation.pair_shares import ImpressionPairs, PairShares
from easq_rec.tools.simulation.latents import Float, Int, Latents
from easq_rec.tools.simulation.scores import Thresholds
from easq_rec.tools.simulation.second_effects import (
    ACTIONS,
    LONG_VIEW_RATE,
    VALID_PLAY_RATE,
    Effects,
    Parts,
    TasteScale,
)
from easq_rec.tools.simulation.second_faults import draw_faults
from easq_rec.tools.simulation.second_traits import draw_traits
from easq_rec.tools.simulation.second_world import SecondWorld, Weights
from easq_rec.tools.simulation.time_line import DAY_MS, START_MS, round_size

FEWEST, MOST = 2_048, 16_384
"""Requests of the sample. Up to four per user."""
ROUNDS = 8
"""Steps of the iteration for the weights of satisfaction."""
STEPS, PRECISION = 60, 1e-6
"""Most steps of the iteration for an intercept, and the relative error of the rate at which it ends."""


def calibrate(latents: Latents, config: World) -> SecondWorld:
    """World 2 with the users and videos of `latents`."""
    rng = np.random.default_rng([config.seed, 8])
    effects = Effects(config=config, latents=latents, traits=draw_traits(config, latents))
    users, videos, timestamp_ms = _sample(rng, latents, config)
    scale = TasteScale.of(effects.relative_affinity(users, videos, timestamp_ms), latents.primary[videos])
    parts = effects.parts(scale, users, videos, timestamp_ms)
    weights = satisfaction_weights(config, parts, users, videos)
    satisfy = weights.satisfaction(parts)

    view_logit = effects.play(parts.taste, satisfy, users, videos, timestamp_ms)
    play_logit = view_logit + effects.valid_play(users)
    long_view, valid_play = intercept(view_logit, LONG_VIEW_RATE), intercept(play_logit, VALID_PLAY_RATE)
    triggered, viewed = (
        sigmoid(logit + np.float32(level)) for logit, level in ((play_logit, valid_play), (view_logit, long_view))
    )
    draw = rng.random(videos.shape, dtype=np.float32)
    depth = (draw < triggered).astype(np.int64) + (draw < viewed)

    def action_intercept(name: str) -> float:
        by_play = np.take_along_axis(effects.action_by_play(name, users), depth, axis=1)
        return intercept(effects.action(name, satisfy, videos) + by_play, ACTIONS[name].rate)

    return SecondWorld(
        effects=effects,
        faults=draw_faults(config, latents),
        taste_scale=scale,
        weights=weights,
        long_view=long_view,
        valid_play=valid_play,
        intercepts={name: action_intercept(name) for name in ACTIONS},
        response_factor=response_factor(config, effects.response(satisfy, users)[depth > 0]),
        thresholds=Thresholds.of(rng, satisfy, triggered, config.answer_noise),
    )


def _sample(rng: np.random.Generator, latents: Latents, config: World) -> tuple[Int, Int, Int]:
    """(users [R], videos [R, C], times [R]) of requests that are drawn as those of the log."""
    wanted, size = min(max(4 * config.users, FEWEST), MOST), round_size(config)
    users = np.concatenate([latents.requesters(rng, size) for _ in range(-(-wanted // size))])
    videos = latents.candidates(rng, users, min(config.candidates, 12))
    return users, videos, START_MS + (config.days * DAY_MS * rng.random(len(users))).astype(np.int64)


def satisfaction_weights(config: World, parts: Parts, users: Int, videos: Int) -> Weights:
    """Weights by which satisfaction has variance 1 and the configured shares of item and user.

    The parts are not quite independent under the logging policy: it shows videos to users who like their topics. So the
    weights are those of independent parts only at first, and then corrected by the shares that they give.
    """
    pairs = ImpressionPairs(videos.ravel(), np.repeat(users, videos.shape[1]))
    wanted = PairShares(item=config.item_share, user=config.user_share)
    # Squared weights, before satisfaction is divided by its standard deviation.
    item, user, taste = wanted.item, wanted.user, config.taste_share
    pair = max(1 - item - user - taste, 0.0)
    for _ in range(ROUNDS):
        sums = Weights(math.sqrt(item), math.sqrt(user), math.sqrt(taste), math.sqrt(pair), 0.0)
        satisfy = sums.satisfaction(parts)
        mean, std = float(satisfy.mean(dtype=np.float64)), max(float(satisfy.std(dtype=np.float64)), 1e-6)
        found = pairs.shares(satisfy.ravel())
        weights = Weights(sums.item / std, sums.user / std, sums.taste / std, sums.pair / std, mean / std)
        if not math.isnan(found.item):
            item = max(item + std * std * (wanted.item - found.item), 0.0)
        if not math.isnan(found.user):
            user = max(user + std * std * (wanted.user - found.user), 0.0)
    return weights


def intercept(effect: Float, rate: float) -> float:
    """The number c at which the mean of sigmoid(c + effect) is the rate.

    Newton's method for the log-odds of the mean, which are almost linear in c. The mean rises with c, so a step that
    leaves the interval known to hold c is replaced by its middle.
    """
    wanted, values = _logit(rate), np.asarray(effect, dtype=np.float64)
    low, high = wanted - float(values.max()), wanted - float(values.min())
    found = wanted - float(values.mean())
    for _ in range(STEPS):
        probability = sigmoid(values + found)
        mean = float(probability.mean())
        if abs(mean - rate) <= PRECISION * rate:
            break
        low, high = (found, high) if mean < rate else (low, found)
        slope = float((probability * (1 - probability)).mean()) / (mean * (1 - mean))
        step = found + (wanted - _logit(mean)) / slope
        found = step if low < step < high else (low + high) / 2
    return found


def _logit(probability: float) -> float:
    return float(exact.log(np.float64(probability)) - exact.log(np.float64(1 - probability)))


def response_factor(config: World, effect: Float) -> float:
    """Factor of the odds of an answer at which the mean response rate is the configured one.

    Args:
        effect: [N] log-odds of the triggered impressions of a sample, without intercept.
    """
    rate = config.answer_rate / config.shown_rate if config.shown_rate else 0.0
    if not 0 < rate < 1 or not len(effect):
        return 1.0
    return float(exact.exp(np.float64(intercept(effect, rate) - _logit(rate))))
