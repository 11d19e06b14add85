"""Rankers with random weights, as they are served."""

from __future__ import annotations

import torch

from easq_rec.config import Config
from easq_rec.model.ranker import Ranker
from tests.builders import excite


def ranker_of(config: Config) -> Ranker:
    """A ranker whose adapters are merged, and whose warm-up is over."""
    ranker = Ranker(config, torch.device("cpu")).eval()
    excite(ranker)
    ranker.network.steer()
    ranker.network.merge_adapters()
    return ranker
