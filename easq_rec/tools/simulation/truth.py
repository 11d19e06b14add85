"""The truth about candidates of a synthetic world: what a study's rows `oracle` and `random` are measured with.

`true_satisfaction` and `true_engagement` of the files are a grade and the probability of a long view. Here are the
numbers behind them, for any candidates: the files give their users, videos and times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from easq_rec.errors import UserError
from easq_rec.tools.simulation.latents import Float, Int
from easq_rec.tools.simulation.models import Model


class Truth(NamedTuple):
    """Expectations before anything is drawn. All arrays are [R, C]."""

    utility: Float
    """Expected engagement utility: the sum of the outcomes' probabilities, each times its weight."""
    satisfaction: Float
    """Latent satisfaction, with mean 0 and variance 1 under the logging policy."""


def truth(model: Model, users: Int, videos: Int, timestamp_ms: Int, weights: Mapping[str, float]) -> Truth:
    """The truth about the candidates of requests.

    Args:
        users: [R] users of the requests.
        videos: [R, C] their candidates.
        timestamp_ms: [R] times of the requests.
        weights: weight of each outcome in the utility, as in the schema.

    Raises:
        UserError: the world has no such outcome.
    """
    scores = model.scores(users, videos, timestamp_ms)
    expected = model.expected(scores, users, videos)
    unknown = sorted(set(weights) - set(expected))
    if unknown:
        raise UserError(f"outcomes {unknown} are not in World {model.config.version}: it has {sorted(expected)}")
    utility = np.zeros(videos.shape, dtype=np.float32)
    for name, weight in weights.items():
        utility += np.float32(weight) * expected[name]
    return Truth(utility=utility, satisfaction=scores.satisfy)
