"""What a run says: metrics.jsonl, TensorBoard, and the terminal. Rank 0 alone speaks."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from easq_rec.config import Logging


class RunLog:
    """Writes metrics and shows progress; with `speaks` False it does nothing at all.

    Args:
        first_step: step that the run goes on from; metrics of later steps, which a killed run left, are removed.
    """

    def __init__(self, run_dir: Path, config: Logging, *, first_step: int, total_steps: int, speaks: bool) -> None:
        self._speaks = speaks
        self._total = total_steps
        self._bar: tqdm[Any] | None = None
        self._board: Any = None
        if not speaks:
            return
        path = run_dir / "metrics.jsonl"
        _truncate(path, first_step)
        self._file = path.open("a", buffering=1)
        if config.tensorboard:
            # Imported here: it takes a second, and ranks that do not speak need none of it.
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step)
        if sys.stderr.isatty():
            self._bar = tqdm(total=total_steps, initial=first_step, unit="step", dynamic_ncols=True)

    def metrics(self, step: int, split: str, values: dict[str, float]) -> None:
        """One line of metrics.jsonl, and a point per value on TensorBoard."""
        if not self._speaks:
            return
        finite = {name: (value if math.isfinite(value) else None) for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "split": split, **finite}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{split}/{name}", value, step)

    def progress(self, step: int, values: dict[str, float]) -> None:
        """The line of numbers that a person watches."""
        if not self._speaks:
            return
        shown = {name: f"{value:,.0f}" if value >= 1_000 else f"{value:.4g}" for name, value in values.items()}
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(step - self._bar.n)
        else:
            self.say(f"step {step}/{self._total}  " + "  ".join(f"{name} {text}" for name, text in shown.items()))

    def say(self, text: str) -> None:
        """A plain line, above the progress bar where there is one."""
        if self._speaks:
            tqdm.write(text, file=sys.stdout) if self._bar is not None else print(text, flush=True)

    def close(self) -> None:
        """Flushes everything; safe to call twice."""
        if not self._speaks:
            return
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._board is not None:
            self._board.close()
        self._file.close()


def _truncate(path: Path, step: int) -> None:
    """Keeps the lines up to a step, so that the file tells one timeline; the final metrics are written anew."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        records = [(json.loads(line), line) for line in lines]
        kept = [line for record, line in records if record["step"] <= step and record["split"] != "final"]
        path.write_text("".join(kept))
