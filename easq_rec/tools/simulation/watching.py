"""How long a video is watched: what both worlds share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from easq_rec.data import exact
from easq_rec.tools.simulation.latents import Float

TRIGGER_MS = 7_000
"""By the paper's rule a video watched for longer than this, or for more than half of it, triggers the questionnaire."""


def reach(rng: np.random.Generator, engage: Float) -> NDArray[np.float64]:
    """[R, C] part of the way from the shortest to the longest possible watch time; higher for higher engagement.

    It is u ** exp(-engage / 2) with u uniform and above 0.
    """
    return exact.exp(exact.exp(-0.5 * engage) * exact.log(1 - rng.random(engage.shape)))
