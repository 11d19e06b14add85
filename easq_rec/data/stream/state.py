"""What a checkpoint of continuous training stores of its data: positions in both streams, clock, and held answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from easq_rec.data.columns import Array
from easq_rec.data.replay import ReplayState
from easq_rec.data.stream.held_answers import HeldState
from easq_rec.data.stream.merge import StreamState
from easq_rec.data.stream.source import JournalEntry

Journal = tuple[JournalEntry, ...]


@dataclass(frozen=True, kw_only=True)
class FollowState:
    """Everything up to a step. Never modified, and equal on all ranks."""

    requests: StreamState = field(default_factory=StreamState)
    answers: StreamState = field(default_factory=StreamState)
    request_files: Journal = ()
    """The files of the requests in the order of their discovery; empty for a broker."""
    answer_files: Journal = ()
    clock_ms: int = 0
    """The stream's clock: answers that were given by this time are admitted."""
    held: HeldState
    rows: int = 0
    """Requests that were trained on, over all ranks, with those in quarantine."""

    @property
    def replay(self) -> ReplayState:
        """The state of the answers, as the plan of a step reads it."""
        return self.held.replay

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint; `arrays` are the others."""
        return {
            "requests": self.requests.to_dict(),
            "answers": self.answers.to_dict(),
            "request_files": entries_of(self.request_files),
            "answer_files": entries_of(self.answer_files),
            "clock_ms": self.clock_ms,
            "rows": self.rows,
            "held": self.held.to_dict(),
        }

    def arrays(self) -> dict[str, Array]:
        """Held answers with their requests, by name."""
        return self.held.arrays()

    @staticmethod
    def of(values: Mapping[str, Any], arrays: Mapping[str, Array]) -> FollowState:
        """The inverse of `to_dict` and `arrays`."""
        return FollowState(
            requests=StreamState.from_dict(values["requests"]),
            answers=StreamState.from_dict(values["answers"]),
            request_files=journal_of(values["request_files"]),
            answer_files=journal_of(values["answer_files"]),
            clock_ms=values["clock_ms"],
            rows=values["rows"],
            held=HeldState.of(values["held"], arrays),
        )


def entries_of(journal: Journal) -> list[list[object]]:
    """A journal as plain values."""
    return [[entry.first, entry.groups, entry.name] for entry in journal]


def journal_of(entries: list[list[Any]]) -> Journal:
    """The inverse of `entries_of`."""
    return tuple(JournalEntry(first=first, groups=groups, name=name) for first, groups, name in entries)
