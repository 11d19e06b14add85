"""The data of a run, from its config: training loader, held-out requests, and all answers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from easq_rec import json_file
from easq_rec.answers.evidence import Expectations
from easq_rec.config import Config
from easq_rec.data import files
from easq_rec.data.dataset import Period, RequestDataset, split
from easq_rec.data.encode import EncodedRequests, encode
from easq_rec.data.feature_dropout import FeatureDropout
from easq_rec.data.layout import Layout, leaf_types
from easq_rec.data.loader import TrainLoader
from easq_rec.data.order import RequestReader
from easq_rec.data.presence import no_answers, no_requests
from easq_rec.data.quarantine import Quarantine
from easq_rec.data.replay import AnswerReplay
from easq_rec.data.response import outcome_layout, propensities
from easq_rec.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Everything that a run reads."""

    loader: TrainLoader
    reader: RequestReader
    train: RequestDataset
    holdout: RequestDataset
    truth: str | None
    """Candidate column with graded truth, if the held-out data have one."""
    answers: EncodedRequests | None
    """All answered requests, for diagnostics; training sees only those of its period, once they are due."""
    train_period: Period
    holdout_period: Period


def world_directory(config: Config) -> Path:
    """Directory of the built-in world of this config, relative to the working directory."""
    digest = hashlib.sha256(json_file.text(config.world.identity, sort_keys=True).encode()).hexdigest()[:8]
    return Path("data") / f"world-{digest}"


def open_sources(
    config: Config,
    directory: files.Location,
    *,
    period: Period | None = None,
    quarantine: Quarantine | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Sources:
    """Opens the two datasets of a directory and splits them by time.

    Args:
        period: the training period, with nothing held out; None: the time line without its last fraction
            `data.holdout`.
        quarantine: stores bad rows; None: a bad row is an error.

    Raises:
        UserError: a dataset is missing or does not match the schema, a period has no requests, or the stream follows
            time but the row groups are not in time order.
    """
    requests, data = files.join(directory, "requests"), config.data
    if not files.is_dir(requests):
        raise no_requests(files.display_name(directory))
    if period is None:
        train_period, holdout_period = split(requests, data.holdout)
    else:
        train_period, holdout_period = period, Period(start_ms=period.end_ms, end_ms=period.end_ms)
    layout = Layout.of(config.schema)
    train = RequestDataset(requests, layout, period=train_period, max_history=data.max_history, quarantine=quarantine)
    if not len(train):
        where = files.display_name(requests)
        if period is not None:
            raise UserError(f"{where} has no requests from {period.start_ms} to before {period.end_ms} ms")
        raise UserError(f"data.holdout={data.holdout} leaves no training requests in {where}: lower it")
    if not data.shuffle:
        train.check_time_order()
    reader = RequestReader(
        train,
        batch_size=config.trainer.batch_size,
        rank=rank,
        world_size=world_size,
        shuffle_row_groups=data.shuffle_row_groups if data.shuffle else None,
        user_requests=data.user_requests,
        # In time order all ranks advance together: no answer is due before the stream has reached it.
        spread=data.shuffle,
        seed=config.trainer.seed,
        workers=data.workers,
    )
    holdout, truth = open_holdout(config, requests, holdout_period, quarantine=quarantine)
    answers = _read_answers(config, directory, quarantine) if config.reads_answers else None
    replay, weighing = None, None
    if config.losses.weighs_answers:
        outcomes = RequestDataset(requests, outcome_layout(config.schema), period=train_period, quarantine=quarantine)
        weighing = propensities(outcomes, answers, train_period, most=config.losses.satisfaction.most_weight)
    if config.aligned:
        replay = AnswerReplay(
            answers,
            config.replay,
            until_ms=train_period.end_ms,
            ranked=config.ranked_answers,
            scale=config.schema.answers,
            slates=config.losses.slates,
            outcomes=[outcome.name for outcome in config.schema.outcomes],
            caution=config.losses.evidence.caution,
            expected=Expectations.of(config.schema.outcomes, config.losses.evidence),
            weights=config.losses.evidence.weights,
            ridge=config.losses.reward.ridge if config.losses.rewards else None,
            propensities=weighing,
            seed=config.trainer.seed,
            rank=rank,
            world_size=world_size,
        )
    return Sources(
        loader=TrainLoader(
            config.schema,
            reader,
            replay,
            align_every=config.losses.align_every,
            draws=config.losses.replays_answers,
            prefetch=data.prefetch,
            by_user=config.losses.groups == "user",
            dropout=FeatureDropout.of(config.schema, rate=config.model.feature_dropout, seed=config.trainer.seed),
        ),
        reader=reader,
        train=train,
        holdout=holdout,
        truth=truth,
        answers=answers,
        train_period=train_period,
        holdout_period=holdout_period,
    )


def open_holdout(
    config: Config, requests: files.Location, period: Period, *, quarantine: Quarantine | None = None
) -> tuple[RequestDataset, str | None]:
    """(held-out requests, name of their graded truth column); the column is None if the files have none."""

    def opened(layout: Layout) -> RequestDataset:
        return RequestDataset(
            requests, layout, period=period, max_history=config.data.max_history, quarantine=quarantine
        )

    plain, truth = opened(Layout.of(config.schema)), config.evaluation.satisfaction
    if f"candidates.{truth}" not in {path for path, _ in leaf_types(plain.file_schema)}:
        return plain, None
    return opened(Layout.of(config.schema, truth=truth)), truth


def _read_answers(config: Config, directory: files.Location, quarantine: Quarantine | None) -> EncodedRequests | None:
    answers = files.join(directory, "answers")
    if not files.is_dir(answers):
        raise no_answers(config, files.display_name(directory))
    layout = Layout.of(config.schema, answers=True)
    found = RequestDataset(answers, layout, max_history=config.data.max_history, quarantine=quarantine).read_all()
    return encode(layout, found) if found is not None else None
