"""Evaluates a checkpoint of a run on held-out requests and answers, in one process."""

from __future__ import annotations

from pathlib import Path

import torch

from easq_rec.config import Config
from easq_rec.data import files
from easq_rec.data.dataset import Period, RequestDataset, split
from easq_rec.data.encode import encode
from easq_rec.data.layout import Layout
from easq_rec.data.quarantine import Quarantine
from easq_rec.data.sources import open_holdout, world_directory
from easq_rec.evaluation import predict as evaluation
from easq_rec.evaluation import results as evaluation_files
from easq_rec.evaluation.metrics import RankingMetrics, ranking_metrics
from easq_rec.model.ranker import Ranker
from easq_rec.run_directory.checkpoint_files import checkpoint_of
from easq_rec.run_directory.config_file import load_config
from easq_rec.run_directory.paths import RunDirectory
from easq_rec.serving.score import load_served
from easq_rec.training.process import quiet

CPU = torch.device("cpu")


def evaluate(
    run_dir: Path, data: files.Location | None, *, fuse: float | None = None, best: bool = False
) -> evaluation_files.Evaluated:
    """Evaluates a run's newest checkpoint on held-out requests and answers.

    Args:
        data: location with requests/ and, optionally, answers/; None: the run's training data.
        fuse: weight of the reference score in the served score; None: the policy score is served.
        best: evaluate the checkpoint that `checkpoint.best` kept.

    Raises:
        UserError: the run has no such checkpoint, or no satisfaction tower to fuse with.
    """
    config = load_config(run_dir)
    directory = data or config.data.path or world_directory(config)
    answers = files.join(directory, "answers")
    period, quarantine = _held_out(config, directory), _quarantine(config, run_dir)
    ranker, predictions = _predict(config, run_dir, directory, fuse, best=best)
    answered = None
    if files.is_dir(answers):
        layout = Layout.of(config.schema, answers=True)
        found = RequestDataset(
            answers, layout, period=period, max_history=config.data.max_history, quarantine=quarantine
        ).read_all()
        if found is not None:
            answered = evaluation.predict_answers(ranker.score, encode(layout, found), config, CPU, fuse=fuse)
    checkpoint = checkpoint_of(run_dir, best=best)
    scale = config.schema.answers
    origin = evaluation_files.Origin(recipe=config.recipe, step=checkpoint.step, fuse=fuse, answers=scale)
    table = evaluation_files.evaluation_table(predictions, answered, scale=scale)
    return evaluation_files.Evaluated(origin=origin, table=table)


def rank_fused(config: Config, fuse: float) -> RankingMetrics:
    """Ranking metrics of a run with weight `fuse` of the reference score in the served score."""
    directory = config.data.path or world_directory(config)
    _, found = _predict(config, Path(str(config.run_dir)), directory, fuse)
    return ranking_metrics(found.served_N, found.truth_N, found.utility_N, found.lengths_R, found.user_R)


def _predict(
    config: Config, run_dir: Path, directory: files.Location, fuse: float | None, *, best: bool = False
) -> tuple[Ranker, evaluation.Predictions]:
    """The ranker of a checkpoint, and its predictions for the held-out requests."""
    quiet()
    requests, period = files.join(directory, "requests"), _held_out(config, directory)
    holdout, truth = open_holdout(config, requests, period, quarantine=_quarantine(config, run_dir))
    ranker = load_served(config, run_dir, fuse, best=best)
    stream = evaluation.batches(holdout, config, truth=truth)
    return ranker, evaluation.predict(ranker.score, stream, config, CPU, fuse=fuse)


def _held_out(config: Config, directory: files.Location) -> Period:
    return split(files.join(directory, "requests"), config.data.holdout)[1]


def _quarantine(config: Config, run_dir: Path) -> Quarantine | None:
    return Quarantine(RunDirectory(run_dir).quarantine) if config.data.on_bad_rows == "quarantine" else None
