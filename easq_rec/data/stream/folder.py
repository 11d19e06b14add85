"""A folder into which another job commits Parquet files by a rename, on a local disk or in an object store.

The files are read in the order in which they are discovered. Files that appear between two looks are discovered in the
order of their names, so a job that names files by time has them read by time. The order is part of a checkpoint: a file
that appears later is read later, whatever its name. A file must not change after it has appeared.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from easq_rec.data import files
from easq_rec.data.columns import RequestColumns, Rows
from easq_rec.data.dataset import RequestDataset
from easq_rec.data.layout import Layout
from easq_rec.data.listing import is_parquet_name
from easq_rec.data.quarantine import Quarantine
from easq_rec.data.stream.future import FutureLimit
from easq_rec.data.stream.source import Chunk, JournalEntry, end_of
from easq_rec.data.stream.spark_metadata import METADATA, committed_files
from easq_rec.errors import UserError

OPEN = 16
"""Files whose footers are kept."""
DECODED = 4
"""Row groups that are kept after `read`: the steps of a row group follow one another."""
CHUNKS_PER_POLL = 64
"""Row groups that a poll returns at most, so that a long backlog needs little memory."""


class FolderSource:
    """The files of a folder as one partition, named "".

    Args:
        directory: need not exist yet.
        max_history: number of most recent history entries to keep.
        quarantine: stores bad rows; None: a bad row is an error.
        look_s: time between two looks for new files, which list the folder.
        limit: refuses rows from the future; None: rows may have any time.
    """

    def __init__(
        self,
        directory: files.Location,
        layout: Layout,
        *,
        max_history: int,
        quarantine: Quarantine | None = None,
        look_s: float = 0.0,
        limit: FutureLimit | None = None,
    ) -> None:
        self._directory = directory
        self._layout = layout
        self._max_history = max_history
        self._quarantine = quarantine
        self._limit = limit
        self._journal: tuple[JournalEntry, ...] = ()
        self._known: set[str] = set()
        self._next = 0
        self._look_s, self._looked_s = look_s, -math.inf
        self._datasets: OrderedDict[str, RequestDataset] = OrderedDict()
        self._decoded: OrderedDict[int, tuple[RequestColumns, Rows]] = OrderedDict()

    @property
    def partitions(self) -> tuple[str, ...]:
        return ("",)

    @property
    def journal(self) -> tuple[JournalEntry, ...]:
        return self._journal

    def seek(self, positions: Mapping[str, int], journal: Sequence[JournalEntry]) -> None:
        self._journal, self._known = tuple(journal), {entry.name for entry in journal}
        self._next = positions.get("", 0)

    def extend(self, journal: Sequence[JournalEntry]) -> None:
        self._journal += tuple(journal)
        self._known.update(entry.name for entry in journal)

    def poll(self) -> list[Chunk]:
        if time.monotonic() - self._looked_s >= self._look_s:
            self._discover()
            self._looked_s = time.monotonic()
        end = end_of(self._journal)
        found: list[Chunk] = []
        while self._next < end and len(found) < CHUNKS_PER_POLL:
            entry = self._entry(self._next)
            dataset = self._dataset(entry.name)
            for index in range(self._next - entry.first, entry.groups):
                group = dataset.row_groups[index]
                if group.rows:
                    times = dataset.timestamps(group)
                    times = times if self._limit is None else self._limit.plausible(times)
                    found.append(Chunk(partition="", offset=entry.first + index, time_ms=times))
            self._next = entry.first + entry.groups
        return found

    def read(self, partition: str, offset: int) -> tuple[RequestColumns, Rows]:
        if offset in self._decoded:
            self._decoded.move_to_end(offset)
            return self._decoded[offset]
        entry = self._entry(offset)
        dataset = self._dataset(entry.name)
        decoded = dataset.read_with_positions(dataset.row_groups[offset - entry.first])
        self._decoded[offset] = decoded
        while len(self._decoded) > DECODED:
            self._decoded.popitem(last=False)
        return decoded

    def release(self, positions: Mapping[str, int]) -> None:
        """Does nothing: files can be read at any time."""

    def close(self) -> None:
        self._datasets.clear()
        self._decoded.clear()

    def _discover(self) -> None:
        """Adds files that have appeared. Those that upstream has removed are forgotten once they are read."""
        names = self._listed()
        present = set(names)
        if len(present) < len(self._known):
            gone = {entry.name for entry in self._journal if entry.first + entry.groups <= self._next} - present
            if len(gone) > len(self._known) // 2:
                # Offsets are kept in the entries, so that earlier ones can go.
                self._journal = tuple(entry for entry in self._journal if entry.name not in gone)
                self._known -= gone
                for name in gone:
                    self._datasets.pop(name, None)
        first, fresh = end_of(self._journal) or self._next, list[JournalEntry]()
        for name in names:
            if name not in self._known:
                entry = JournalEntry(first=first, groups=len(self._dataset(name).row_groups), name=name)
                fresh.append(entry)
                self._known.add(name)
                first += entry.groups
        if fresh:
            self._journal += tuple(fresh)

    def _listed(self) -> list[str]:
        """Names of the committed files, in the order in which they are read."""
        if files.is_dir(files.join(self._directory, METADATA)):
            return committed_files(self._directory)
        if not files.is_dir(self._directory):
            return []
        names = files.all_files(self._directory)
        for name in names:
            # The footer of a file that is named as Parquet is read anyway.
            if name not in self._known and not is_parquet_name(name):
                files.check_parquet(files.join(self._directory, name))
        return names

    def _entry(self, offset: int) -> JournalEntry:
        """The file of a row group. Raises UserError if it is forgotten."""
        place = bisect_right(self._journal, offset, key=lambda entry: entry.first) - 1
        if place < 0 or offset >= self._journal[place].first + self._journal[place].groups:
            raise UserError(
                f"{files.display_name(self._directory)}: row group {offset} of the stream is not there any more: the "
                "file was removed before it was read"
            )
        return self._journal[place]

    def _dataset(self, name: str) -> RequestDataset:
        if name in self._datasets:
            self._datasets.move_to_end(name)
            return self._datasets[name]
        made = RequestDataset(
            self._directory,
            self._layout,
            names=(name,),
            max_history=self._max_history,
            quarantine=self._quarantine,
            # A stream must get past a file that is bad as a whole.
            strict=False,
            check=self._limit.check if self._limit is not None else None,
        )
        self._datasets[name] = made
        while len(self._datasets) > OPEN:
            self._datasets.popitem(last=False)
        return made
