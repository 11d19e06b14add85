"""World 1: satisfaction depends mostly on the video, and every action after a long view follows it.

Engagement and satisfaction share affinity and quality but differ in clickbait, which raises watching and lowers
satisfaction. A ranker that learns only from behaviour therefore deviates from satisfaction, which is the gap that EASQ
(arXiv 2601.20215) aims to close. The formulas are in `datasets/world/README.md`.

Shapes: R requests, C candidates per request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from easq_rec.config import World
from easq_rec.config.schema import require
from easq_rec.data import exact
from easq_rec.data.exact import sigmoid
from easq_rec.tools.simulation.latents import Float, Int, Latents
from easq_rec.tools.simulation.rounds import Round
from easq_rec.tools.simulation.scores import LatentScores, Thresholds
from easq_rec.tools.simulation.watching import TRIGGER_MS, reach

# Weights of the standardised parts. Clickbait is as strong as affinity in engagement and has the opposite sign in
# satisfaction; affinity and quality keep the two positively correlated, as in production logs.
ENGAGE_BIAS, ENGAGE_AFFINITY, ENGAGE_CLICKBAIT, ENGAGE_QUALITY, ENGAGE_DURATION, ENGAGE_OWN = (
    -0.7,
    1.1,
    0.8,
    0.4,
    0.2,
    0.4,
)
SATISFY_AFFINITY, SATISFY_QUALITY, SATISFY_CLICKBAIT, SATISFY_OWN = 0.8, 0.8, 0.8, 0.4

ANSWER_NOISE = 0.5
"""Standard deviation of an answer's noise; satisfaction has standard deviation 1."""
CALIBRATION_REQUESTS = 4_096
LOG_100 = 4.605170185988092

