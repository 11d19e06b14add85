"""World 2: calibrated to public logs. Behaviour depends on many things, of which satisfaction is one.

The formulas are in `datasets/world/README.md`. Parts and effects are in `second_effects.py`; `second_calibration.py`
finds weights and intercepts. Shapes: R requests, C candidates per request.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from easq_rec.config import World
from easq_rec.data import exact
from easq_rec.data.exact import sigmoid
from easq_rec.tools.simulation.latents import Float, Int, Latents
from easq_rec.tools.simulation.rounds import SecondRound
from easq_rec.tools.simulation.scores import LatentScores, Thresholds
from easq_rec.tools.simulation.second_effects import ACTIONS, BAIT, Effects, Parts, TasteScale
from easq_rec.tools.simulation.second_faults import Faults
from easq_rec.tools.simulation.watching import TRIGGER_MS, reach

LONG_VIEW_MS = 18_000
"""A long view is watched for at least this long, or to the end of a shorter video: the rule of KuaiRand. A valid play
is what triggers the questionnaire: more than 7 s, or more than half of the video."""
EARLY = ("like", "follow")
"""Actions that are drawn before the questionnaire, as in World 1; the others are drawn after it."""


@dataclass(frozen=True)
class Weights:
    """Weights of the parts of satisfaction, which then has mean 0 and variance 1."""

    item: float
    user: float
    taste: float
    pair: float
    mean: float
    """Subtracted from the weighted sum."""

    def satisfaction(self, parts: Parts) -> Float:
        """[R, C] latent satisfaction."""
        predictable = np.float32(self.item) * parts.item + np.float32(self.user) * parts.user
        return np.asarray(
            predictable
            + np.float32(self.taste) * parts.taste
            + np.float32(self.pair) * parts.pair
            - np.float32(self.mean)
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SecondWorld:
    """World 2, calibrated under the logging policy."""

    effects: Effects
    faults: Faults
    taste_scale: TasteScale
    weights: Weights
    long_view: float
    """Intercept of the log-odds of a long view."""
    valid_play: float
    """The same of a valid play."""
    intercepts: dict[str, float]
    """The same of the other actions."""
    response_factor: float
    """Factor of the odds of an answer, by which the mean response rate is as configured."""
    thresholds: Thresholds
    round_type = SecondRound

    @property
    def config(self) -> World:
        """The options of the world."""
        return self.effects.config

    @property
    def latents(self) -> Latents:
        """Users, videos and logging policy."""
        return self.effects.latents

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

    def careless(self, users: Int) -> NDArray[np.bool_] | None:
        """[R] whether users answer carelessly; None: nobody does."""
        return self.faults.careless[users] if self.config.careless_users else None

    def scores(self, users: Int, videos: Int, timestamp_ms: Int) -> LatentScores:
        """The utilities of users [R] and videos [R, C] at times [R]."""
        parts = self.effects.parts(self.taste_scale, users, videos, timestamp_ms)
        satisfy = self.weights.satisfaction(parts)
        engage = self.effects.play(parts.taste, satisfy, users, videos, timestamp_ms) + np.float32(self.long_view)
        return LatentScores(engage, satisfy)

    def act(self, rng: np.random.Generator, scores: LatentScores, users: Int, videos: Int) -> dict[str, NDArray[Any]]:
        """Plays, likes and follows of users [R] on videos [R, C], and the probability of a long view."""
        probability, draw = sigmoid(scores.engage), rng.random(videos.shape, dtype=np.float32)
        # One draw for both, because every long view is a valid play.
        valid_play, long_view = draw < sigmoid(self._valid_play(scores, users)), draw < probability
        watch_ms = self._watch_ms(rng, scores, videos, valid_play, long_view)
        depth = valid_play.astype(np.int64) + long_view
        return {
            "watch_ms": watch_ms,
            "valid_play": valid_play.astype(np.int8),
            "long_view": long_view.astype(np.int8),
            **self._draw(rng, EARLY, scores, users, videos, depth),
            "true_engagement": probability,
        }

    def act_later(
        self, rng: np.random.Generator, scores: LatentScores, users: Int, videos: Int, acted: dict[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        """The other actions of users on their candidates, after those of `act`."""
        depth = acted["valid_play"].astype(np.int64) + acted["long_view"]
        return self._draw(rng, [name for name in ACTIONS if name not in EARLY], scores, users, videos, depth)

    def expected(self, scores: LatentScores, users: Int, videos: Int) -> dict[str, Float]:
        """[R, C] probability of each action."""
        long_view, valid_play = sigmoid(scores.engage), sigmoid(self._valid_play(scores, users))
        found = {"valid_play": valid_play, "long_view": long_view}
        for name in ACTIONS:
            logit, by_play_R3 = self._action(name, scores, videos), self.effects.action_by_play(name, users)
            unplayed, played, viewed = (sigmoid(logit + by_play_R3[:, [depth]]) for depth in range(3))
            found[name] = (1 - valid_play) * unplayed + (valid_play - long_view) * played + long_view * viewed
        return found

    def response_odds(self, users: Int, satisfy: Float) -> float | NDArray[np.float64]:
        """Factor of the odds of an answer to a shown prompt, [R, C] if users differ."""
        if not self.config.response_spread and not self.config.response_satisfaction:
            return 1.0
        return self.response_factor * exact.exp(self.effects.response(satisfy, users))

    def _valid_play(self, scores: LatentScores, users: Int) -> Float:
        """[R, C] log-odds of a valid play, at least those of a long view."""
        more = np.float32(self.valid_play - self.long_view) + self.effects.valid_play(users)
        return np.asarray(scores.engage + np.maximum(more, np.float32(0)))

    def _action(self, name: str, scores: LatentScores, videos: Int) -> Float:
        """[R, C] log-odds of an action, without those by user and play."""
        logit = self.effects.action(name, scores.satisfy, videos) + np.float32(self.intercepts[name])
        if name in BAIT and self.config.bought_videos:
            # Not a part of the effects, from which intercepts are found: other videos keep their likes.
            logit = logit + np.float32(self.config.bought_likes) * self.faults.bought[videos]
        return logit

    def _draw(
        self,
        rng: np.random.Generator,
        names: Iterable[str],
        scores: LatentScores,
        users: Int,
        videos: Int,
        depth: Int,
    ) -> dict[str, NDArray[Any]]:
        """Actions after plays of depth [R, C]: 0 no valid play, 1 a valid play, 2 a long view."""
        drawn = {}
        for name in names:
            by_play = np.take_along_axis(self.effects.action_by_play(name, users), depth, axis=1)
            probability = sigmoid(self._action(name, scores, videos) + by_play)
            drawn[name] = (rng.random(videos.shape, dtype=np.float32) < probability).astype(np.int8)
        return drawn

    def _watch_ms(
        self,
        rng: np.random.Generator,
        scores: LatentScores,
        videos: Int,
        valid_play: NDArray[np.bool_],
        long_view: NDArray[np.bool_],
    ) -> NDArray[np.int32]:
        """[R, C] watch times on those sides of the two limits that the draws chose."""
        duration, progress = self.latents.duration_ms[videos], reach(rng, scores.engage)
        valid, long = np.minimum(TRIGGER_MS, duration // 2), np.minimum(LONG_VIEW_MS, duration)
        # A long view can be longer than the video.
        viewed = long + (duration * np.float32(1.25) - long) * progress
        played = np.minimum(valid + 1 + (long - valid - 1) * progress, long - 1)
        return np.where(long_view, viewed, np.where(valid_play, played, valid * progress)).astype(np.int32)
