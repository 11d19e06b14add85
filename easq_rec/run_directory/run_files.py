"""What a run has left: its configuration, every record of metrics.jsonl, and a summary of its evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Point = tuple[float, float]

METRICS = "metrics.jsonl"
EVALUATION = "evaluation.json"
EVALUATED = "evaluation.parquet"
"""By request, see `easq_rec.evaluation.results`."""
TRAIN, HOLDOUT, FINAL = "train", "holdout", "final"
"""Splits of metrics.jsonl: training steps, held-out requests on the way, and all of them in the end."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One line of metrics.jsonl."""

    step: int
    split: str
    values: dict[str, float]
    """Without those that were not finite."""


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """A run directory."""

    directory: Path
    name: str
    """What tells it from the other runs of the report."""
    config: dict[str, Any]
    records: list[Record]
    """At least one."""
    evaluation: dict[str, Any] | None
    """What `easq-rec evaluate` wrote."""

    @property
    def evaluated(self) -> bool:
        """Whether differences to another run can be computed with intervals."""
        return (self.directory / EVALUATED).is_file()

    @property
    def recipe(self) -> str:
        return str(self.config.get("recipe", "custom"))

    @property
    def last_step(self) -> int:
        return max(record.step for record in self.records)

    @property
    def final(self) -> Record | None:
        """The newest metrics on held-out requests: those of the end, else of an evaluation on the way."""
        held_out = [record for record in self.records if record.split in (HOLDOUT, FINAL)]
        return max(held_out, key=lambda record: (record.split == FINAL, record.step), default=None)

    def names(self, *splits: str) -> list[str]:
        """What was recorded, in the order of its first appearance."""
        found = (name for record in self.records if record.split in splits for name in record.values)
        return list(dict.fromkeys(found))

    def course(self, name: str, *splits: str) -> list[Point]:
        """(step, value) of a metric, by ascending step."""
        found = {
            float(record.step): record.values[name]
            for record in self.records
            if record.split in splits and name in record.values
        }
        return sorted(found.items())

    def setting(self, path: str) -> Any:
        """A field of the config by its dotted name; None where the config has none of that name."""
        value: Any = self.config
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value


def read_run(directory: Path, name: str, config: dict[str, Any]) -> RunFiles:
    """A run directory whose config was read.

    Raises:
        ValueError: it has no metrics yet, or a file is damaged.
    """
    file = directory / METRICS
    records = list(read_records(file)) if file.is_file() else []
    if not records:
        logging = config.get("logging")
        every = logging.get("every_steps") if isinstance(logging, dict) else None
        when = f"a line is written every {every} steps (logging.every_steps)" if every else "lines come while it trains"
        raise ValueError(f"{file}: no metrics yet, so there is nothing to report; {when}")
    return RunFiles(
        directory=directory, name=name, config=config, records=records, evaluation=_evaluation(directory / EVALUATION)
    )


def read_records(file: Path, wanted: Callable[[str, str], bool] = lambda line, following: True) -> Iterator[Record]:
    """Lines of a metrics.jsonl, without one that is being written.

    Args:
        wanted: whether to parse a line, by its text and that of the one that follows.

    Raises:
        ValueError: naming file and line, where one is no record.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            # The run is writing it, or was killed while it did.
            return
        if wanted(line, lines[number] if number < len(lines) else ""):
            yield _record(file, number, line)


def _record(file: Path, number: int, line: str) -> Record:
    try:
        values = json.loads(line)
        step, split = int(values.pop("step")), str(values.pop("split"))
        known = {key: float(value) for key, value in values.items() if value is not None}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{file}, line {number}: not a record with step, split and numbers ({error!r}); remove the line"
        ) from error
    return Record(step=step, split=split, values={key: value for key, value in known.items() if math.isfinite(value)})


def _evaluation(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        content["metrics"] = {
            str(name): {
                end: entry[end] if entry[end] is None else float(entry[end]) for end in ("value", "low", "high")
            }
            for name, entry in content["metrics"].items()
        }
        return content
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{file}: not an evaluation ({error!r}); run `easq-rec evaluate --run {file.parent}` again"
        ) from error