ACTIONS = {"like": (-2.4, 1.1, 0.2), "follow": (-3.8, 1.0, 0.1)}
"""Bias, and weights of satisfaction and engagement, of the actions after a long view."""
LATER = {"comment": (-4.2, 0.9, 0.2), "forward": (-3.5, 1.0, 0.1), "returned": (-1.9, 1.25, 0.0)}
"""The same of actions that were added later and have a separate random state."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstWorld:
    """World 1, with level and scale of its latent scores under the logging policy."""

    config: World
    latents: Latents
    affinity_mean: float
    affinity_std: float
    aversion: float
    """Weight of clickbait in the satisfaction."""
    satisfaction_mean: float
    satisfaction_std: float
    thresholds: Thresholds
    round_type = Round
    answer_noise = ANSWER_NOISE
    satisfied_misreport = dissatisfied_misreport = 0.0

    def scores(self, users: Int, videos: Int, timestamp_ms: Int) -> LatentScores:
        """The utilities of users [R] and videos [R, C]. They do not depend on the time."""
        engage, raw = utilities(self.latents, users, videos, self.affinity_mean, self.affinity_std, self.aversion)
        satisfy = (raw - np.float32(self.satisfaction_mean)) / np.float32(self.satisfaction_std)
        return LatentScores(engage, satisfy)

    def act(self, rng: np.random.Generator, scores: LatentScores, users: Int, videos: Int) -> dict[str, NDArray[Any]]:
        """Plays, likes and follows of users [R] on videos [R, C], and the probability of a long view."""
        engage, shape = scores.engage, videos.shape
        probability = sigmoid(engage)
        long_view = rng.random(shape, dtype=np.float32) < probability
        # The watch time is on the side of the limit that the draw chose; a long view can be longer than the video.
        duration = self.latents.duration_ms[videos]
        limit = np.minimum(TRIGGER_MS, duration // 2)
        progress = reach(rng, engage)
        longest = duration * np.float32(1.25) - limit
        watch = np.where(long_view, limit + 1 + longest * progress, limit * progress).astype(np.int32)
        actions = {name: _acts(rng, scores, long_view, *weights) for name, weights in ACTIONS.items()}
        return {
            "watch_ms": watch,
            "long_view": long_view.astype(np.int8),
            **actions,
            "true_engagement": probability,
        }

    def act_later(
        self, rng: np.random.Generator, scores: LatentScores, users: Int, videos: Int, acted: dict[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        """The other actions of users on their candidates, after those of `act`."""
        return {name: _acts(rng, scores, acted["long_view"] == 1, *weights) for name, weights in LATER.items()}

    def expected(self, scores: LatentScores, users: Int, videos: Int) -> dict[str, Float]:
        """[R, C] probability of each action."""
        view = sigmoid(scores.engage)
        return {"long_view": view} | {
            name: view * sigmoid(_logit(scores, *weights)) for name, weights in (ACTIONS | LATER).items()
        }

    def response_odds(self, users: Int, satisfy: Float) -> float:
        """Factor of the odds of an answer: whoever is asked is equally ready to answer."""
        return 1.0

    def careless(self, users: Int) -> None:
        """Nobody answers carelessly."""


def _logit(scores: LatentScores, bias: float, by_satisfaction: float, by_engagement: float) -> Float:
    return np.asarray(bias + by_satisfaction * scores.satisfy + by_engagement * scores.engage)


def _acts(
    rng: np.random.Generator, scores: LatentScores, long_view: NDArray[np.bool_], *weights: float
) -> NDArray[np.int8]:
    draw = rng.random(long_view.shape, dtype=np.float32)
    return (long_view & (draw < sigmoid(_logit(scores, *weights)))).astype(np.int8)


def utilities(
    latents: Latents, users: Int, videos: Int, affinity_mean: float, affinity_std: float, aversion: float
) -> tuple[Float, Float]:
    """([R, C], [R, C]): the logit of engagement, and the latent satisfaction before standardisation."""
    affinity = (latents.affinity(users, videos) - np.float32(affinity_mean)) / np.float32(affinity_std)
    own_engage, own_satisfy = latents.own(users, videos)
    quality, clickbait = latents.quality[videos], latents.clickbait[videos]
    engage = (
        np.float32(ENGAGE_BIAS)
        + np.float32(ENGAGE_AFFINITY) * affinity
        + np.float32(ENGAGE_CLICKBAIT) * latents.susceptibility[users][:, None] * clickbait
        + np.float32(ENGAGE_QUALITY) * quality
        - np.float32(ENGAGE_DURATION) * latents.duration_z[videos]
        + np.float32(ENGAGE_OWN) * own_engage
    )
    satisfy = (
        np.float32(SATISFY_AFFINITY) * affinity
        + np.float32(SATISFY_QUALITY) * quality
        - np.float32(aversion) * clickbait
        + np.float32(SATISFY_OWN) * own_satisfy
    )
    return engage, satisfy


def calibrate(latents: Latents, config: World) -> FirstWorld:
    """Measures level, scale and thresholds on a sample of the logging policy that never enters the log."""
    rng = np.random.default_rng([config.seed, 1])
    users = rng.integers(0, config.users, CALIBRATION_REQUESTS)
    videos = latents.candidates(rng, users, min(config.candidates, 32))
    affinity = latents.affinity(users, videos)
    mean, std = float(affinity.mean()), max(float(affinity.std()), 1e-6)
    aversion = SATISFY_CLICKBAIT
    if config.rho is not None:
        engage, liking = utilities(latents, users, videos, mean, std, 0.0)
        aversion = aversion_for(config.rho, engage.ravel(), liking.ravel(), latents.clickbait[videos].ravel())
    engage, raw = utilities(latents, users, videos, mean, std, aversion)
    level, scale = float(raw.mean()), max(float(raw.std()), 1e-6)
    return FirstWorld(
        config=config,
        latents=latents,
        affinity_mean=mean,
        affinity_std=std,
        aversion=aversion,
        satisfaction_mean=level,
        satisfaction_std=scale,
        thresholds=Thresholds.of(rng, (raw - level) / scale, sigmoid(engage), ANSWER_NOISE),
    )


def aversion_for(rho: float, engage: Float, liking: Float, clickbait: Float) -> float:
    """The weight w at which `engage` and `liking - w clickbait` have correlation rho. All arrays are flat.

    Raises:
        UserError: no weight gives that correlation.
    """
    engage, liking, clickbait = (values - values.mean(dtype=np.float64) for values in (engage, liking, clickbait))
    engage_var, liking_var, bait_var = (float((values * values).mean()) for values in (engage, liking, clickbait))
    cross, bait, between = (
        float((one * other).mean()) for one, other in ((engage, liking), (engage, clickbait), (liking, clickbait))
    )
    # Fine steps in the range of most weights, then equal ratios up to 1,000.
    weights = np.concatenate([np.linspace(-10, 10, 20_001), 10 * exact.exp(np.linspace(0, LOG_100, 1_000))])
    variance = np.maximum(liking_var - 2 * weights * between + weights * weights * bait_var, 1e-12)
    correlation = (cross - weights * bait) / np.sqrt(engage_var * variance)
    # The correlation falls after its maximum.
    top = int(np.argmax(correlation))
    low, high = float(correlation[-1]), float(correlation[top])
    require(low <= rho <= high, "world.rho", rho, f"between {low:.2f} and {high:.2f} with these users and videos")
    correlation, weights = correlation[top:], weights[top:]
    after = min(max(int(np.searchsorted(-correlation, -rho)), 1), len(weights) - 1)
    share = (correlation[after - 1] - rho) / (correlation[after - 1] - correlation[after])
    return float(weights[after - 1] + share * (weights[after] - weights[after - 1]))
