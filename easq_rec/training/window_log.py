"""The line of metrics.jsonl for a window of training steps."""

from __future__ import annotations

from easq_rec.data.quarantine import Quarantine
from easq_rec.data.replay import ReplayState
from easq_rec.losses.ranks import Ranks
from easq_rec.run_directory.events import event
from easq_rec.run_directory.run_log import RunLog
from easq_rec.training.phases import Phases
from easq_rec.training.step import StepResult, TrainingStep
from easq_rec.training.step_statistics import step_statistics


class WindowLog:
    """Averages rates and phases over the steps of a window, and logs them with the statistics of its last step."""

    def __init__(
        self,
        log: RunLog,
        ranks: Ranks,
        phases: Phases,
        train_step: TrainingStep,
        quarantine: Quarantine | None,
        *,
        answers: bool,
        total_steps: int | None,
    ) -> None:
        self._log = log
        self._train_step = train_step
        self._quarantine = quarantine
        self._answers = answers
        self._ranks = ranks
        self._phases = phases
        self._total_steps = total_steps
        self._start = (0, 0)
        self.impressions_per_second = 0.0
        """Of all ranks, in the last window."""

    def start(self, step: int, impressions: int) -> None:
        """Begins a window after a step.

        Args:
            impressions: that this rank has trained on so far.
        """
        self._phases.take_window(1)
        self._start = (step, impressions)

    def end(self, step: int, impressions: int, result: StepResult, replay: ReplayState) -> None:
        """Logs the window that ends with a step, and begins the next. All ranks call it.

        Args:
            impressions: that this rank has trained on so far.
        """
        first_step, first_impressions = self._start
        phases, elapsed = self._phases.take_window(step - first_step)
        values, all_impressions = step_statistics(result.output, self._ranks, impressions - first_impressions)
        rate = all_impressions / elapsed
        self._start, self.impressions_per_second = (step, impressions), rate
        values |= {f"gradient_norm_{name}": float(norm) for name, norm in result.gradient_norms.items()}
        for change in result.batch.id_changes:
            values |= {
                f"shared_ids_{change.table}": change.shared,
                f"reset_rows_{change.table}": float(len(change.reset)),
            }
        values |= {**self._figures(replay), "impressions_per_second": rate, **phases}
        self._log.metrics(step, "train", values)
        ms = sum(phases.values())
        event("window", step=step, of=self._total_steps, ms_per_step=ms, impressions_per_second=rate, phases=phases)
        losses = {name.removeprefix("loss_"): value for name, value in values.items() if name.startswith("loss_")}
        self._log.progress(step, {**losses, "impressions/s": rate})

    def _figures(self, replay: ReplayState) -> dict[str, float]:
        """Counts since the start of the run, and the learning rate."""
        figures = dict(replay.statistics()) if self._answers else {}
        if skipped := self._train_step.finite_check.skipped_steps:
            figures["skipped_steps"] = float(skipped)
        if self._quarantine is not None:
            figures["quarantined_rows"] = float(self._quarantine.count())
        return {**figures, "learning_rate": self._train_step.optimizers.dense_learning_rate}
