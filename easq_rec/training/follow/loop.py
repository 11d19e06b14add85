"""Continuous training: steps on what arrives, with hourly metrics, checkpoints and packages, until it is stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from easq_rec.config import Config
from easq_rec.data.batch import collate
from easq_rec.data.columns import RequestColumns
from easq_rec.data.stream.held_answers import AdmittedAnswers
from easq_rec.data.stream.loader import Followed, FollowLoader, start_state
from easq_rec.data.stream.planner import Planner
from easq_rec.data.stream.state import FollowState
from easq_rec.errors import UserError
from easq_rec.evaluation.prequential import (
    HourlySums,
    MetricBound,
    ScoredStep,
    from_values,
    merged,
    metrics_of,
    to_values,
)
from easq_rec.evaluation.remembered_scores import RememberedScores
from easq_rec.model.ranker import Ranker
from easq_rec.run_directory.events import event
from easq_rec.run_directory.metrics_file import HOUR
from easq_rec.run_directory.paths import CheckpointDirectory
from easq_rec.run_directory.progress_file import Progress
from easq_rec.training.batch_stream import BatchStream
from easq_rec.training.core import build_core, quarantine_for
from easq_rec.training.float_statistics import fit_to
from easq_rec.training.follow.exchange import Broadcast
from easq_rec.training.follow.sources import open_streams
from easq_rec.training.process import Runtime
from easq_rec.training.signals import StopRequest
from easq_rec.training.step import DEFAULT_PIPELINE, StepPlan, StepResult

ENDLESS = 2**40
"""Steps of a run without an end, for the learning rate, which is constant."""


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What rank 0 hands to whoever exports the newest checkpoint."""

    step: int
    clock_ms: int
    metrics: Mapping[str, float]
    """Of the last hour that ended; empty: none has."""
    requests: RequestColumns
    """Recent requests, on which the package is compared with the ranker."""


Publish = Callable[[Publication], None]
"""Starts to export the newest checkpoint; returns at once. Only rank 0 calls it."""


@dataclass(frozen=True, kw_only=True)
class FollowResult:
    """How a run ended."""

    step: int
    state: FollowState
    alarm: str | None
    """The latest alarm; None: there was none."""
    ended_by_alarm: str | None
    """The alarm that has ended the run; None: it was stopped, or nothing arrived for long enough."""
    unsaved: str | None
    """Why the last step has no checkpoint; None: it has one."""


class NothingArrived(Exception):
    """The run was stopped, or ended, before the first request arrived."""


