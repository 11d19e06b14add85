"""What satisfaction and behaviour depend on in World 2, before weights and intercepts are known.

Satisfaction has four parts: of the video, of the user, of the user's taste for the video's topics, and of the pair,
which nothing predicts. The log-odds of an action are a sum of effects: a trait of the user, an appeal of the video, a
slope on satisfaction, and, except for plays, what it does to have played the video.

Shapes: U users, V videos, K topics, R requests, C candidates per request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from easq_rec.config import World
from easq_rec.data import exact
from easq_rec.tools.simulation.latents import TOPICS, Float, Int, Latents
from easq_rec.tools.simulation.second_traits import Changing, Traits
from easq_rec.tools.simulation.time_line import DAY_MS, START_MS

VALID_PLAY_RATE, LONG_VIEW_RATE = 0.44, 0.31
"""Shares of impressions, from KuaiRand-Pure."""
PLAY_USER, PLAY_ITEM, PLAY_TASTE, PLAY_DURATION = 1.13, 1.05, 0.5, -0.2
"""Log-odds of a long view per standard deviation of the user's activeness, of the video's attraction, of taste, and of
the log duration. The first two give the shares of KuaiRand-Pure."""
VALID_USER = 0.12
"""What is added to the first of them for valid plays, in which users differ more than in long views."""
PERIOD_DAYS = 28.0
"""The changing parts of effects return after this time; effects half of it apart are the least alike."""


@dataclass(frozen=True, kw_only=True)
class Action:
    """How often an action occurs, and what it depends on besides satisfaction.

    Rates and shares of the actions are those of KuaiRand-Pure. Spreads are log-odds per standard deviation.
    """

    rate: float
    """Share of impressions."""
    user: float | None
    """Spread over users; None: `World.like_spread`."""
    video: float
    """Spread over videos."""
    valid_play: float
    """Log-odds after a valid play, compared with none."""
    long_view: float
    """Log-odds after a long view, compared with no valid play."""
    unplayed: float = 1.0
    """Factor of the user's trait without a valid play."""


ACTIONS = {
    "like": Action(rate=0.017, user=None, video=0.9, valid_play=0.75, long_view=0.9, unplayed=0.7),
    "follow": Action(rate=0.0013, user=2.7, video=0.8, valid_play=1.9, long_view=2.2),
    "comment": Action(rate=0.0025, user=1.7, video=0.9, valid_play=2.9, long_view=3.8),
    "forward": Action(rate=0.00086, user=1.65, video=0.65, valid_play=2.3, long_view=2.7),
    "hate": Action(rate=0.0008, user=3.3, video=0.6, valid_play=0.7, long_view=0.0),
    # No public log has it: assumed.
    "returned": Action(rate=0.06, user=0.5, video=0.2, valid_play=1.0, long_view=1.5),
}
BAIT = ("like", "follow")
"""Actions that clickbait attracts."""


class Parts(NamedTuple):
    """Parts of satisfaction, [R, C] or [R, 1], each of variance about 1."""

    item: Float
    user: Float
    taste: Float
    pair: Float


class TasteScale(NamedTuple):
    """What makes tastes comparable over topics under the logging policy."""

    topic_mean: Float
    """[K] mean of `relative_affinity` by topic."""
    std: float
    """Standard deviation of what remains."""

    @staticmethod
    def of(affinity: Float, topic: Int) -> TasteScale:
        """The scale of affinities [R, C] for videos of topics [R, C]."""
        count = np.bincount(topic.ravel(), minlength=TOPICS)
        total = np.bincount(topic.ravel(), weights=affinity.ravel(), minlength=TOPICS)
        mean = (total / np.maximum(count, 1)).astype(np.float32)
        return TasteScale(topic_mean=mean, std=max(float((affinity - mean[topic]).std()), 1e-6))


