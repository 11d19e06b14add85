"""What continuous training reads from: a stream of requests or of answers, in partitions, with offsets.

A source delivers chunks. A chunk is what was committed together: a row group of a file, or a message of a broker.
Within a partition, offsets ascend and chunks are read in that order. Rank 0 polls; every rank reads the chunks that the
plan of a step names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from easq_rec.data.columns import RequestColumns, Rows


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Rows that arrived together."""

    partition: str
    offset: int
    time_ms: Rows
    """`timestamp_ms` of each row; -1 where a row has none."""


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """A file, in the order in which files were discovered."""

    first: int
    """Offset of its first row group."""
    groups: int
    """Row groups."""
    name: str


class StreamSource(Protocol):
    """One stream. Offsets of a partition ascend, and may have gaps."""

    def seek(self, positions: Mapping[str, int], journal: Sequence[JournalEntry]) -> None:
        """Continues at offset `positions[partition]` of each partition; others are read from their beginning.

        Raises:
            UserError: the stream no longer has an offset.
        """

    def poll(self) -> list[Chunk]:
        """What has arrived since the last call; returns at once. Only rank 0 calls it.

        Raises:
            UserError: the stream cannot be read.
        """

    def read(self, partition: str, offset: int) -> tuple[RequestColumns, Rows]:
        """A chunk that some rank has polled, as columns of the layout.

        Returns:
            (valid requests, position of each row of the chunk among them, -1 for a row in quarantine).

        Raises:
            UserError: the chunk cannot be read, or has bad values while there is no quarantine.
        """

    def release(self, positions: Mapping[str, int]) -> None:
        """Notes that this rank will not read chunks before these offsets of partitions again."""

    @property
    def partitions(self) -> tuple[str, ...]:
        """The partitions that are known, sorted."""

    @property
    def journal(self) -> tuple[JournalEntry, ...]:
        """The files in the order of their discovery; empty for a broker."""

    def extend(self, journal: Sequence[JournalEntry]) -> None:
        """Notes what rank 0 has discovered. Other ranks call it."""

    def close(self) -> None:
        """Ends threads and connections."""


def end_of(journal: Sequence[JournalEntry]) -> int:
    """The offset that follows on all files of a journal; 0 for an empty one."""
    return journal[-1].first + journal[-1].groups if journal else 0