class Follower:
    """Trains on streams, from the newest checkpoint in its directory if there is one.

    Args:
        run_dir: takes checkpoints/, metrics.jsonl and tensorboard/.
        start_from: checkpoint of another run of the same model, from which a run without a checkpoint starts.
        stop_request: whether this process was asked to stop.
        publish: exports checkpoints on rank 0; None: nothing is published.

    Raises:
        NothingArrived: on all ranks.
    """

    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        *,
        run_dir: Path,
        start_from: CheckpointDirectory | None = None,
        stop_request: StopRequest | None = None,
        publish: Publish | None = None,
    ) -> None:
        self.config, self.runtime = config, runtime
        self._request = StopRequest() if stop_request is None else stop_request
        self._publish = publish
        self._quarantine = quarantine_for(config, runtime, run_dir)
        self._loader: FollowLoader | None = None
        begin = start_state(config)
        self.core = build_core(
            config,
            runtime,
            run_dir=run_dir,
            quarantine=self._quarantine,
            total_steps=None,
            begin=begin,
            fit=self._fit,
            start_from=start_from,
            stop_request=self._request,
            pipeline=DEFAULT_PIPELINE,
        )
        start = self.core.start
        self.step, self.state = start.step, begin
        self.hours = HourlySums(config.schema.outcomes)
        if self.core.resumed:
            if not isinstance(start.loader, FollowState):
                raise UserError(
                    f"{run_dir}: this run trains on a fixed log: give another --run-dir, and --follow.start-from "
                    f"{run_dir} to start from it"
                )
            self.state = start.loader
            # Sums of all ranks are added up, so one rank has all that were saved.
            hours = start.hours if start.hours is not None and runtime.leads else {}
            self.hours.restore(from_values(hours), self.state.clock_ms)
        self.loader = self._loader or self._open(self.state)
        self._scores = RememberedScores()
        self.impressions = 0
        """This rank has trained on so many since it was started."""
        self.alarm: str | None = None
        self._metrics: Mapping[str, float] = {}
        self._publication: Publication | None = None
        """Waits until its checkpoint is complete."""
        self._alarm_if = MetricBound.of(config.follow.alarm_if or "")
        self._publish_if = MetricBound.of(config.follow.publish_if or "")

    def _open(self, state: FollowState) -> FollowLoader:
        config, runtime = self.config, self.runtime
        requests, answers = open_streams(config, self._quarantine)
        planner = None
        if runtime.leads:
            rows = config.trainer.batch_size * runtime.world_size
            planner = Planner(requests, answers, state, config.follow, rows=rows)
        return FollowLoader(
            config,
            requests,
            answers,
            state,
            Broadcast(runtime, config.trainer.timeout_s),
            planner,
            rank=runtime.rank,
            world_size=runtime.world_size,
        )

    def _fit(self, ranker: Ranker) -> None:
        """Fits the statistics of numbers to the first requests."""
        self._loader = self._open(start_state(self.config))
        waiting = False
        while (requests := self._loader.first_requests()) is None:
            if self.runtime.any_rank(bool(self._request)) or self._loader.pause.ended:
                self._loader.close()
                raise NothingArrived
            if not waiting and self.runtime.leads:
                self.runtime.lost.say(f"waiting for the first requests of {self.config.follow.source}")
            waiting = True
        fit_to(ranker.network.tokens, lambda: [collate(self.config.schema, requests)])

    def follow(self) -> FollowResult:
        """Trains until a signal, an alarm that stops, `trainer.stop_at_step`, or an idle stream."""
        core = self.core
        core.stopping.listen()
        core.windows.start(self.step, self.impressions)
        core.stopping.agree()
        with core.memory as memory:
            ended = False
            while not (ended or self._is_over()):
                batches = self.loader.batches(core.assign_rows)
                stream = BatchStream(batches, device=self.runtime.device, phases=self.runtime.phases)
                with closing(stream):
                    while not self._is_over() and self._train_step(stream):
                        memory.step(self.step)
                if not self._is_over():
                    pause = self.loader.pause
                    self._after(save=pause.save, publish=pause.publish)
                    ended = pause.ended
                    core.stopping.agree()
        core.stopping.end(self.step)
        unsaved = self.save(background=False)
        self._publish_waiting()
        self.loader.close()
        with self.runtime.phases("end of the run"):
            core.checkpoints.finish()
            self.runtime.barrier()
            if core.quarantine is not None and (count := core.quarantine.count()):
                core.log.say(f"{count:,} bad rows were set aside in {core.quarantine.folder}, with the reasons")
            core.log.close()
        return FollowResult(
            step=self.step,
            state=self.state,
            alarm=self.alarm,
            ended_by_alarm=self.alarm if self._alarm_stops else None,
            unsaved=unsaved,
        )

    def _is_over(self) -> bool:
        last = self.config.trainer.stop_at_step or self.config.trainer.max_steps
        return bool(self.core.stopping) or self._alarm_stops or (last is not None and self.step >= last)

    @property
    def _alarm_stops(self) -> bool:
        return self.alarm is not None and self.config.follow.on_alarm == "stop"

    def _train_step(self, stream: BatchStream[Followed]) -> bool:
        """One step, then what is due after it; returns whether there was one."""
        config, core = self.config, self.core
        plan = StepPlan.after(self.step, config, self.state.replay, total_steps=ENDLESS)
        try:
            result = core.train_step(stream, plan)
        except StopIteration:
            return False
        self.step = plan.number
        self.runtime.phases.end_step(self.step)
        followed, impressions = stream.end_step()
        self.state = followed.state
        self.impressions += impressions
        core.stopping.read_outcomes()
        self._evaluate(result, followed.admitted)
        if plan.measured:
            core.windows.end(self.step, self.impressions, result, self.state.replay)
        every = config.checkpoint.every_steps
        self._after(save=followed.save or (every > 0 and self.step % every == 0), publish=followed.publish)
        return True

    def _after(self, *, save: bool, publish: bool) -> None:
        """Reports hours that have ended, saves and publishes."""
        self._report_hours()
        if save or publish:
            self.save(background=self.config.checkpoint.background)
            # A save waits for the one before.
            self._publish_waiting()
        if publish:
            self._publication = self._next_publication()
        if not self.core.checkpoints.is_writing:
            self._publish_waiting()

    def _evaluate(self, result: StepResult, admitted: AdmittedAnswers | None) -> None:
        """Takes over the scores that the step gave its requests before it learned from them, and the answers that were
        admitted, with the scores of their candidates."""
        if admitted is not None:
            self.hours.add_answers(admitted, self._scores.find(admitted), counts=self.runtime.leads)
        step = scored_step(self.core.ranker, result)
        if step is None:
            return
        self.hours.add(step)
        if self.config.reads_answers:
            # Only a candidate with the trigger is asked about.
            trigger = self.config.schema.trigger_index
            asked_N = np.ones(len(step.served_N), np.bool_)
            if trigger is not None:
                asked_N = step.outcome_NO[:, trigger].numpy() > 0
            keys = result.batch.keys
            request_id_N = np.repeat(keys.request_id_R[: len(step.lengths_R)], step.lengths_R.numpy())
            item_N = keys.item_N[: len(asked_N)]
            self._scores.add(request_id_N[asked_N], item_N[asked_N], step.served_N.numpy()[asked_N])

    def _report_hours(self) -> None:
        """Logs the hours that ended by the clock, which is equal on all ranks."""
        ended = self.hours.ended(self.state.clock_ms) if self.hours.may_end(self.state.clock_ms) else None
        if ended is None:
            return
        for begin_ms, sums in merged(self.runtime.gather(ended)).items():
            metrics = metrics_of(sums, self.config.schema.outcomes)
            self._metrics = metrics
            behind = {"hour_ms": float(begin_ms), "late_requests": float(self.state.requests.late_rows)}
            self.core.log.metrics(self.step, HOUR, {**behind, **metrics, **self.state.replay.statistics()})
            if self._alarm_if is not None and self._alarm_if.holds(metrics):
                self.alarm = f"{self.config.follow.alarm_if}: {metrics[self._alarm_if.metric]:.6g}"
                event("alarm", level=logging.ERROR, hour_ms=begin_ms, condition=self.alarm)
                self.core.log.say(f"alarm: {self.alarm} in the hour that began at {begin_ms} ms")

    def _publish_waiting(self) -> None:
        """Publishes what waits for a checkpoint that is complete now. Training does not wait for it."""
        publication, self._publication = self._publication, None
        if publication is not None and self._publish is not None:
            self._publish(publication)

    def _next_publication(self) -> Publication | None:
        """What is to be published of the present step; None: nothing, or on another rank."""
        if self._publish is None or not self.runtime.leads or self.loader.recent is None:
            return None
        if self._publish_if is not None and not self._publish_if.holds(self._metrics):
            value = self._metrics.get(self._publish_if.metric)
            event("not_published", level=logging.WARNING, step=self.step, value=value)
            self.core.log.say(f"step {self.step} is not published: {self.config.follow.publish_if} does not hold")
            return None
        return Publication(
            step=self.step, clock_ms=self.state.clock_ms, metrics=self._metrics, requests=self.loader.recent
        )

    def save(self, *, background: bool) -> str | None:
        """Writes a checkpoint of the present step. If the disk fails, that is reported, and the run goes on.

        Returns:
            as `Checkpointer.save`.
        """
        self.core.stopping.read_outcomes(wait=True)
        hours = merged(self.runtime.gather(self.hours.open_hours()))
        progress = Progress(step=self.step, loader=self.state, hours=to_values(hours))
        with self.runtime.phases("checkpoint"):
            optimizers = self.core.train_step.optimizers
            return self.core.checkpoints.save(self.core.model, optimizers, progress, background=background)


@torch.no_grad()
def scored_step(ranker: Ranker, result: StepResult) -> ScoredStep | None:
    """The served scores of a step's requests; None: the step did not compute the satisfaction score, on which they
    depend, because it did not align."""
    batch, network = result.batch, result.output.network
    if ranker.network.steering is not None and network.reference is None:
        return None
    candidates, requests = batch.stream.candidates, batch.stream.requests
    satisfaction_N = network.reference.score_N if network.reference is not None else None
    served_N = ranker.network.policy_score(network.main.score_N, satisfaction_N)
    outcomes = network.main.outcomes
    return ScoredStep(
        timestamp_ms_R=torch.from_numpy(batch.keys.timestamp_ms_R[:requests].copy()),
        user_R=torch.from_numpy(batch.keys.user_id_R[:requests].copy()),
        lengths_R=batch.candidate_offsets_R1.diff()[:requests].cpu(),
        served_N=served_N[:candidates].detach().float().cpu(),
        outcome_NO=batch.outcome_NO[:candidates].cpu(),
        logit_NO=outcomes.corrected_NO[:candidates].detach().float().cpu() if outcomes is not None else None,
    )
