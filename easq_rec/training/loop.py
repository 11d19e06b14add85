"""The training loop: steps, with logs, evaluations, checkpoints and a clean stop."""

from __future__ import annotations

import logging
import signal
from collections.abc import Generator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from easq_rec.config import Config
from easq_rec.data.sources import Sources
from easq_rec.evaluation.predict import Score
from easq_rec.run_directory.events import event
from easq_rec.run_directory.paths import CheckpointDirectory
from easq_rec.run_directory.progress_file import Progress
from easq_rec.training.batch_stream import BatchStream
from easq_rec.training.health.finite_check import NotFinite, failure_elsewhere
from easq_rec.training.memory import HostMemory
from easq_rec.training.process import Runtime
from easq_rec.training.setup import announce, set_up
from easq_rec.training.signals import StopRequest
from easq_rec.training.step import Pipeline, StepPlan


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a run ended."""

    step: int
    finished: bool
    """False: it was stopped before its last step or evaluation, and can be resumed."""
    metrics: dict[str, float]
    impressions_per_second: float


class Trainer:
    """Trains one run, from the newest checkpoint in its directory if there is one.

    Args:
        directory: holds requests/ and answers/.
        run_dir: takes checkpoints/, metrics.jsonl and tensorboard/.
        start_from: checkpoint of another run of the same model and data, from which a run without a checkpoint starts.
        stop_request: whether this process was asked to stop; None: signals count from `fit` on.
        pipeline: TorchRec's class that drives the steps. Only the default can pause for an evaluation.
    """

    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        *,
        directory: str | Path,
        run_dir: Path,
        start_from: CheckpointDirectory | None = None,
        stop_request: StopRequest | None = None,
        pipeline: Pipeline = TrainPipelineSparseDist,
    ) -> None:
        self.config, self.runtime = config, runtime
        self.setup = set_up(
            config,
            runtime,
            directory=directory,
            run_dir=run_dir,
            start_from=start_from,
            stop_request=stop_request or StopRequest(),
            pipeline=pipeline,
        )
        self.sources, self.total_steps = self.setup.sources, self.setup.total_steps
        self.log = self.setup.log
        self.step, self.state = self.setup.start.step, self.setup.start.loader
        self.impressions = 0
        """This rank has trained on so many since the trainer was made."""

    def fit(self) -> Result:
        """Trains until the end, a signal, or `trainer.stop_at_step`; evaluates at the end."""
        setup, stopping = self.setup, self.setup.stopping
        announce(setup, self.config, self.runtime)
        stopping.request.listen(signal.SIGTERM, signal.SIGINT)
        with HostMemory() as memory:
            for step in self.steps(min(self.config.trainer.stop_at_step or self.total_steps, self.total_steps)):
                memory.step(step)
        if stopping.request:
            event("signal", level=logging.WARNING, signal=stopping.request.signal, step=self.step)
        self.save(background=False)
        finished = self.step >= self.total_steps
        metrics = setup.evaluation(self.step, "final", limit=None) if finished else {}
        finished = finished and not (stopping and not metrics)
        with self.runtime.phases("end of the run"):
            self.runtime.barrier()
            if setup.quarantine is not None and (count := setup.quarantine.count()):
                self.log.say(f"{count:,} bad rows were set aside in {setup.quarantine.folder}, with the reasons")
            self.log.close()
        rate = setup.windows.impressions_per_second
        return Result(step=self.step, finished=finished, metrics=metrics, impressions_per_second=rate)

    def steps(self, last: int) -> Generator[int, None, None]:
        """Makes one step per iteration, up to step `last` or until a rank is asked to stop.

        Raises:
            NotFinite: a loss or gradient is not finite, and the run is configured to stop.
        """
        setup = self.setup
        loader, device, phases = self.sources.loader, self.runtime.device, self.runtime.phases
        batches = BatchStream(loader, self.state, steps=last - self.step, device=device, phases=phases)
        setup.windows.start(self.step, self.impressions)
        # A process that was asked to stop while it started makes no step, which may take long.
        setup.stopping.agree()
        with closing(batches):
            while self.step < last and not setup.stopping:
                self._train_step(batches)
                yield self.step
            self._read_outcomes(wait=True)
            failure = setup.train_step.finite_check.failure
            if self.runtime.any_rank(failure is not None):
                self._stop_not_finite(failure or failure_elsewhere(self.step))

    def _train_step(self, batches: BatchStream) -> None:
        """One step, then the log, evaluation and checkpoint that are due after it."""
        config, setup, plan = self.config, self.setup, self._plan()
        result = setup.train_step(batches, plan)
        self.step = plan.number
        self.runtime.phases.end_step(self.step)
        self.state, impressions = batches.end_step()
        self.impressions += impressions
        self._read_outcomes()
        if plan.measured:
            setup.windows.end(self.step, self.impressions, result, self._figures())
        score = None
        if self._due(config.evaluation.every_steps):
            metrics = setup.evaluation(self.step, "holdout", limit=config.evaluation.max_requests)
            score = metrics.get(config.checkpoint.best or "")
            setup.windows.start(self.step, self.impressions)
        if self._due(config.checkpoint.every_steps) or setup.checkpoints.is_best(score):
            self.save(background=config.checkpoint.background, score=score)

    def _plan(self) -> StepPlan:
        """What the next step does."""
        losses = self.config.losses
        warmed_up = self.step >= losses.dense_warmup_steps and self.state.replay.admitted >= losses.warmup_answers
        number = self.step + 1
        measured = number % self.config.logging.every_steps == 0
        return StepPlan(number=number, total_steps=self.total_steps, steered=warmed_up, measured=measured)

    def _figures(self) -> dict[str, float]:
        """Logged with a window, beside the figures of its last step."""
        setup, skipped = self.setup, self.setup.train_step.finite_check.skipped_steps
        figures = dict(self.state.replay.statistics()) if self.config.aligned else {}
        if skipped:
            figures["skipped_steps"] = float(skipped)
        if setup.quarantine is not None:
            figures["quarantined_rows"] = float(setup.quarantine.count())
        return {**figures, "learning_rate": setup.train_step.optimizers.dense_learning_rate}

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0 and self.step < self.total_steps

    def _read_outcomes(self, *, wait: bool = False) -> None:
        """Reads the flags of past steps; `wait`: of all steps, for which the host may wait."""
        finite_check = self.setup.train_step.finite_check
        for outcome in finite_check.outcomes(wait=wait):
            self.setup.stopping.note(outcome.stop_requested)
            if (problem := finite_check.report(outcome)) is not None:
                self._stop_not_finite(problem)

    def _stop_not_finite(self, problem: str) -> None:
        """Raises NotFinite, on all ranks after the same step."""
        self.setup.checkpoints.wait()
        self.runtime.barrier()
        raise NotFinite(f"{problem}. The run stops; with --trainer.on-not-finite skip it goes on from its checkpoint")

    def save(self, *, background: bool, score: float | None = None) -> None:
        """Writes a checkpoint of the present step. If that fails in the background, the run goes on.

        Raises:
            NotWritten: the disk failed, and the checkpoint was not written in the background.
            NotFinite: a loss or gradient is not finite, and the run is configured to stop.
        """
        # A checkpoint must not follow a step at which the run stops.
        self._read_outcomes(wait=True)
        progress = Progress(step=self.step, loader=self.state, score=score)
        with self.runtime.phases("checkpoint"):
            optimizers = self.setup.train_step.optimizers
            self.setup.checkpoints.save(self.setup.model, optimizers, progress, background=background)

    def serving(self) -> AbstractContextManager[Score]:
        """Within the block the present model scores requests; afterwards training continues."""
        return self.setup.evaluation.serving()

    def go_on(self, sources: Sources) -> int:
        """Trains once through other data, with the present model, optimizers, clock and replayed answers.

        The learning rate stays at the end of its schedule. Nothing is evaluated or saved.

        Returns:
            the number of steps.

        Raises:
            UserError: `sources` lack answers that training has seen.
        """
        self.state = sources.loader.start_after(self.sources.loader, self.state)
        self.sources = sources
        begin = self.step
        for _ in self.steps(begin + sources.reader.steps_per_epoch):
            pass
        return self.step - begin
