"""The loop: batches through the pipeline, with logs, evaluations, checkpoints and a clean way out."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from easq_rec import evaluation
from easq_rec.config import Config
from easq_rec.data import files
from easq_rec.data.batch import RequestBatch
from easq_rec.data.loader import LoaderState
from easq_rec.data.quarantine import Quarantine
from easq_rec.data.sources import Sources, open_sources
from easq_rec.model import Scores, StepOutput, TrainingModel
from easq_rec.training.checkpoint import Checkpointer, Progress, read_plan
from easq_rec.training.logs import RunLog, Stopwatch
from easq_rec.training.memory import HostMemory
from easq_rec.training.optim import Optimizers
from easq_rec.training.plan_file import NAME, write_plan
from easq_rec.training.runtime import ProcessGroupRanks, Runtime
from easq_rec.training.sharding import plan_table, setting, shard
from easq_rec.training.statistics import step_statistics

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
    """

    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        *,
        directory: files.Location,
        run_dir: Path,
        start_from: Path | None = None,
    ) -> None:
        self.config = config
        self.runtime = runtime
        self.quarantine = Quarantine(run_dir / "quarantine") if config.data.on_bad_rows == "quarantine" else None
        self.sources: Sources = open_sources(
            config, directory, quarantine=self.quarantine, rank=runtime.rank, world_size=runtime.world_size
        )
        trainer = config.trainer
        self.total_steps = trainer.max_steps or trainer.epochs * self.sources.reader.steps_per_epoch
        torch.manual_seed(trainer.seed)
        model = TrainingModel(config, torch.device("meta"), ProcessGroupRanks(runtime.world_size))
        self.objective = model.objective
        self.ranker = model.ranker
        self.ranker.network.autocast = torch.bfloat16 if trainer.precision == "bf16" else None
        self.checkpoints = Checkpointer(run_dir / "checkpoints", runtime, keep=config.checkpoint.keep)
        latest = self.checkpoints.latest() or start_from
        self.model = shard(model, config, runtime, plan=read_plan(latest, runtime) if latest is not None else None)
        if runtime.leads:
            write_plan(run_dir / NAME, self.model.plan, config.schema, setting(runtime))
        self.optimizers = Optimizers(self.model, config.optim)
        self.watch = Stopwatch()
        self.pipeline = TrainPipelineSparseDist(
            self.model, self.optimizers, runtime.device, custom_model_fwd=self._forward
        )
        self.step, self.state = 0, self.sources.loader.start()
        if latest is not None:
            progress = self.checkpoints.load(latest, self.model, self.optimizers)
            self.step, self.state = progress.step, progress.loader
        self.log = RunLog(
            run_dir, config.logging, first_step=self.step, total_steps=self.total_steps, speaks=runtime.leads
        )
        self._ahead: deque[tuple[LoaderState, int]] = deque()
        self._impressions, self._since = 0, self.step
        self._rate = 0.0
        self._stop = False
        self._forward_end = 0.0

    def fit(self) -> Result:
        """Trains to the end, or until a signal or `trainer.stop_at_step`; evaluates if the end is reached."""
        last = self.config.trainer.stop_at_step or self.total_steps
        self._announce()
        self._catch_signals()
        with HostMemory() as memory:
            self._train_until(min(last, self.total_steps), memory)
        self.save()
        finished = self.step >= self.total_steps
        metrics = self.evaluate("final", limit=None) if finished else {}
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
        self._train_until(begin + sources.reader.steps_per_epoch, None)
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

    def _train_until(self, last: int, memory: HostMemory | None) -> None:
        """Steps up to number `last`, unless the run is told to stop."""
        stream = self._stream(last)
        self._start_window()
        # A thread that makes batches ahead must not outlive the loop.
        with closing(stream):
            while self.step < last and not self._stopping():
                self._train_step(stream)
                if memory is not None:
                    memory.step(self.step)

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
        self._impressions += impressions
        if logs:
            self._rate = self._log_step(output)
        if self._due(config.evaluation.every_steps):
            self.evaluate("holdout", limit=config.evaluation.max_requests)
            self._start_window()
        if self._due(config.checkpoint.every_steps):
            self.save()
            self._start_window()

    def save(self) -> Path:
        """Writes a checkpoint of the current step."""
        progress = Progress(step=self.step, loader=self.state)
        return self.checkpoints.save(self.model, self.optimizers, progress)

    def evaluate(self, split: str, *, limit: int | None) -> dict[str, float]:
        """Metrics on the held-out requests, and answer diagnostics on training and held-out answers."""
        config, runtime, sources = self.config, self.runtime, self.sources
        if not len(sources.holdout):
            return {}
        stream = evaluation.batches(
            sources.holdout,
            config,
            truth=sources.truth,
            rank=runtime.rank,
            world_size=runtime.world_size,
            limit=limit,
        )
        with self.serving() as score:
            predictions = evaluation.gather(evaluation.predict(score, stream, config, runtime.device))
            metrics = {name: float(value) for name, value in asdict(predictions.metrics()).items()}
            if sources.answers is not None:
                for name, period in (("train", sources.train_period), ("holdout", sources.holdout_period)):
                    answers = evaluation.sample_answers(sources.answers, period, limit=ANSWERS_EVALUATED)
                    found = evaluation.answer_metrics(score, answers, config, runtime.device) if answers else None
                    metrics |= {f"answers_{name}_{key}": value for key, value in asdict(found).items()} if found else {}
        self.log.metrics(self.step, split, metrics)
        return metrics

    @torch.no_grad()
    def _score(self, batch: RequestBatch) -> Scores:
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
        begin = time.perf_counter()
        assert batch is not None
        self.optimizers.pathway_rests = not batch.aligned
        result: tuple[Tensor, StepOutput] = self.model(batch)
        self._forward_end = time.perf_counter()
        self.watch.add("forward", self._forward_end - begin)
        return result

    def _start_window(self) -> None:
        """Begins the window of steps over which rates and phases are averaged."""
        self.watch.lap(1)
        self._impressions, self._since = 0, self.step

    def _log_step(self, output: StepOutput) -> float:
        """Writes the statistics of a step and the means over its window; returns impressions per second."""
        phases, elapsed = self.watch.lap(self.step - self._since)
        values = step_statistics(output, self.objective.ranks)
        rate = float(self.objective.ranks.sum(torch.tensor(float(self._impressions)))) / elapsed
        self._impressions, self._since = 0, self.step
        values |= {f"gradient_norm_{name}": float(norm) for name, norm in self.optimizers.gradient_norms.items()}
        if self.config.aligned:
            values |= self.state.replay.statistics()
        if self.quarantine is not None:
            values["quarantined_rows"] = float(self.quarantine.count())
        values |= {"learning_rate": self.optimizers.dense_learning_rate, "impressions_per_second": rate, **phases}
        self.log.metrics(self.step, "train", values)
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
        plan = "  ".join(f"{table}:{kind}@{ranks}" for table, kind, ranks in plan_table(self.model))
        self.log.say(f"tables  {plan}")
        where = f"from step {self.step} " if self.step else ""
        self.log.say(
            f"training {where}to step {self.total_steps} on {self.runtime.world_size} x {self.runtime.device.type}, "
            f"{self.config.trainer.batch_size} requests per step and rank"
        )

    def _catch_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # A second signal means it: the default action takes over.
        signal.signal(number, signal.SIG_DFL)
        self._stop = True

    def _stopping(self) -> bool:
        """Whether any rank was told to stop; all ranks leave after the same step."""
        if self.runtime.world_size == 1:
            return self._stop
        return bool(self.runtime.agree(int(self._stop)))
