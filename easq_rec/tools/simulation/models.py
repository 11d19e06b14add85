"""The model of a world: who likes what, what people do, and how they answer.

A world is a union of models, one per version of `World`. Both have the same methods:

- `scores(users, videos, timestamp_ms)`: engagement and satisfaction of candidates.
- `act(rng, scores, users, videos)`, then `act_later(...)`: what users do, as random draws.
- `expected(scores, users, videos)`: the probability of each of these actions.
- `response_odds(users, satisfy)`, `answer_noise`, `careless(users)` and the misreports: how users answer.
"""

from __future__ import annotations

from easq_rec.config import World
from easq_rec.tools.simulation import first_world, second_calibration
from easq_rec.tools.simulation.first_world import FirstWorld
from easq_rec.tools.simulation.latents import draw_latents
from easq_rec.tools.simulation.second_world import SecondWorld

Model = FirstWorld | SecondWorld


def create_model(config: World) -> Model:
    """Draws and calibrates the world of a config. Deterministic in its version, seed, sizes and model options.

    Raises:
        UserError: `world.rho` cannot be reached with these users and videos.
    """
    latents = draw_latents(config)
    if config.version == 1:
        return first_world.calibrate(latents, config)
    return second_calibration.calibrate(latents, config)
