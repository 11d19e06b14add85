"""The loop: batches through the pipeline, with logs, evaluations, checkpoints and a clean way out."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor
from torchrec.distributed.train_pipeline import TrainPipeline, TrainPipelineSparseDist

from easq_rec.config import Config
from easq_rec.config.schema import require
from easq_rec.data import files
from easq_rec.data.batch import RequestBatch
from easq_rec.data.loader import LoaderState
from easq_rec.data.quarantine import Quarantine
from easq_rec.data.sources import Sources, open_sources
from easq_rec.evaluation import predict as evaluation
from easq_rec.evaluation.metrics import RankingMetrics
from easq_rec.losses.objective import StepOutput
from easq_rec.model.ranker import Scores
from easq_rec.run_directory.checkpoint_files import Progress
from easq_rec.run_directory.events import event
from easq_rec.run_directory.metrics import RunLog, Stopwatch
from easq_rec.training.boundary import Boundary
from easq_rec.training.checkpoint.checkpointer import Checkpointer, read_plan
from easq_rec.training.health.finite_check import Guard, NotFinite, elsewhere
from easq_rec.training.memory import HostMemory
from easq_rec.training.optim import Optimizers
from easq_rec.training.process import ProcessGroupRanks, Runtime
from easq_rec.training.sharding.plan_file import NAME, write_plan
from easq_rec.training.sharding.precision import half_tables
from easq_rec.training.sharding.tables import plan_table, setting, shard
from easq_rec.training.signals import StopRequest
from easq_rec.training.step_statistics import step_statistics
from easq_rec.training.training_model import TrainingModel

ANSWERS_EVALUATED = 1_024
"""Answered requests per period at most in the answer diagnostics."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a run ended."""

    step: int
    finished: bool
    """False: it was stopped on the way and can be resumed."""
    metrics: dict[str, float]
    impressions_per_second: float


