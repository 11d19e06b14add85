"""What a report shows of a run: its configuration, all metrics, and the summary of its evaluation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easq_rec.errors import UserError
from easq_rec.run_directory.metrics_file import FINAL, HOLDOUT, Record, read_records
from easq_rec.run_directory.paths import RunDirectory

Point = tuple[float, float]
BIN = ("predicted", "observed", "low", "high", "candidates")
"""What is known of a bin of predictions."""


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """A run directory."""

    directory: Path
    name: str
    """Distinguishes it from the other runs of the report."""
    config: dict[str, Any]
    records: list[Record]
    """At least one."""
    evaluation: dict[str, Any] | None
    """The content of evaluation.json; None where `easq-rec evaluate` was not run."""

    @property
    def reliability(self) -> dict[str, list[dict[str, float]]]:
        """For each predicted outcome and each bin of its predictions: `predicted`, `observed`, `low`, `high` and
        `candidates`; empty where the run was not evaluated."""
        found: dict[str, list[dict[str, float]]] = (self.evaluation or {}).get("outcomes", {})
        return found

    @property
    def evaluated(self) -> bool:
        """Whether differences to another run can be computed with intervals."""
        return RunDirectory(self.directory).evaluation_table.is_file()

    @property
    def recipe(self) -> str:
        return str(self.config.get("recipe", "custom"))

    @property
    def last_step(self) -> int:
        return max(record.step for record in self.records)

    @property
    def final(self) -> Record | None:
        """The newest metrics on held-out requests: those of the end of training, else of the last evaluation."""
        held_out = [record for record in self.records if record.split in (HOLDOUT, FINAL)]
        return max(held_out, key=lambda record: (record.split == FINAL, record.step), default=None)

    def names(self, *splits: str) -> list[str]:
        """Names of the recorded metrics, in the order of their first appearance."""
        found = (name for record in self.records if record.split in splits for name in record.values)
        return list(dict.fromkeys(found))

    def course(self, name: str, *splits: str) -> list[tuple[float, float]]:
        """(step, value) of a metric, by ascending step."""
        found = {
            float(record.step): record.values[name]
            for record in self.records
            if record.split in splits and name in record.values
        }
        return sorted(found.items())

    def setting(self, path: str) -> Any:
        """A field of the config by its dotted name; None where the config does not have it."""
        value: Any = self.config
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value


def read_run(directory: Path, name: str, config: dict[str, Any]) -> RunFiles:
    """The run in a directory.

    Args:
        name: see `RunFiles`.
        config: the content of its config.json.

    Raises:
        UserError: the run has no metrics yet, or a file is damaged.
    """
    paths = RunDirectory(directory)
    file = paths.metrics
    records = read_records(file) if file.is_file() else []
    if not records:
        logging = config.get("logging")
        every = logging.get("every_steps") if isinstance(logging, dict) else None
        when = f"a line is written every {every} steps (logging.every_steps)" if every else "lines come while it trains"
        raise UserError(f"{file}: no metrics yet, so there is nothing to report; {when}")
    return RunFiles(
        directory=directory, name=name, config=config, records=records, evaluation=_evaluation(paths.evaluation)
    )


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
        # Evaluations of earlier versions have no outcomes.
        content["outcomes"] = {
            str(name): [{key: float(one[key]) for key in BIN} for one in bins]
            for name, bins in content.get("outcomes", {}).items()
        }
        return content
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{file}: not an evaluation ({error!r}); run `easq-rec evaluate --run {file.parent}` again"
        ) from error
