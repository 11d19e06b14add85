"""What is false in a log of World 2: users who answer carelessly, and videos whose likes are bought.

Who and which are chosen evenly over activity and popularity, as traits are: an independent draw could choose a few very
active users, or a few popular videos, and every seed would have another share of false answers and likes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from easq_rec.config import World
from easq_rec.tools.simulation.latents import Latents
from easq_rec.tools.simulation.second_traits import even_uniform, rank_of

USER_PRIME, VIDEO_PRIME = 59, 61
"""Primes that the traits do not use, so that the choice does not depend on any trait."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Faults:
    """The careless users and the bought videos."""

    careless: NDArray[np.bool_]
    """[U] whether a user answers carelessly."""
    bought: NDArray[np.bool_]
    """[V] whether likes and follows of a video are bought."""


def draw_faults(config: World, latents: Latents) -> Faults:
    """Chooses the users and the videos. A larger share adds to those of a smaller one.

    Has its own random state, and changes no other draw.
    """
    user_shift, video_shift = np.random.default_rng([config.seed, 9]).random(2)
    by_activity, by_popularity = rank_of(-latents.activity), rank_of(-latents.popularity)
    return Faults(
        careless=even_uniform(by_activity, USER_PRIME, user_shift) < config.careless_users,
        bought=even_uniform(by_popularity, VIDEO_PRIME, video_shift) < config.bought_videos,
    )
