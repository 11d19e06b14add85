"""The outputs of a training run: metrics.jsonl, TensorBoard and the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from easq_rec.config import Logging
from easq_rec.run_directory.metrics_file import record_line, rewind
from easq_rec.run_directory.paths import RunDirectory


class RunLog:
    """Writes metrics and shows progress.

    Args:
        first_step: step at which the run starts or resumes. Metrics of later steps, which a killed run left, are
            removed.
        speaks: False on all ranks except rank 0: then all methods do nothing.
    """

    def __init__(self, run_dir: Path, config: Logging, *, first_step: int, total_steps: int, speaks: bool) -> None:
        self._speaks = speaks
        self._total = total_steps
        self._bar: tqdm[Any] | None = None
        self._board: Any = None
        if not speaks:
            return
        paths = RunDirectory(run_dir)
        rewind(paths.metrics, first_step)
        self._file = paths.metrics.open("a", buffering=1, encoding="utf-8")
        if config.tensorboard:
            # The import takes a second, and only rank 0 needs it.
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(paths.tensorboard), purge_step=first_step)
        if sys.stderr.isatty():
            self._bar = tqdm(total=total_steps, initial=first_step, unit="step", dynamic_ncols=True)

    def metrics(self, step: int, split: str, values: dict[str, float]) -> None:
        """Writes one line of metrics.jsonl, and one point per value to TensorBoard."""
        if not self._speaks:
            return
        self._file.write(record_line(step, split, values))
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{split}/{name}", value, step)

    def progress(self, step: int, values: dict[str, float]) -> None:
        """Shows the step and some numbers on the terminal."""
        if not self._speaks:
            return
        shown = {name: f"{value:,.0f}" if value >= 1_000 else f"{value:.4g}" for name, value in values.items()}
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(step - self._bar.n)
        else:
            self.say(f"step {step}/{self._total}  " + "  ".join(f"{name} {text}" for name, text in shown.items()))

    def say(self, text: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        if self._speaks:
            tqdm.write(text, file=sys.stdout) if self._bar is not None else print(text, flush=True)

    def close(self) -> None:
        """Flushes and closes all outputs."""
        if not self._speaks:
            return
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._board is not None:
            self._board.close()
        self._file.close()