class Trainer:
    """Trains one run from where its directory stands.

    Args:
        directory: holds requests/ and answers/.
        run_dir: takes checkpoints/, metrics.jsonl and tensorboard/.
        start_from: checkpoint of another run of the same model and data, from whose end this one starts unless it has a
            checkpoint of its own.
        progress: is told the number of the last step after each, and after every batch of an evaluation.
        stop: whether this process was asked to stop; None: what comes from now on counts.
        pipeline: TorchRec's class that drives the steps. Only that of the default can pause for an evaluation.
    """

    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        *,
        directory: files.Location,
        run_dir: Path,
        start_from: Path | None = None,
        progress: Callable[[int], None] = lambda step: None,
        stop: StopRequest | None = None,
        pipeline: Callable[..., TrainPipeline[RequestBatch, StepOutput]] = TrainPipelineSparseDist,
    ) -> None:
        self.config = config
        self.runtime = runtime
        self._come_to = progress
        self.quarantine = Quarantine(run_dir / "quarantine") if config.data.on_bad_rows == "quarantine" else None
        self.sources: Sources = open_sources(
            config, directory, quarantine=self.quarantine, rank=runtime.rank, world_size=runtime.world_size
        )
        trainer = config.trainer
        self.total_steps = trainer.max_steps or trainer.epochs * self.sources.reader.steps_per_epoch
        model = TrainingModel(config, torch.device("meta"), ProcessGroupRanks(runtime.world_size))
        self.objective = model.objective
        self.ranker = model.ranker
        self.ranker.network.autocast = torch.bfloat16 if trainer.precision == "bf16" else None
        best, names = config.checkpoint.best, [field.name for field in fields(RankingMetrics)]
        require(best is None or best in names, "checkpoint.best", best, f"None, or one of {', '.join(names)}")
        self.checkpoints = Checkpointer(run_dir / "checkpoints", config, runtime)
        latest = self.checkpoints.latest() or start_from
        self.model = shard(model, config, runtime, plan=read_plan(latest, runtime) if latest is not None else None)
        if runtime.leads:
            write_plan(run_dir / NAME, self.model.plan, config.schema, setting(runtime))
        self.guard = Guard(runtime, run_dir / "not_finite", stops=trainer.on_not_finite == "stop")
        self.optimizers = Optimizers(self.model, config.optim, self.guard.withholds)
        self.ranker.network.watch = Boundary(self.optimizers.start_averaging, self.guard.clean).watch
        self.watch = Stopwatch()
        self.pipeline = pipeline(self.model, self.optimizers, runtime.device, custom_model_fwd=self._forward)
        self.step, self.state = 0, self.sources.loader.start()
        if latest is not None:
            reached = self.checkpoints.load(latest, self.model, self.optimizers)
            self.step, self.state = reached.step, reached.loader
            event("resumed", step=self.step, checkpoint=latest.name)
        self.log = RunLog(
            run_dir, config.logging, first_step=self.step, total_steps=self.total_steps, speaks=runtime.leads
        )
        self._ahead: deque[tuple[LoaderState, int]] = deque()
        self.impressions = 0
        """Trained on by this rank since the trainer was made."""
        self._since = (self.step, self.impressions)
        self._rate = 0.0
        self._stop, self._all_stop = StopRequest() if stop is None else stop, False
        self._forward_end = 0.0

    def fit(self) -> Result:
        """Trains to the end, or until a signal or `trainer.stop_at_step`; evaluates if the end is reached."""
        last = self.config.trainer.stop_at_step or self.total_steps
        self._announce()
        self._stop.listen(signal.SIGTERM, signal.SIGINT)
        with HostMemory() as memory:
            for step in self.steps(min(last, self.total_steps)):
                memory.step(step)
        if self._stop:
            event("signal", level=logging.WARNING, signal=self._stop.signal, step=self.step)
        self.save(background=False)
        finished = self.step >= self.total_steps
        metrics = self.evaluate("final", limit=None) if finished else {}
        finished = finished and not (self._stopping() and not metrics)
        self._report_quarantine()
        self.log.close()
        return Result(step=self.step, finished=finished, metrics=metrics, impressions_per_second=self._rate)

    def go_on(self, sources: Sources) -> int:
        """Trains once through other data, with model, optimizers, clock and replayed answers as they stand.

        The learning rate stays where the schedule of the run has ended. Nothing is evaluated or saved.

        Returns:
            the steps that it took.

        Raises:
            ValueError: `sources` lack answers that training has seen.
        """
        self.state = sources.loader.start_after(self.sources.loader, self.state)
        self.sources = sources
        begin = self.step
        for _ in self.steps(begin + sources.reader.steps_per_epoch):
            pass
        return self.step - begin

    @contextmanager
    def serving(self) -> Iterator[evaluation.Score]:
        """The model as it stands, to score requests within the block; training goes on after it."""
        self.pipeline.detach()
        self.model.eval()
        try:
            yield self._score
        finally:
            self.model.train()
            # The batches that are on their way between the ranks are awaited as they are, not sent again.
            self.pipeline.attach(self.model, sparse_dist=False)

    def steps(self, last: int) -> Generator[int, None, None]:
        """Trains a step whenever its number is asked for, up to number `last` or until the run is told to stop.

        Raises:
            NotFinite: a loss or gradient is not, and the run is to stop then.
        """
        stream = self._stream(last)
        self._start_window()
        # One that was told while it started makes no step, which may be a long one.
        self._agree_to_stop()
        # A thread that makes batches ahead must not outlive the loop.
        with closing(stream):
            while self.step < last and not self._stopping():
                self._train_step(stream)
                yield self.step
            self._see(all=True)
            if self._agree(self.guard.spoilt is not None)[0]:
                self._give_up(self.guard.spoilt or elsewhere(self.step))

    def _train_step(self, stream: Iterator[RequestBatch]) -> None:
        """One step, and what is due after it."""
        config = self.config
        logs = (self.step + 1) % config.logging.every_steps == 0
        self.optimizers.before_step(self.step, self.total_steps)
        self.optimizers.measure = logs
        self.objective.steered = (
            self.step >= config.losses.dense_warmup_steps and self.state.replay.admitted >= config.losses.warmup_answers
        )
        output: StepOutput = self.pipeline.progress(stream)
        self.watch.add("optimizer", time.perf_counter() - self.optimizers.started)
        self.watch.add("backward", self.optimizers.started - self._forward_end)
        self.state, impressions = self._ahead.popleft()
        self.step += 1
        self._come_to(self.step)
        self.guard.end_step(self.step, self._batch, output)
        self._see()
        self.impressions += impressions
        if logs:
            self._rate = self._log_step(output)
        score = None
        if self._due(config.evaluation.every_steps):
            metrics = self.evaluate("holdout", limit=config.evaluation.max_requests)
            score = metrics.get(config.checkpoint.best or "")
            self._start_window()
        if self._due(config.checkpoint.every_steps) or self._is_best(score):
            self.save(background=config.checkpoint.background, score=score)

    def save(self, *, background: bool, score: float | None = None) -> None:
        """Writes a checkpoint of the current step; in the background, a failure of the disk does not end the run.

        Raises:
            NotWritten: not in the background, and the disk failed.
            NotFinite: a loss or gradient is not, and the run is to stop then.
        """
        begin = time.perf_counter()
        # No checkpoint of a step after one at which the run is to stop.
        self._see(all=True)
        progress = Progress(step=self.step, loader=self.state, score=score)
        self.checkpoints.save(self.model, self.optimizers, progress, background=background)
        self.watch.add("checkpoint", time.perf_counter() - begin)

    def _is_best(self, score: float | None) -> bool:
        if score is None or math.isnan(score):
            return False
        best = self.checkpoints.best_score()
        return best is None or score > best

    def evaluate(self, split: str, *, limit: int | None) -> dict[str, float]:
        """Metrics on the held-out requests, and answer diagnostics on training and held-out answers.

        None at all where a signal came: an evaluation may take longer than the time that is left.
        """
        config, runtime, sources = self.config, self.runtime, self.sources
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
        with self.serving() as score:
            mine = evaluation.predict(score, self._unless_stopped(stream), config, runtime.device)
            if self._all_stop:
                return {}
            predictions = evaluation.gather(mine)
            metrics = {name: float(value) for name, value in asdict(predictions.metrics()).items()}
            if sources.answers is not None:
                for name, period in (("train", sources.train_period), ("holdout", sources.holdout_period)):
                    answers = evaluation.sample_answers(sources.answers, period, limit=ANSWERS_EVALUATED)
                    found = evaluation.answer_metrics(score, answers, config, runtime.device) if answers else None
                    metrics |= {f"answers_{name}_{key}": value for key, value in asdict(found).items()} if found else {}
        self.log.metrics(self.step, split, metrics)
        event("evaluation", step=self.step, split=split, seconds=time.perf_counter() - begin)
        return metrics

    def _unless_stopped(self, stream: Iterator[RequestBatch]) -> Iterator[RequestBatch]:
        """As many batches on every rank, and at least one, until any rank is told to stop."""
        for batch in stream:
            yield batch
            if self._agree_to_stop():
                return

    @torch.no_grad()
    def _score(self, batch: RequestBatch) -> Scores:
        self._come_to(self.step)
        return self.ranker.score(batch)

    def _stream(self, last: int) -> Generator[RequestBatch, None, None]:
        """Batches for the pipeline, which pulls some ahead: what comes after them waits until their step is trained."""
        batches = self.sources.loader.batches(self.state, steps=last - self.step)
        with closing(batches):
            while True:
                begin = time.perf_counter()
                item = next(batches, None)
                self.watch.add("data", time.perf_counter() - begin)
                if item is None:
                    return
                batch, state = item
                self._ahead.append((state, batch.stream.candidates))
                # The copy to a GPU runs beside the step only from pinned memory.
                yield batch.pin_memory() if self.runtime.device.type == "cuda" else batch

    def _forward(self, batch: RequestBatch | None) -> tuple[Tensor, StepOutput]:
        assert batch is not None
        begin = time.perf_counter()
        self._batch = batch
        loss, output = self.model(batch)
        self.guard.look(output, stop=bool(self._stop))
        self._forward_end = time.perf_counter()
        self.watch.add("forward", self._forward_end - begin)
        return loss, output

    def _see(self, *, all: bool = False) -> None:
        """Hears what became of steps that were made; `all`: waits for what a GPU has not come to yet."""
        for seen in self.guard.seen(all=all):
            self._all_stop |= seen.stop
            if (problem := self.guard.report(seen)) is not None:
                self._give_up(problem)

    def _give_up(self, problem: str) -> None:
        """
        Raises:
            NotFinite: always, on all ranks in the same step.
        """
        self.checkpoints.wait()
        self.runtime.barrier()
        raise NotFinite(f"{problem}. The run stops; with --trainer.on-not-finite skip it goes on from its checkpoint")

    def _agree(self, *flags: bool) -> list[int]:
        """Of each flag whether any rank has it."""
        return list(flags) if self.runtime.world_size == 1 else self.runtime.agree(*flags)

    def _agree_to_stop(self) -> bool:
        """Whether any rank was told to stop, so that all leave here."""
        self._all_stop = bool(self._agree(bool(self._stop))[0])
        return self._all_stop

    def _start_window(self) -> None:
        """Begins the window of steps over which rates and phases are averaged."""
        self.watch.lap(1)
        self._since = (self.step, self.impressions)

    def _log_step(self, output: StepOutput) -> float:
        """Writes the statistics of a step and the means over its window; returns impressions per second."""
        step, impressions = self._since
        phases, elapsed = self.watch.lap(self.step - step)
        values, trained = step_statistics(output, self.objective.ranks, self.impressions - impressions)
        rate = trained / elapsed
        self._since = (self.step, self.impressions)
        values |= {f"gradient_norm_{name}": float(norm) for name, norm in self.optimizers.gradient_norms.items()}
        if self.config.aligned:
            values |= self.state.replay.statistics()
        if self.guard.skipped:
            values["skipped_steps"] = float(self.guard.skipped)
        if self.quarantine is not None:
            values["quarantined_rows"] = float(self.quarantine.count())
        values |= {"learning_rate": self.optimizers.dense_learning_rate, "impressions_per_second": rate, **phases}
        self.log.metrics(self.step, "train", values)
        ms = sum(phases.values())
        event("window", step=self.step, of=self.total_steps, ms_per_step=ms, impressions_per_second=rate, phases=phases)
        losses = {name.removeprefix("loss_"): value for name, value in values.items() if name.startswith("loss_")}
        self.log.progress(self.step, {**losses, "impressions/s": rate})
        return rate

    def _report_quarantine(self) -> None:
        self.runtime.barrier()
        if self.quarantine is not None and (count := self.quarantine.count()):
            self.log.say(f"{count:,} bad rows were set aside in {self.quarantine.folder}, with the reasons")

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0 and self.step < self.total_steps

    def _announce(self) -> None:
        half = half_tables(self.config)
        plan = "  ".join(
            f"{table}:{kind}{',fp16' if table in half else ''}@{ranks}" for table, kind, ranks in plan_table(self.model)
        )
        self.log.say(f"tables  {plan}")
        where = f"from step {self.step} " if self.step else ""
        self.log.say(
            f"training {where}to step {self.total_steps} on {self.runtime.world_size} x {self.runtime.device.type}, "
            f"{self.config.trainer.batch_size} requests per step and rank"
        )

    def _stopping(self) -> bool:
        """Whether any rank was told to stop before the step that was made last; all leave after the same one."""
        return self._all_stop or (bool(self._stop) and self.runtime.world_size == 1)
