"""World 2: calibrated to public logs. Behaviour depends on many things, of which satisfaction is one.

Satisfaction is a sum of a part of the video, a part of the user, the user's taste for the video's topics, and an effect
of the pair that nothing predicts. The log-odds of each action are a sum of a trait of the user, an appeal of the video,
a slope on satisfaction, and, except for plays, an effect of having played the video. The formulas are in
`datasets/world/README.md`; `second_calibration.py` finds weights and intercepts.

Shapes: U users, V videos, K topics, R requests, C candidates per request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from easq_rec.config import World
from easq_rec.data import exact
from easq_rec.data.exact import sigmoid
from easq_rec.tools.simulation.latents import Float, Int, Latents
from easq_rec.tools.simulation.rounds import SecondRound
from easq_rec.tools.simulation.scores import LatentScores, Thresholds
from easq_rec.tools.simulation.second_latents import Changing, SecondLatents
from easq_rec.tools.simulation.time_line import DAY_MS, START_MS
from easq_rec.tools.simulation.watching import TRIGGER_MS, reach

LONG_VIEW_MS = 18_000
"""A long view is watched for at least this long, or to the end of a shorter video: the rule of KuaiRand. A valid play
is what triggers the questionnaire: more than 7 s, or more than half of the video."""
VALID_PLAY_RATE, LONG_VIEW_RATE = 0.44, 0.31
"""Shares of impressions, from KuaiRand-Pure."""
PLAY_USER, PLAY_ITEM, PLAY_TASTE, PLAY_DURATION = 1.1, 1.0, 0.5, -0.2
"""Log-odds of a play per standard deviation of the user's activeness, of the video's attraction, of taste, and of the
log duration. The first two give the shares of KuaiRand-Pure."""
VALID_USER = 0.12
"""What is added to the first of them for valid plays, in which users differ more than in long views."""
PERIOD_DAYS = 28.0
"""The changing parts of effects return after this time; effects half of it apart are the least alike."""


@dataclass(frozen=True, kw_only=True)
class Action:
    """How often an action occurs, and what it depends on besides satisfaction. Spreads are log-odds per standard
    deviation."""

    rate: float
    """Share of impressions."""
    user: float
    """Spread over users."""
    video: float
    """Spread over videos."""
    valid_play: float
    """Log-odds after a valid play, compared with none."""
    long_view: float
    """Log-odds after a long view, compared with no valid play."""
    unplayed: float = 1.0
    """Factor of the user's trait without a valid play."""


ACTIONS = {
    "like": Action(rate=0.017, user=2.95, video=0.85, valid_play=0.75, long_view=0.9, unplayed=0.7),
    "follow": Action(rate=0.0013, user=2.7, video=0.8, valid_play=1.9, long_view=2.2),
}
"""Rates and shares of KuaiRand-Pure, except `returned`, which no public log has: an assumption. The user's spread of
likes is `World.like_spread`."""
LATER = {
    "comment": Action(rate=0.0025, user=1.7, video=0.9, valid_play=2.9, long_view=3.8),
    "forward": Action(rate=0.00086, user=1.65, video=0.65, valid_play=2.3, long_view=2.7),
    "hate": Action(rate=0.0008, user=3.4, video=0.6, valid_play=0.7, long_view=0.0),
    "returned": Action(rate=0.06, user=0.5, video=0.2, valid_play=1.0, long_view=1.5),
}
"""The same of actions that are drawn after the questionnaire, as in World 1."""


class Weights(NamedTuple):
    """Weights of the parts of satisfaction, which then has mean 0 and variance 1."""

    item: float
    user: float
    taste: float
    pair: float
    mean: float
    """Subtracted from the weighted sum."""


class Parts(NamedTuple):
    """Unweighted parts of satisfaction, [R, C] or [R, 1]."""

    item: Float
    user: Float
    taste: Float
    pair: Float

    def satisfaction(self, weights: Weights) -> Float:
        """[R, C] latent satisfaction."""
        weighted = (np.float32(weight) * part for weight, part in zip(weights[:4], self, strict=True))
        item, user, taste, pair = weighted
        return item + user + taste + pair - np.float32(weights.mean)


