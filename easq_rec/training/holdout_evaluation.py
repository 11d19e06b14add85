"""Evaluation of the model between two training steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import torch

from easq_rec.config import Config
from easq_rec.data.batch import RequestBatch
from easq_rec.data.sources import Sources
from easq_rec.evaluation import predict as evaluation
from easq_rec.evaluation.metrics import outcome_metrics
from easq_rec.model.ranker import Ranker, Scores
from easq_rec.run_directory.events import event
from easq_rec.run_directory.run_log import RunLog
from easq_rec.training.phases import WAITING
from easq_rec.training.process import Runtime
from easq_rec.training.step import TrainingStep
from easq_rec.training.stopping import StopAgreement

ANSWERS_EVALUATED = 1_024
"""Most answered requests per period in the answer diagnostics."""


class HoldoutEvaluation:
    """Evaluates the model on the requests that are held out, while training pauses."""

    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        sources: Sources,
        ranker: Ranker,
        train_step: TrainingStep,
        stopping: StopAgreement,
        log: RunLog,
    ) -> None:
        self._config, self._runtime, self._sources = config, runtime, sources
        self.ranker = ranker
        self._train_step = train_step
        self._stopping = stopping
        self._log = log

    @contextmanager
    def serving(self) -> Iterator[evaluation.Score]:
        """Within the block the present model scores requests; afterwards training continues."""
        with self._train_step.paused():
            yield self.score

    @torch.no_grad()
    def score(self, batch: RequestBatch) -> Scores:
        with self._runtime.phases("scoring"):
            return self.ranker.score(batch)

    def __call__(self, step: int, split: str, *, limit: int | None) -> dict[str, float]:
        """Logs and returns metrics of held-out requests, with diagnostics of answers in training and held-out data.

        Returns an empty dict if nothing is held out, or if a rank is asked to stop: an evaluation may take longer than
        the time that is left.

        Args:
            split: name in the log.
            limit: most requests; None: all.
        """
        config, runtime, sources = self._config, self._runtime, self._sources
        if not len(sources.holdout):
            return {}
        begin = time.perf_counter()
        stream = evaluation.batches(
            sources.holdout,
            config,
            truth=sources.truth,
            rank=runtime.rank,
            world_size=runtime.world_size,
            limit=limit,
        )
        with self.serving() as score, runtime.phases("evaluation"):
            part = evaluation.predict(score, self._until_stopped(stream), config, runtime.device)
            if self._stopping:
                return {}
            with runtime.phases(WAITING):
                predictions = evaluation.gather(part)
            metrics = {name: float(value) for name, value in asdict(predictions.metrics()).items()}
            metrics |= outcome_metrics(predictions.outcome_columns(config.schema.outcomes))
            if sources.answers is not None:
                for name, period in (("train", sources.train_period), ("holdout", sources.holdout_period)):
                    answers = evaluation.sample_answers(sources.answers, period, limit=ANSWERS_EVALUATED)
                    found = evaluation.answer_metrics(score, answers, config, runtime.device) if answers else None
                    metrics |= {f"answers_{name}_{key}": value for key, value in asdict(found).items()} if found else {}
        self._log.metrics(step, split, metrics)
        event("evaluation", step=step, split=split, seconds=time.perf_counter() - begin)
        return metrics

    def _until_stopped(self, stream: Iterator[RequestBatch]) -> Iterator[RequestBatch]:
        """The same number of batches on every rank, at least one, until a rank is asked to stop."""
        for batch in stream:
            yield batch
            if self._stopping.agree():
                return
