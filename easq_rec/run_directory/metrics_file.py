"""The lines of RUN_DIR/metrics.jsonl: one JSON object with `step`, `split` and named numbers per record."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from easq_rec import json_file
from easq_rec.errors import UserError
from easq_rec.run_directory.append_file import AppendFile
from easq_rec.run_directory.whole_file import replace

TRAIN, HOLDOUT, FINAL = "train", "holdout", "final"
"""Splits: training steps, held-out requests during training, and held-out requests at its end."""
HOUR = "hour"
"""Split of a run that follows a stream: requests of an hour, scored before they were learned from."""
SIGN_OF_TRAIN = f'"split": "{TRAIN}"'.encode()
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


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What a file holds."""

    records: list[Record]
    torn: int = 0
    """Number of lines that are incomplete, which were skipped: the run was killed while it wrote one."""


def append_record(file: Path, step: int, split: str, values: Mapping[str, float]) -> None:
    """Adds a line to the file of a run that no longer trains."""
    lines = AppendFile(file)
    try:
        lines.append(record_line(step, split, values).encode())
    finally:
        lines.close()


def read_metrics(file: Path, *, condensed: bool = False) -> Metrics:
    """All records. A last line without a line break is ignored: the run is writing it, or was killed while it did.

    Args:
        condensed: parse only the last of several training steps in a row. Nearly all lines of a long run are training
            steps, and most of them are not needed to know how the run stands.

    Raises:
        UserError: the file cannot be read, or a line is JSON but not a record. Names file and line.
    """
    try:
        # Not splitlines, which also splits at characters that JSON may hold.
        lines = file.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error}") from error
    records, torn = [], 0
    for number, line in enumerate(lines, 1):
        if _is_torn(line):
            torn += 1
            continue
        following = lines[number] if number < len(lines) else b""
        if condensed and SIGN_OF_TRAIN in line and SIGN_OF_TRAIN in following and not _is_torn(following):
            continue
        record = _record(file, number, line)
        if record is None:
            torn += 1
        else:
            records.append(record)
    return Metrics(records=records, torn=torn)


def read_records(file: Path, *, condensed: bool = False) -> list[Record]:
    """The records of `read_metrics`."""
    return read_metrics(file, condensed=condensed).records


def final_record(file: Path) -> Record | None:
    """The newest record of split `final`; None where training did not reach its end."""
    if not file.is_file():
        return None
    found = [record for record in read_records(file, condensed=True) if record.split == FINAL]
    return found[-1] if found else None


def rewind(file: Path, step: int) -> None:
    """Removes the records of later steps, which a killed run left, and the final ones, which will be written again.

    Torn lines are removed, too. If the disk fails, the file stays as it is.
    """
    if not file.exists():
        return
    content = file.read_bytes()
    lines = []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        record = None if _is_torn(line) else _record(file, number, line)
        if record is not None and record.step <= step and record.split != FINAL:
            lines.append(line + b"\n")
    kept = b"".join(lines)
    if content.startswith(kept):
        # Nearly always: later steps come later in the file. It needs no space, and a process that is killed here
        # leaves the whole file or the part that is kept.
        os.truncate(file, len(kept))
        return
    replace(file, kept.decode("utf-8", errors="surrogateescape"))


def _is_torn(line: bytes) -> bool:
    """Whether a line is only the beginning of a record, which has one closing brace."""
    return not line.rstrip().endswith(b"}")


def _record(file: Path, number: int, line: bytes) -> Record | None:
    """The record of a line; None: it is no JSON, as if it were made of parts of several lines."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    try:
        step, split = int(content.pop("step")), str(content.pop("split"))
        values = {name: math.nan if value is None else float(value) for name, value in content.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}, line {number}: not a record with step, split and numbers ({error!r}); remove the line"
        ) from error
    return Record(
        step=step,
        split=split,
        values={name: value for name, value in values.items() if math.isfinite(value)},
        undefined=tuple(name for name, value in values.items() if not math.isfinite(value)),
    )
