"""The lines of RUN_DIR/metrics.jsonl: one JSON object with `step`, `split` and named numbers per record."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from easq_rec import json_file
from easq_rec.errors import UserError

TRAIN, HOLDOUT, FINAL = "train", "holdout", "final"
"""Splits: training steps, held-out requests during training, and held-out requests at its end."""
SIGN_OF_TRAIN = f'"split": "{TRAIN}"'
"""Part of each line that `record_line` writes for a training step."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One line."""

    step: int
    split: str
    values: dict[str, float]
    """The finite values by name."""
    undefined: tuple[str, ...] = ()
    """Names of the values that were NaN or infinite."""

    @property
    def all_values(self) -> dict[str, float]:
        """All values by name, NaN for those that are undefined."""
        return self.values | dict.fromkeys(self.undefined, math.nan)


def record_line(step: int, split: str, values: Mapping[str, float]) -> str:
    """A line with its line break. JSON has no NaN and no infinity: both become null."""
    return json_file.text({"step": step, "split": split, **values}) + "\n"


def append_record(file: Path, step: int, split: str, values: Mapping[str, float]) -> None:
    """Adds a line to the file of a run that no longer trains."""
    with file.open("a", encoding="utf-8") as out:
        out.write(record_line(step, split, values))


def read_records(file: Path, *, condensed: bool = False) -> Iterator[Record]:
    """All records, except a last line that is incomplete.

    Args:
        condensed: parse only the last of several training steps in a row. Nearly all lines of a long run are training
            steps, and most of them are not needed to know how the run stands.

    Raises:
        UserError: the file cannot be read, or a line is not a record. Names file and line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            # The run is writing this line, or was killed while it did.
            return
        following = lines[number] if number < len(lines) else ""
        if condensed and SIGN_OF_TRAIN in line and SIGN_OF_TRAIN in following:
            continue
        yield _record(file, number, line)


def final_record(file: Path) -> Record | None:
    """The newest record of split `final`; None where training did not reach its end."""
    if not file.is_file():
        return None
    found = [record for record in read_records(file, condensed=True) if record.split == FINAL]
    return found[-1] if found else None


def rewind(file: Path, step: int) -> None:
    """Removes the records of later steps, which a killed run left, and the final ones, which will be written again."""
    if not file.exists():
        return
    lines = [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    records = [(_record(file, number, line), line) for number, line in enumerate(lines, 1)]
    kept = [line for record, line in records if record.step <= step and record.split != FINAL]
    file.write_text("".join(kept), encoding="utf-8")


def _record(file: Path, number: int, line: str) -> Record:
    try:
        content = json.loads(line)
        step, split = int(content.pop("step")), str(content.pop("split"))
        values = {name: math.nan if value is None else float(value) for name, value in content.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{file}, line {number}: not a record with step, split and numbers ({error!r}); remove the line"
        ) from error
    return Record(
        step=step,
        split=split,
        values={name: value for name, value in values.items() if math.isfinite(value)},
        undefined=tuple(name for name, value in values.items() if not math.isfinite(value)),
    )