@dataclass(frozen=True, kw_only=True, eq=False)
class Effects:
    """Parts of satisfaction, and log-odds of actions without intercepts."""

    config: World
    latents: Latents
    traits: Traits

    def parts(self, scale: TasteScale, users: Int, videos: Int, timestamp_ms: Int) -> Parts:
        """The parts of the satisfaction of users [R] with videos [R, C] at times [R]."""
        topic = self.latents.primary[videos]
        taste = self.relative_affinity(users, videos, timestamp_ms) - scale.topic_mean[topic]
        return Parts(
            item=changing(self.traits.satisfaction, self.config.item_drift, videos, timestamp_ms),
            user=self.traits.level[users][:, None],
            taste=taste / np.float32(scale.std),
            pair=self.latents.own(users, videos)[1],
        )

    def relative_affinity(self, users: Int, videos: Int, timestamp_ms: Int) -> Float:
        """[R, C] taste for videos, compared with the user's mean taste for what the logging policy shows."""
        interest_RK, drift = self.latents.interest[users], self.config.taste_drift
        if drift:
            mean_K = self.latents.interest.mean(axis=0)
            one, other = (self.latents.interest[alternate[users]] - mean_K for alternate in self.traits.alternates)
            constant, cosine, sine = _drift_weights(drift, timestamp_ms)
            interest_RK = mean_K + constant * (interest_RK - mean_K) + cosine * one + sine * other
        mean_R1 = (interest_RK * self.traits.interest_share[users]).sum(axis=1, keepdims=True)
        return self.latents.affinity_of(interest_RK, videos) - mean_R1

    def play(self, taste: Float, satisfy: Float, users: Int, videos: Int, timestamp_ms: Int) -> Float:
        """[R, C] log-odds of a long view."""
        attraction = changing(self.traits.attraction, self.config.item_drift, videos, timestamp_ms)
        return np.asarray(
            np.float32(PLAY_USER) * self.traits.activeness[users][:, None]
            + np.float32(PLAY_ITEM) * attraction
            + np.float32(PLAY_TASTE) * taste
            + np.float32(PLAY_DURATION) * self.latents.duration_z[videos]
            + np.float32(self.config.clickbait_plays) * self.latents.clickbait[videos]
            + np.float32(self.config.play_slope) * satisfy
        )

    def valid_play(self, users: Int) -> Float:
        """[R, 1] log-odds of a valid play, compared with those of a long view."""
        return np.asarray(np.float32(VALID_USER) * self.traits.activeness[users][:, None])

    def action(self, name: str, satisfy: Float, videos: Int) -> Float:
        """[R, C] log-odds of an action by satisfaction and video."""
        slope = getattr(self.config, "return_slope" if name == "returned" else f"{name}_slope")
        video = np.float32(ACTIONS[name].video) * self.traits.appeal[name]
        if name in BAIT:
            video = video + np.float32(self.config.clickbait_likes) * self.latents.clickbait
        return np.asarray(video[videos] + np.float32(slope) * satisfy)

    def action_by_play(self, name: str, users: Int) -> Float:
        """[R, 3] log-odds of an action by user, after no valid play, a valid play and a long view."""
        action = ACTIONS[name]
        spread = self.config.like_spread if action.user is None else action.user
        factor = np.array([action.unplayed, 1.0, 1.0], dtype=np.float32)
        after = np.array([0.0, action.valid_play, action.long_view], dtype=np.float32)
        return np.asarray(np.float32(spread) * factor * self.traits.propensity[name][users][:, None] + after)

    def response(self, satisfy: Float, users: Int) -> Float:
        """[R, C] log-odds of an answer to a shown prompt."""
        return np.asarray(
            np.float32(self.config.response_spread) * self.traits.readiness[users][:, None]
            + np.float32(self.config.response_satisfaction) * satisfy
        )


def changing(effect: Changing, drift: float, videos: Int, timestamp_ms: Int) -> Float:
    """[R, C] effects of videos at times [R], of which the share `drift` of the variance changes."""
    if not drift:
        return effect.constant[videos]
    constant, cosine, sine = _drift_weights(drift, timestamp_ms)
    return np.asarray(constant * effect.constant[videos] + cosine * effect.cosine[videos] + sine * effect.sine[videos])


def _drift_weights(drift: float, timestamp_ms: Int) -> tuple[np.float32, Float, Float]:
    """Weights of what does not change, and of the two parts that take turns, [R, 1] each. Their squares sum to 1."""
    cosine, sine = (
        (np.sqrt(drift) * part).astype(np.float32)[:, None]
        for part in exact.turned((timestamp_ms - START_MS) / (PERIOD_DAYS * DAY_MS))
    )
    return np.float32(np.sqrt(1 - drift)), cosine, sine
