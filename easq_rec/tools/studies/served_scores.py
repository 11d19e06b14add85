"""Rankings of a trained cell by other served scores than its policy score."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from easq_rec.config import Config
from easq_rec.config.variants import VARIANTS
from easq_rec.evaluation.metrics import RankingMetrics
from easq_rec.run_directory.paths import RunDirectory
from easq_rec.serving.evaluate import rank_fused, rank_with_prior, rank_with_second
from easq_rec.tools.simulation.default_data import prepare_data
from easq_rec.tools.studies.partner import PRIORS, Addition
from easq_rec.training import session


def rankings(config: Config, served: Sequence[str]) -> dict[str, RankingMetrics]:
    """Ranking metrics on the held-out requests, by served score.

    Args:
        config: of a finished run.
        served: weights of the reference score, and texts of `Addition`. A partner that is a variant is trained here.
    """
    found: dict[str, RankingMetrics] = {}
    added: dict[str | None, dict[str, float]] = {}
    for text in served:
        addition = Addition.read(text)
        partner, weight = (None, float(text)) if addition is None else (addition.partner, addition.weight)
        added.setdefault(partner, {})[text] = weight
    for partner, weights in added.items():
        ranked = _rank_with(partner, config, list(weights.values()))
        found |= {text: ranked[weight] for text, weight in weights.items()}
    return found


def _rank_with(partner: str | None, config: Config, weights: Sequence[float]) -> dict[float, RankingMetrics]:
    """Metrics of the policy score plus a partner's score, by weight of the partner; None: the satisfaction score is
    added to the main tower's."""
    if partner is None:
        return rank_fused(config, weights)
    if partner in PRIORS:
        return rank_with_prior(config, weights, PRIORS[partner])
    second = dataclasses.replace(VARIANTS[partner](config), run_dir=f"{config.run_dir}/{partner}", recipe=partner)
    code = session.train(second, prepare_data)
    assert not code, "a training that fails raises"
    found = rank_with_second(config, second, weights)
    # A study has many cells and does not need their models again.
    shutil.rmtree(RunDirectory(Path(str(second.run_dir))).checkpoints)
    return found
