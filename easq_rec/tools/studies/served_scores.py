"""Rankings of the held-out requests by a trained cell: by its policy score and by other served scores."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from easq_rec.config import Config
from easq_rec.config.variants import VARIANTS
from easq_rec.evaluation.metrics.by_request import request_columns
from easq_rec.evaluation.metrics.intervals import UserSums
from easq_rec.evaluation.predict import Predictions
from easq_rec.run_directory.paths import RunDirectory
from easq_rec.serving.evaluate import rank_fused, rank_with
from easq_rec.tools.simulation.default_data import prepare_data
from easq_rec.tools.studies.partner import PRIORS, Addition
from easq_rec.tools.studies.user_metrics import NAMES, UserMetrics
from easq_rec.training import session


def rankings(config: Config, served: Sequence[str]) -> dict[str, Predictions]:
    """The ranked held-out requests, by served score.

    Args:
        config: of a finished run.
        served: weights of the reference score, and texts of `Addition`. Partners that are variants are trained here.
    """
    fused = {text: float(text) for text in served if Addition.read(text) is None}
    additions = {text: addition for text in served if (addition := Addition.read(text)) is not None}
    found: dict[str, Predictions] = {}
    if fused:
        ranked = rank_fused(config, list(fused.values()))
        found |= {text: ranked[weight] for text, weight in fused.items()}
    trained = {name: _trained(name, config) for name in _unique(addition.variant for addition in additions.values())}
    for partner in _unique(addition.partner for addition in additions.values()):
        of_partner = {text: addition for text, addition in additions.items() if addition.partner == partner}
        first = next(iter(of_partner.values()))
        ranked = rank_with(
            config,
            [addition.weight for addition in of_partner.values()],
            prior=PRIORS[first.prior] if first.prior else None,
            second=trained[first.variant] if first.variant else None,
        )
        found |= {text: ranked[addition.weight] for text, addition in of_partner.items()}
    for second in trained.values():
        # A study has many cells and does not need their models again.
        shutil.rmtree(RunDirectory(Path(str(second.run_dir))).checkpoints)
    return {text: found[text] for text in served}


def user_metrics(ranked: Mapping[str, Predictions]) -> UserMetrics:
    """What every user adds to the metrics of rankings of the same requests.

    Args:
        ranked: by served score.
    """
    by_served = {}
    for served, found in ranked.items():
        columns = request_columns(found.served_N, found.truth_N, found.utility_N, found.lengths_R, found.user_R)
        by_served[served] = UserSums(found.user_R.numpy(), {name: value.numpy() for name, value in columns.items()})
    user_U = next(iter(by_served.values())).user_U
    return UserMetrics(user_U=user_U, sums={served: sums.quotients(NAMES) for served, sums in by_served.items()})


def _unique(names: Iterable[str | None]) -> list[str]:
    """The names, each once, in order."""
    return list(dict.fromkeys(name for name in names if name is not None))


def _trained(variant: str, config: Config) -> Config:
    """Trains a variant of a run on its data, below its run directory."""
    second = dataclasses.replace(VARIANTS[variant](config), run_dir=f"{config.run_dir}/{variant}", recipe=variant)
    code = session.train(second, prepare_data)
    assert not code, "a training that fails raises"
    return second