class Tastes(NamedTuple):
    """What makes tastes comparable over users and topics under the logging policy."""

    topic_mean: Float
    """[K] mean affinity of users for the videos that they are shown, by topic, after that of the user."""
    std: float
    """Standard deviation of what remains."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SecondWorld:
    """World 2, calibrated under the logging policy."""

    config: World
    latents: Latents
    second: SecondLatents
    tastes: Tastes
    weights: Weights
    valid_play: float
    """Intercept of the log-odds of a valid play."""
    long_view: float
    """The same of a long view."""
    intercepts: dict[str, float]
    """The same of the other actions."""
    response_factor: float
    """Factor of the odds of an answer, by which the mean response rate is as configured."""
    thresholds: Thresholds
    round_type = SecondRound

    @property
    def answer_noise(self) -> float:
        """Standard deviation of the noise of an answer."""
        return self.config.answer_noise

    @property
    def satisfied_misreport(self) -> float:
        """Probability that a satisfied user answers dissatisfied."""
        return self.config.satisfied_misreport

    @property
    def dissatisfied_misreport(self) -> float:
        """Probability that a dissatisfied user answers satisfied."""
        return self.config.dissatisfied_misreport

    def scores(self, users: Int, videos: Int, timestamp_ms: Int) -> LatentScores:
        """The utilities of users [R] and videos [R, C] at times [R]."""
        parts = satisfaction_parts(self.config, self.latents, self.second, self.tastes, users, videos, timestamp_ms)
        satisfy = parts.satisfaction(self.weights)
        effect = play_effect(self.config, self.latents, self.second, parts.taste, satisfy, users, videos, timestamp_ms)
        return LatentScores(effect + np.float32(self.long_view), satisfy)

    def act(self, rng: np.random.Generator, scores: LatentScores, users: Int, videos: Int) -> dict[str, NDArray[Any]]:
        """Plays, likes and follows of users [R] on videos [R, C], and the probability of a long view."""
        shape, probability = videos.shape, sigmoid(scores.engage)
        draw = rng.random(shape, dtype=np.float32)
        # One draw for both, because every long view is a valid play.
        valid = draw < sigmoid(self._valid_logit(scores, users))
        long_view = draw < probability
        duration, progress = self.latents.duration_ms[videos], reach(rng, scores.engage)
        short, long = np.minimum(TRIGGER_MS, duration // 2), np.minimum(LONG_VIEW_MS, duration)
        watch = np.where(
            long_view,
            long + (duration * np.float32(1.25) - long) * progress,
            np.where(valid, np.minimum(short + 1 + (long - short - 1) * progress, long - 1), short * progress),
        ).astype(np.int32)
        played = {"valid_play": valid.astype(np.int8), "long_view": long_view.astype(np.int8)}
        return {
            "watch_ms": watch,
            **played,
            **self._draw(rng, ACTIONS, scores, users, videos, played),
            "true_engagement": probability,
        }

    def act_later(
        self, rng: np.random.Generator, scores: LatentScores, users: Int, videos: Int, acted: dict[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        """The other actions of users on their candidates, after those of `act`."""
        return self._draw(rng, LATER, scores, users, videos, acted)

    def _draw(
        self,
        rng: np.random.Generator,
        actions: dict[str, Action],
        scores: LatentScores,
        users: Int,
        videos: Int,
        played: dict[str, NDArray[Any]],
    ) -> dict[str, NDArray[Any]]:
        # 0: no valid play, 1: a valid play, 2: a long view.
        depth = (played["valid_play"] + played["long_view"]).astype(np.int64)
        drawn = {}
        for name in actions:
            by_depth_R3 = played_effect(self.config, self.second, name, users)
            logit = self._logit(name, scores, users, videos) + np.take_along_axis(by_depth_R3, depth, axis=1)
            drawn[name] = (rng.random(videos.shape, dtype=np.float32) < sigmoid(logit)).astype(np.int8)
        return drawn

    def expected(self, scores: LatentScores, users: Int, videos: Int) -> dict[str, Float]:
        """[R, C] probability of each action."""
        long_view = sigmoid(scores.engage)
        valid = sigmoid(self._valid_logit(scores, users))
        share = (1 - valid, valid - long_view, long_view)
        found = {"valid_play": valid, "long_view": long_view}
        for name in ACTIONS | LATER:
            logit, by_depth_R3 = (
                self._logit(name, scores, users, videos),
                played_effect(self.config, self.second, name, users),
            )
            terms = [part * sigmoid(logit + by_depth_R3[:, [depth]]) for depth, part in enumerate(share)]
            found[name] = terms[0] + terms[1] + terms[2]
        return found

    def _valid_logit(self, scores: LatentScores, users: Int) -> Float:
        """[R, C] log-odds of a valid play; every long view is one."""
        more = np.float32(self.valid_play - self.long_view) + valid_effect(self.second, users)
        return scores.engage + np.maximum(more, np.float32(0))

    def _logit(self, name: str, scores: LatentScores, users: Int, videos: Int) -> Float:
        """[R, C] log-odds of an action, without `played_effect`."""
        effect = action_effect(self.config, self.latents, self.second, name, scores.satisfy, videos)
        return effect + np.float32(self.intercepts[name])

    def response_odds(self, users: Int, satisfy: Float) -> float | NDArray[np.float64]:
        """[R, C] factor of the odds of an answer to a shown prompt."""
        if not self.config.response_spread and not self.config.response_satisfaction:
            return 1.0
        return self.response_factor * exact.exp(response_effect(self.config, self.second, users, satisfy))


def satisfaction_parts(
    config: World,
    latents: Latents,
    second: SecondLatents,
    tastes: Tastes,
    users: Int,
    videos: Int,
    timestamp_ms: Int,
) -> Parts:
    """The parts of the satisfaction of users [R] with videos [R, C]."""
    return Parts(
        item=changing(second.satisfaction, config.item_drift, videos, timestamp_ms),
        user=second.level[users][:, None],
        taste=(
            relative_affinity(config, latents, second, users, videos, timestamp_ms)
            - tastes.topic_mean[latents.primary[videos]]
        )
        / np.float32(tastes.std),
        pair=latents.own(users, videos)[1],
    )


def relative_affinity(
    config: World, latents: Latents, second: SecondLatents, users: Int, videos: Int, timestamp_ms: Int
) -> Float:
    """[R, C] taste for videos, compared with the user's mean taste for what the logging policy shows."""
    interest = latents.interest[users]
    if config.taste_drift:
        cosine, sine = _turns(config.taste_drift, timestamp_ms)
        mean = latents.interest.mean(axis=0)
        one, other = (latents.interest[alternate[users]] - mean for alternate in second.alternates)
        interest = mean + _constant(config.taste_drift) * (interest - mean) + cosine * one + sine * other
    mean_R1 = (interest * second.interest_share[users]).sum(axis=1, keepdims=True)
    return latents.affinity_of(interest, videos) - mean_R1


