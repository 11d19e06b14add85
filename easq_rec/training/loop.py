"""The training loop: steps, with logs, evaluations, checkpoints and a clean stop."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from easq_rec.config import Config
from easq_rec.data.loader import LoaderState
from easq_rec.data.sources import Sources
from easq_rec.run_directory.paths import CheckpointDirectory
from easq_rec.run_directory.progress_file import Progress
from easq_rec.training.batch_stream import BatchStream
from easq_rec.training.process import Runtime
from easq_rec.training.setup import announce, set_up
from easq_rec.training.signals import StopRequest
from easq_rec.training.step import DEFAULT_PIPELINE, Pipeline, StepPlan


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a run ended."""

    step: int
    finished: bool
    """False: it was stopped before its last step or evaluation, and can be resumed."""
    metrics: dict[str, float]
    impressions_per_second: float
    unsaved: str | None = None
    """Why the last step has no checkpoint; None: it has one."""


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
        pipeline: Pipeline = DEFAULT_PIPELINE,
    ) -> None:
        self.config, self.runtime = config, runtime
        self.setup = set_up(
            config,
            runtime,
            directory=directory,
            run_dir=run_dir,
            start_from=start_from,
            stop_request=StopRequest() if stop_request is None else stop_request,
            pipeline=pipeline,
        )
        self.sources, self.total_steps = self.setup.sources, self.setup.total_steps
        self.log = self.setup.log
        self.step, self.state = self.setup.start.step, self.setup.state
        self.impressions = 0
        """This rank has trained on so many since the trainer was made."""

    def fit(self) -> Result:
        """Trains until the end, a signal, or `trainer.stop_at_step`; evaluates at the end."""
        setup, stopping = self.setup, self.setup.stopping
        announce(setup, self.config, self.runtime)
        stopping.listen()
        with setup.memory as memory:
            for step in self.steps(min(self.config.trainer.stop_at_step or self.total_steps, self.total_steps)):
                memory.step(step)
        unsaved = self.save(background=False)
        finished = self.step >= self.total_steps
        metrics = setup.evaluation(self.step, "final", limit=None) if finished else {}
        finished = finished and not (stopping and not metrics)
        with self.runtime.phases("end of the run"):
            setup.checkpoints.finish()
            self.runtime.barrier()
            if setup.quarantine is not None and (count := setup.quarantine.count()):
                self.log.say(f"{count:,} bad rows were set aside in {setup.quarantine.folder}, with the reasons")
            self.log.close()
        rate = setup.windows.impressions_per_second
        return Result(step=self.step, finished=finished, metrics=metrics, impressions_per_second=rate, unsaved=unsaved)

    def steps(self, last: int) -> Generator[int, None, None]:
        """Makes one step per iteration, up to step `last` or until a rank is asked to stop.

        Raises:
            NotFinite: a loss or gradient is not finite, and the run is configured to stop.
        """
        setup = self.setup
        loader, device, phases = self.sources.loader, self.runtime.device, self.runtime.phases
        made = loader.batches(self.state, steps=last - self.step, assign=setup.assign_rows)
        batches = BatchStream(made, device=device, phases=phases)
        setup.windows.start(self.step, self.impressions)
        # A process that was asked to stop while it started makes no step, which may take long.
        setup.stopping.agree()
        with closing(batches):
            while self.step < last and not setup.stopping:
                self._train_step(batches)
                yield self.step
            setup.stopping.end(self.step)

    def _train_step(self, batches: BatchStream[LoaderState]) -> None:
        """One step, then the log, evaluation and checkpoint that are due after it."""
        config, setup = self.config, self.setup
        plan = StepPlan.after(self.step, config, self.state.replay, total_steps=self.total_steps)
        result = setup.train_step(batches, plan)
        self.step = plan.number
        self.runtime.phases.end_step(self.step)
        self.state, impressions = batches.end_step()
        self.impressions += impressions
        setup.stopping.read_outcomes()
        if plan.measured:
            setup.windows.end(self.step, self.impressions, result, self.state.replay)
        score = None
        if self._due(config.evaluation.every_steps):
            metrics = setup.evaluation(self.step, "holdout", limit=config.evaluation.max_requests)
            score = metrics.get(config.checkpoint.best or "")
            setup.windows.start(self.step, self.impressions)
        if self._due(config.checkpoint.every_steps) or setup.checkpoints.is_best(score):
            self.save(background=config.checkpoint.background, score=score)

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0 and self.step < self.total_steps

    def save(self, *, background: bool, score: float | None = None) -> str | None:
        """Writes a checkpoint of the present step. If the disk fails, that is reported, and the run goes on.

        Returns:
            as `Checkpointer.save`.

        Raises:
            NotFinite: a loss or gradient is not finite, and the run is configured to stop.
        """
        # A checkpoint must not follow a step at which the run stops.
        self.setup.stopping.read_outcomes(wait=True)
        progress = Progress(step=self.step, loader=self.state, score=score)
        with self.runtime.phases("checkpoint"):
            optimizers = self.setup.train_step.optimizers
            return self.setup.checkpoints.save(self.setup.model, optimizers, progress, background=background)

    def continue_training(self, sources: Sources) -> int:
        """Trains once through other data, with the present model, optimizers, clock and replayed answers.

        The learning rate stays at the end of its schedule. Nothing is evaluated or saved.

        Returns:
            the number of steps.

        Raises:
            UserError: `sources` lack answers that training has seen.
        """
        self.state = sources.loader.continued_from(self.sources.loader, self.state)
        self.sources = sources
        begin = self.step
        for _ in self.steps(begin + sources.reader.steps_per_epoch):
            pass
        return self.step - begin
