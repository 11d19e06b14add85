"""The lines of RUN_DIR/logs/rank_K.jsonl: one JSON object per event of a rank."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from easq_rec import json_file

WINDOW = "window"
"""The event that reports the steps since the one before it."""
SIGN_OF_WINDOW = f'"event": "{WINDOW}"'
"""Part of each line that `event_line` writes for a window of steps."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line."""

    time: datetime.datetime
    name: str
    rank: int
    level: str
    fields: dict[str, Any]
    """Everything else, by name."""


def event_line(event: Event) -> str:
    """A line with its line break. Numbers get six digits; NaN and infinity, which JSON lacks, become null."""
    time = event.time.astimezone(datetime.UTC).isoformat(timespec="milliseconds")
    head = {"time": time, "level": event.level, "event": event.name}
    return json_file.text(_json_value({**head, **event.fields, "rank": event.rank}), words=True) + "\n"


@dataclass(frozen=True, kw_only=True)
class Events:
    """What a file holds."""

    events: list[Event]
    """In their order."""
    torn: int
    """Number of lines that are incomplete, which were skipped: the process was killed while it wrote one."""


def read_events(file: Path) -> Events:
    """The events of a rank.

    Only the last of several windows of steps in a row is parsed: nearly all lines of a long run are such windows.
    """
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    # After the last line break comes nothing, or a line that the process is writing.
    lines, events, torn = lines[:-1], [], 0
    for line, following in zip_longest(lines, lines[1:], fillvalue=""):
        if SIGN_OF_WINDOW in line and SIGN_OF_WINDOW in following:
            continue
        try:
            fields = json.loads(line)
            time = datetime.datetime.fromisoformat(fields.pop("time"))
            name, rank, level = str(fields.pop("event")), int(fields.pop("rank")), str(fields.pop("level"))
        except (ValueError, KeyError, TypeError, AttributeError):
            torn += 1
            continue
        events.append(Event(time=time, name=name, rank=rank, level=level, fields=fields))
    return Events(events=events, torn=torn)


def _json_value(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _json_value(part) for name, part in value.items()}
    return [_json_value(part) for part in value] if isinstance(value, list | tuple) else value
