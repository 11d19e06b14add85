"""Evaluates a checkpoint of a run on held-out requests and answers, in one process."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from easq_rec.config import Config
from easq_rec.data import files
from easq_rec.data.columns import Rows
from easq_rec.data.dataset import Period, RequestDataset, split
from easq_rec.data.encode import encode
from easq_rec.data.layout import Layout
from easq_rec.data.quarantine import Quarantine
from easq_rec.data.sources import open_holdout, world_directory
from easq_rec.errors import UserError
from easq_rec.evaluation import predict as evaluation
from easq_rec.evaluation import results as evaluation_files
from easq_rec.evaluation.calibration_fit import apply_maps
from easq_rec.model.ranker import Ranker
from easq_rec.run_directory.calibration_file import OutcomeCalibration, read_calibration
from easq_rec.run_directory.checkpoint_files import checkpoint_of
from easq_rec.run_directory.config_file import load_config
from easq_rec.run_directory.paths import RunDirectory
from easq_rec.serving.prior_counts import PriorOf, item_layout, prior_from, prior_of
from easq_rec.serving.score import load_served
from easq_rec.training.process import quiet

CPU = torch.device("cpu")


def evaluate(
    run_dir: Path,
    data: files.Location | None,
    *,
    fuse: float | None = None,
    best: bool = False,
    calibrated: bool = False,
    thinned: bool = True,
    users: evaluation_files.UserGroup = "all",
) -> evaluation_files.Evaluated:
    """Evaluates a run's newest checkpoint on held-out requests and answers.

    Args:
        data: location with requests/ and, optionally, answers/; None: the run's training data.
        fuse: weight of the satisfaction score in the served score; None: that of the policy score.
        best: evaluate the checkpoint that `checkpoint.best` kept.
        calibrated: apply the maps of `easq-rec calibrate`, and evaluate only requests after those that they were
            fitted to.
        thinned: the data lack the negatives that `Outcome.negatives_kept` says; False: they have all.
        users: known: only users with a request in the training period. new: only the others.

    Raises:
        UserError: the run has no such checkpoint, no satisfaction tower to fuse with, or no map for the checkpoint; or
            there are no requests to evaluate.
    """
    config = load_config(run_dir)
    directory = data_of(config, data)
    answers = files.join(directory, "answers")
    period, quarantine = held_out(config, directory), quarantine_of(config, run_dir)
    checkpoint = checkpoint_of(run_dir, best=best)
    maps = read_calibration(run_dir, checkpoint) if calibrated else None
    if maps is not None:
        period = Period(start_ms=max(period.start_ms, maps.until_ms), end_ms=period.end_ms)
        if period.start_ms >= period.end_ms:
            raise UserError(
                f"--calibrated: {files.display_name(directory)} has no requests after those that the maps were fitted "
                f"to (timestamp_ms {maps.until_ms} and later): name later data, or run `easq-rec calibrate` again with "
                "a smaller --share"
            )
    ranker = load_served(config, run_dir, fuse, best=best)
    predictions = predictions_of(ranker, config, run_dir, directory, period, fuse)
    if maps is not None:
        predictions = calibrated_predictions(predictions, maps, config)
    answered = None
    if files.is_dir(answers):
        layout = Layout.of(config.schema, answers=True)
        found = RequestDataset(
            answers, layout, period=period, max_history=config.data.max_history, quarantine=quarantine
        ).read_all()
        if found is not None:
            answered = evaluation.predict_answers(ranker.score, encode(layout, found), config, CPU, fuse=fuse)
    scale = config.schema.answers
    origin = evaluation_files.Origin(
        recipe=config.recipe,
        step=checkpoint.step,
        fuse=fuse,
        answers=scale,
        calibration=maps.method if maps is not None else None,
        user_group=users,
    )
    table = evaluation_files.evaluation_table(
        predictions, answered, scale=scale, outcomes=config.schema.outcomes, thinned=thinned
    )
    if users != "all":
        known_R = np.isin(table["user_id"].to_numpy(), training_users(config, directory, quarantine))
        table = table.filter(pa.array(known_R if users == "known" else ~known_R))
        if not len(table):
            raise UserError(f"--users {users}: no held-out request of {files.display_name(directory)} has such a user")
    return evaluation_files.Evaluated(origin=origin, table=table)


def training_users(config: Config, directory: files.Location, quarantine: Quarantine | None) -> Rows:
    """The ids of the users with a request in the training period, each once."""
    requests = files.join(directory, "requests")
    training, _ = split(requests, config.data.holdout)
    dataset = RequestDataset(requests, item_layout(config.schema), period=training, quarantine=quarantine)
    users = [np.unique(dataset.read(group).scalars["user_id"]) for group in dataset.row_groups if group.kept]
    return np.unique(np.concatenate(users)) if users else np.zeros(0, np.int64)


def rank_fused(config: Config, weights: Sequence[float]) -> dict[float, evaluation.Predictions]:
    """Held-out requests ranked by a run with other values of `model.satisfaction_weight`, by value.

    As in what the run serves, the satisfaction score does not count before the warm-up has ended.
    """
    directory, run_dir = data_of(config, None), Path(str(config.run_dir))
    ranker = load_served(config, run_dir, weights[0])
    found = predictions_of(ranker, config, run_dir, directory, held_out(config, directory), weights[0])
    assert found.satisfaction_N is not None
    steering = ranker.network.steering
    counted_N = found.satisfaction_N * (1.0 if steering is None else float(steering))
    return {weight: dataclasses.replace(found, served_N=found.main_N + weight * counted_N) for weight in weights}


def rank(config: Config) -> evaluation.Predictions:
    """Held-out requests ranked by the policy score of a run."""
    directory, run_dir = data_of(config, None), Path(str(config.run_dir))
    return predictions_of(load_served(config, run_dir, None), config, run_dir, directory, held_out(config, directory))


def rank_with(
    config: Config, weights: Sequence[float], *, prior: PriorOf | None = None, second: Config | None = None
) -> dict[float, evaluation.Predictions]:
    """Held-out requests ranked by the policy score of a run plus a weight times other scores, by weight.

    A prior of the item is in standard deviations over the training period. With a second run, its policy score and
    that of this run are standardised over all held-out candidates, and not within a request. So a request whose
    candidates hardly differ in one score is ranked by the other. The scales of the two towers are free, so weights of
    the raw scores would mean something else in every run. With both, the prior and the second score have one weight.

    Args:
        prior: what the prior is made of, in the training period; None: none is added.
        second: another run on the same data; None: none is added.

    Raises:
        UserError: the prior is one of actions, and the schema has none, or actions say nothing.
    """
    assert prior is not None or second is not None
    directory = data_of(config, None)
    training, held = split(files.join(directory, "requests"), config.data.holdout)
    found = rank(config)
    policy_N = found.served_N.double()
    added_N = torch.zeros_like(policy_N)
    if prior is not None:
        requests, quarantine = files.join(directory, "requests"), quarantine_of(config, Path(str(config.run_dir)))
        counted = prior_from(prior, directory, config.schema, training, quarantine)
        ranked = RequestDataset(requests, item_layout(config.schema), period=held, quarantine=quarantine)
        added_N = added_N + torch.from_numpy(prior_of(counted, ranked, found.request_id_R.numpy()))
    if second is not None:
        other = rank(second)
        assert torch.equal(found.request_id_R, other.request_id_R), "both runs rank the same requests in the same order"
        policy_N, added_N = _standardised(policy_N), added_N + _standardised(other.served_N)
    return {weight: dataclasses.replace(found, served_N=policy_N + weight * added_N) for weight in weights}


def _standardised(score_N: torch.Tensor) -> torch.Tensor:
    """Scores minus their mean, divided by their standard deviation, float64; zeros if all are equal."""
    centred_N = score_N.double() - score_N.double().mean()
    return centred_N / centred_N.square().mean().sqrt().clamp(min=torch.finfo(torch.float64).tiny)


def predictions_of(
    ranker: Ranker,
    config: Config,
    run_dir: Path,
    directory: files.Location,
    period: Period,
    fuse: float | None = None,
) -> evaluation.Predictions:
    """The predictions of a run's ranker for the requests of a period.

    Raises:
        UserError: there are none.
    """
    quiet()
    requests = files.join(directory, "requests")
    holdout, truth = open_holdout(config, requests, period, quarantine=quarantine_of(config, run_dir))
    stream = evaluation.batches(holdout, config, truth=truth)
    return evaluation.predict(ranker.score, stream, config, CPU, fuse=fuse)


def calibrated_predictions(
    predictions: evaluation.Predictions, calibration: OutcomeCalibration, config: Config
) -> evaluation.Predictions:
    """Predictions with calibrated outcomes. Scores stay as they are: the losses of alignment shape the policy score,
    and a map that is fitted to outcomes would undo a part of what they do."""
    assert predictions.logit_NO is not None
    logit_NO = apply_maps(calibration.maps, predictions.logit_NO, config.schema.outcomes)
    return dataclasses.replace(predictions, logit_NO=logit_NO)


def data_of(config: Config, data: files.Location | None) -> files.Location:
    """The location that holds requests/: the given one, or that of the run's training data.

    Raises:
        UserError: the run follows a stream, and none is given.
    """
    if data is None and config.follow.source is not None:
        raise UserError(f"the run follows {config.follow.source}: name a directory with requests/ by --data")
    return data or config.data.path or world_directory(config)


def held_out(config: Config, directory: files.Location) -> Period:
    """The held-out part of the time line."""
    return split(files.join(directory, "requests"), config.data.holdout)[1]


def quarantine_of(config: Config, run_dir: Path) -> Quarantine | None:
    """Where a run sets bad rows aside; None: a bad row ends it."""
    return Quarantine(RunDirectory(run_dir).quarantine) if config.data.on_bad_rows == "quarantine" else None
