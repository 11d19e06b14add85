"""The outputs of a training run: metrics.jsonl, TensorBoard and the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from easq_rec.config import Logging
from easq_rec.disk_failures import LostWrites
from easq_rec.run_directory.append_file import AppendFile
from easq_rec.run_directory.metrics_file import record_line, rewind
from easq_rec.run_directory.paths import RunDirectory

if TYPE_CHECKING:
    from easq_rec.run_directory.curves import Curves


class RunLog:
    """Writes metrics and shows progress. What the disk refuses is lost, and the run goes on.

    Args:
        first_step: step at which the run starts or resumes. Metrics of later steps, which a killed run left, are
            removed.
        total_steps: of the run; None: it has no end.
        speaks: False on all ranks except rank 0: then all methods do nothing.
        lost: counts what could not be written.
    """

    def __init__(
        self,
        run_dir: Path,
        config: Logging,
        *,
        first_step: int,
        total_steps: int | None,
        speaks: bool,
        lost: LostWrites,
    ) -> None:
        self._speaks = speaks
        self._lost = lost
        self._of = "" if total_steps is None else f"/{total_steps}"
        self._bar: tqdm[Any] | None = None
        self._curves: Curves | None = None
        if not speaks:
            return
        paths = RunDirectory(run_dir)
        with lost.tolerated("metrics", paths.metrics):
            rewind(paths.metrics, first_step)
        self._file = AppendFile(paths.metrics)
        if config.tensorboard:
            # Only rank 0 needs the package.
            from easq_rec.run_directory.curves import Curves

            self._curves = Curves(paths.tensorboard, first_step=first_step)
        if sys.stderr.isatty():
            self._bar = tqdm(total=total_steps, initial=first_step, unit="step", dynamic_ncols=True)

    def metrics(self, step: int, split: str, values: dict[str, float]) -> None:
        """Writes one line of metrics.jsonl, and one point per value to TensorBoard."""
        if not self._speaks:
            return
        with self._lost.tolerated("metrics", self._file.path):
            self._file.append(record_line(step, split, values).encode())
        if self._curves is not None:
            with self._lost.tolerated("TensorBoard", self._curves.path):
                self._curves.add(step, {f"{split}/{name}": value for name, value in values.items()})

    def progress(self, step: int, values: dict[str, float]) -> None:
        """Shows the step and some numbers on the terminal."""
        if not self._speaks:
            return
        shown = {name: f"{value:,.0f}" if value >= 1_000 else f"{value:.4g}" for name, value in values.items()}
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(step - self._bar.n)
        else:
            self.say(f"step {step}{self._of}  " + "  ".join(f"{name} {text}" for name, text in shown.items()))

    def say(self, text: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        if self._speaks:
            tqdm.write(text, file=sys.stdout) if self._bar is not None else self._lost.say(text)

    def close(self) -> None:
        """Closes all outputs."""
        if not self._speaks:
            return
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._curves is not None:
            self._curves.close()
        self._file.close()