def changing(effect: Changing, drift: float, videos: Int, timestamp_ms: Int) -> Float:
    """[R, C] effects of videos at times [R]."""
    if not drift:
        return effect.constant[videos]
    cosine, sine = _turns(drift, timestamp_ms)
    return _constant(drift) * effect.constant[videos] + cosine * effect.cosine[videos] + sine * effect.sine[videos]


def _constant(drift: float) -> np.float32:
    """Weight of what does not change."""
    return np.float32(np.sqrt(1 - drift))


def _turns(drift: float, timestamp_ms: Int) -> tuple[Float, Float]:
    """[R, 1] weights of the two parts that take turns."""
    turned = exact.turned((timestamp_ms - START_MS) / (PERIOD_DAYS * DAY_MS))
    cosine, sine = ((np.sqrt(drift) * part).astype(np.float32)[:, None] for part in turned)
    return cosine, sine


def play_effect(
    config: World,
    latents: Latents,
    second: SecondLatents,
    taste: Float,
    satisfy: Float,
    users: Int,
    videos: Int,
    timestamp_ms: Int,
) -> Float:
    """[R, C] log-odds of a play without intercept."""
    return np.asarray(
        np.float32(PLAY_USER) * second.activeness[users][:, None]
        + np.float32(PLAY_ITEM) * changing(second.attraction, config.item_drift, videos, timestamp_ms)
        + np.float32(PLAY_TASTE) * taste
        + np.float32(PLAY_DURATION) * latents.duration_z[videos]
        + np.float32(config.clickbait_plays) * latents.clickbait[videos]
        + np.float32(config.play_slope) * satisfy
    )


def valid_effect(second: SecondLatents, users: Int) -> Float:
    """[R, 1] log-odds of a valid play, compared with those of a long view."""
    return np.asarray(np.float32(VALID_USER) * second.activeness[users][:, None])


def action_effect(
    config: World, latents: Latents, second: SecondLatents, name: str, satisfy: Float, videos: Int
) -> Float:
    """[R, C] log-odds of an action, without intercept and `played_effect`."""
    slope = getattr(config, "return_slope" if name == "returned" else f"{name}_slope")
    video = np.float32((ACTIONS | LATER)[name].video) * second.appeal[name]
    if name in ("like", "follow"):
        video = video + np.float32(config.clickbait_likes) * latents.clickbait
    return np.asarray(video[videos] + np.float32(slope) * satisfy)


def played_effect(config: World, second: SecondLatents, name: str, users: Int) -> Float:
    """[R, 3] log-odds of an action of users [R] by their propensity, after no valid play, a valid play, a long view."""
    action = (ACTIONS | LATER)[name]
    spread = config.like_spread if name == "like" else action.user
    factor = np.array([action.unplayed, 1.0, 1.0], dtype=np.float32)
    after = np.array([0.0, action.valid_play, action.long_view], dtype=np.float32)
    return np.float32(spread) * factor * second.propensity[name][users][:, None] + after


def response_effect(config: World, second: SecondLatents, users: Int, satisfy: Float) -> Float:
    """[R, C] log-odds of an answer, without intercept."""
    return np.asarray(
        np.float32(config.response_spread) * second.readiness[users][:, None]
        + np.float32(config.response_satisfaction) * satisfy
    )
