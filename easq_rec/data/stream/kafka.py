"""A topic of Kafka as a stream. A chunk is a message, its offset is that of Kafka.

Rank 0 polls all partitions and keeps what it received, so that its reads cost nothing more. The other ranks fetch what
plans name with consumers of their own (`easq_rec.data.stream.kafka_reader`). No offset is committed to a broker, and
there is no consumer group: the positions are those of the checkpoint.

Back pressure is per partition, because the merge by time may wait for one partition while another has too much. With
`most_waiting`, a partition of which more rows were polled than released is paused. `read` releases the messages of its
partition before the one that it reads. Where other ranks read as well, rank 0 calls `release` with the positions after
each step; otherwise a partition that rank 0 never reads would stay paused.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from easq_rec.data.bad_rows import BadRows, Place
from easq_rec.data.columns import RequestColumns, Rows
from easq_rec.data.decode import one_chunk
from easq_rec.data.decode_rows import decode_with_positions
from easq_rec.data.layout import Layout
from easq_rec.data.quarantine import Quarantine
from easq_rec.data.stream.future import FutureLimit
from easq_rec.data.stream.kafka_address import KafkaAddress
from easq_rec.data.stream.kafka_connection import KafkaConnection, open_checked, partition_name
from easq_rec.data.stream.kafka_reader import KafkaReader
from easq_rec.data.stream.messages import ARROW, BadMessage, MessageDecoder
from easq_rec.data.stream.source import Chunk, JournalEntry
from easq_rec.errors import UserError

BATCH = 64
"""Messages that are taken from librdkafka at once."""
ROWS_PER_POLL = 4_096
"""A poll ends when it has so many rows, so that it returns soon."""
SMALL_ROWS = 16
"""Messages with so many rows at most are decoded together."""
LOOK_S = 5.0
"""Seconds between two looks for new partitions."""
TIME = "timestamp_ms"

Decoded = tuple[RequestColumns, Rows]


@dataclass(kw_only=True)
class _Received:
    """A message that was polled or read."""

    content: pa.Table | Decoded
    size: int
    """About the bytes of its table."""


class KafkaSource:
    """The messages of one topic; each number of a partition is the name of one. Methods may be called by any thread.

    Args:
        layout: the columns to read.
        max_history: number of most recent history entries to keep.
        quarantine: stores bad rows and messages; None: they are an error.
        complete: adds columns that the messages lack; None: nothing is added.
        most_waiting: rows of a partition that may be polled and not released; None: any number.
        limit: refuses rows from the future; None: rows may have any time.
        kept_bytes: of messages that are kept after a poll; what does not fit is fetched again by `read`.
        timeout_s: how long a broker may be away when something of it is needed. `poll` never waits.
    """

    def __init__(
        self,
        address: KafkaAddress,
        layout: Layout,
        *,
        max_history: int,
        quarantine: Quarantine | None = None,
        complete: Callable[[RequestColumns], RequestColumns] | None = None,
        most_waiting: int | None = None,
        limit: FutureLimit | None = None,
        kept_bytes: int = 256 << 20,
        timeout_s: float = 60.0,
    ) -> None:
        self._address = address
        self._layout = layout
        self._max_history = max_history
        self._quarantine = quarantine
        self._complete = complete
        self._most_waiting = most_waiting
        self._limit = limit
        self._kept_bytes = kept_bytes
        self._timeout_s = timeout_s
        self._decoder = MessageDecoder(layout)
        self._lock = threading.Lock()
        self._connection: KafkaConnection | None = None
        self._reader: KafkaReader | None = None
        self._looks: ThreadPoolExecutor | None = None
        self._look: Future[set[int]] | None = None
        self._looked_s = 0.0
        self._next: dict[int, int | None] = {}
        """The next offset of each known partition; None: its first."""
        self._received: dict[int, dict[int, _Received]] = {}
        """Messages by partition and offset, ascending."""
        self._size = 0
        """Bytes of `_received`."""
        self._waiting: dict[int, deque[tuple[int, int]]] = {}
        """(offset, rows) of the messages of a partition that were polled and not released."""
        self._waiting_rows: dict[int, int] = {}
        self._paused: set[int] = set()

    @property
    def partitions(self) -> tuple[str, ...]:
        return tuple(sorted(map(str, self._next)))

    @property
    def journal(self) -> tuple[JournalEntry, ...]:
        return ()

    def extend(self, journal: Sequence[JournalEntry]) -> None:
        """Does nothing: a broker has no journal."""

    def seek(self, positions: Mapping[str, int], journal: Sequence[JournalEntry]) -> None:
        """Continues at these offsets. Asks a broker whether it has them, on every rank.

        Raises:
            UserError: no broker answers, there is no such topic, or an offset or a partition is gone.
        """
        with self._lock:
            self._disconnect()
            offsets = {int(partition): offset for partition, offset in positions.items()}
            found = open_checked(self._address, offsets.items(), self._timeout_s)
            self._next = {partition: offsets.get(partition) for partition in sorted(found)}

    def poll(self) -> list[Chunk]:
        """What has arrived since the last call, or about `ROWS_PER_POLL` rows of it; returns at once.

        A message without rows is passed over, and so is one in quarantine.

        Raises:
            UserError: an offset is gone, a partition cannot be read, or a message cannot be decoded while there is no
                quarantine.
        """
        with self._lock:
            connection = self._connected()
            self._add_partitions(connection)
            self._resume(connection)
            chunks: list[Chunk] = []
            rows = 0
            while rows < ROWS_PER_POLL:
                expected = {partition: offset for partition, offset in self._next.items() if offset is not None}
                messages = connection.consume(BATCH, 0.0, expected)
                if not messages:
                    break
                contents = [message.value() or b"" for message in messages]
                for message, content, table in zip(messages, contents, self._decoder.tables(contents), strict=True):
                    partition, offset = message.partition(), message.offset()
                    assert partition is not None and offset is not None
                    if offset < (self._next[partition] or 0):
                        continue
                    self._next[partition] = offset + 1
                    if isinstance(table, BadMessage):
                        self._set_aside(partition, offset, table, content)
                    elif len(table):
                        # JSON was converted together, and takes less room as columns than as text.
                        size = table.get_total_buffer_size() if content.startswith(ARROW) else len(content)
                        chunks.append(self._chunk(partition, offset, table, size))
                        rows += len(table)
                self._pause(connection)
            return chunks

    def read(self, partition: str, offset: int) -> Decoded:
        with self._lock:
            number = int(partition)
            self._release(number, offset)
            received = self._received.get(number, {}).get(offset)
            if received is None:
                received = self._fetched(number, offset)
            if isinstance(received.content, pa.Table):
                self._decode(received, number, offset)
            assert not isinstance(received.content, pa.Table)
            return received.content

    def release(self, positions: Mapping[str, int]) -> None:
        """Notes that no rank will read the messages before these offsets of partitions again."""
        with self._lock:
            for partition, offset in positions.items():
                self._release(int(partition), offset)

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    def _connected(self) -> KafkaConnection:
        """The connection that polls."""
        if self._connection is None:
            if not self._next:
                self._next = dict.fromkeys(sorted(open_checked(self._address, (), self._timeout_s)))
            self._connection = KafkaConnection(self._address)
            self._connection.assign(self._next)
            self._looks = ThreadPoolExecutor(1, thread_name_prefix="kafka-partitions")
            self._looked_s = time.monotonic()
        return self._connection

    def _disconnect(self) -> None:
        """Closes the connections, and forgets what was received."""
        if self._looks is not None:
            self._looks.shutdown()
        if self._connection is not None:
            self._connection.close()
        if self._reader is not None:
            self._reader.close()
        self._connection = self._reader = self._looks = self._look = None
        self._received, self._size = {}, 0
        self._waiting, self._waiting_rows, self._paused = {}, {}, set()

    def _add_partitions(self, connection: KafkaConnection) -> None:
        """Reads new partitions from their beginning. A thread asks for them, because an answer may take long."""
        assert self._looks is not None
        if self._look is not None and self._look.done():
            # A broker that does not answer now may answer at the next look.
            found = self._look.result() if self._look.exception() is None else set()
            new = dict.fromkeys(sorted(found - self._next.keys()))
            if new:
                connection.assign(new)
                self._next |= new
            self._look, self._looked_s = None, time.monotonic()
        if self._look is None and time.monotonic() - self._looked_s >= LOOK_S:
            self._look = self._looks.submit(connection.partitions, LOOK_S)

    def _set_aside(self, partition: int, offset: int, bad: BadMessage, message: bytes) -> None:
        """Quarantines a message, or raises UserError without a quarantine."""
        if self._quarantine is None:
            raise UserError(f"{self._place(partition, offset)}: {bad}") from bad
        self._quarantine.add_message(self._address.topic, partition, offset, str(bad), message)

    def _chunk(self, partition: int, offset: int, table: pa.Table, size: int) -> Chunk:
        """Keeps a message of so many bytes."""
        if self._size + size <= self._kept_bytes:
            self._keep(partition, offset, _Received(content=table, size=size))
        self._waiting.setdefault(partition, deque()).append((offset, len(table)))
        self._waiting_rows[partition] = self._waiting_rows.get(partition, 0) + len(table)
        times = one_chunk(table.column(TIME)).cast(pa.int64(), safe=False).fill_null(-1)
        time_ms = np.asarray(times.to_numpy(), np.int64)
        time_ms = time_ms if self._limit is None else self._limit.plausible(time_ms)
        return Chunk(partition=str(partition), offset=offset, time_ms=time_ms)

    def _fetched(self, partition: int, offset: int) -> _Received:
        """A message that this rank has not polled, or did not keep. It is kept, for the rows of it that come later."""
        if self._reader is None:
            self._reader = KafkaReader(self._address, ahead_bytes=self._kept_bytes // 4, timeout_s=self._timeout_s)
        try:
            table = self._decoder.rows(self._reader.value(partition, offset) or b"")
        except BadMessage as bad:
            raise UserError(f"{self._place(partition, offset)}: {bad}") from bad
        received = _Received(content=table, size=table.get_total_buffer_size())
        self._keep(partition, offset, received)
        return received

    def _decode(self, received: _Received, partition: int, offset: int) -> None:
        """Decodes a message; if it is small, together with those that follow, which is far faster."""
        together = [(offset, received)]
        if len(received.content) <= SMALL_ROWS:
            together = list(itertools.islice(self._tables_from(partition, offset), BATCH)) or together
        try:
            # A row is judged with its own message: the id of a request may come back in a later one.
            self._decode_together([later for _, later in together], self._place(partition, offset))
        except (BadRows, pa.ArrowInvalid):
            for number, later in together if self._quarantine is not None else [(offset, received)]:
                later.content = self._decoded(later.content, self._place(partition, number), self._quarantine)

    def _tables_from(self, partition: int, offset: int) -> Iterator[tuple[int, _Received]]:
        """The small messages from an offset on that were received and not decoded yet."""
        for number, later in self._received.get(partition, {}).items():
            if number >= offset:
                if not isinstance(later.content, pa.Table) or len(later.content) > SMALL_ROWS:
                    return
                yield number, later

    def _decode_together(self, messages: list[_Received], place: Place) -> None:
        """Raises BadRows if there are any, and ArrowInvalid if the schemas differ; then nothing is decoded."""
        tables = [message.content for message in messages]
        if len(tables) == 1:
            messages[0].content = self._decoded(tables[0], place, self._quarantine)
            return
        columns, _ = self._decoded(pa.concat_tables(tables), place, None)
        begin = 0
        for message, table in zip(messages, tables, strict=True):
            message.content = columns.slice(begin, begin + len(table)), np.arange(len(table))
            begin += len(table)

    def _decoded(self, table: pa.Table, place: Place, quarantine: Quarantine | None) -> Decoded:
        columns, placed = decode_with_positions(
            table,
            self._layout,
            place,
            max_history=self._max_history,
            quarantine=quarantine,
            strict=False,
            check=self._limit.check if self._limit is not None else None,
        )
        return (columns if self._complete is None else self._complete(columns)), placed

    def _place(self, partition: int, offset: int) -> Place:
        return Place(file=partition_name(self._address.topic, partition), row_group=offset, unit="offset")

    def _keep(self, partition: int, offset: int, received: _Received) -> None:
        self._received.setdefault(partition, {})[offset] = received
        self._size += received.size

    def _release(self, partition: int, offset: int) -> None:
        """Forgets the messages before an offset."""
        kept = self._received.get(partition, {})
        # They ascend, except for those that were fetched again, which may stay a little longer.
        for earlier in list(itertools.takewhile(lambda found: found < offset, kept)):
            self._size -= kept.pop(earlier).size
        waiting = self._waiting.get(partition)
        while waiting and waiting[0][0] < offset:
            self._waiting_rows[partition] -= waiting.popleft()[1]

    def _pause(self, connection: KafkaConnection) -> None:
        """Pauses partitions with too many rows that wait."""
        if self._most_waiting is not None:
            for partition, rows in self._waiting_rows.items():
                if rows > self._most_waiting and partition not in self._paused:
                    connection.pause(partition)
                    self._paused.add(partition)

    def _resume(self, connection: KafkaConnection) -> None:
        """Goes on with partitions of which half has been released."""
        for partition in sorted(self._paused):
            assert self._most_waiting is not None
            if self._waiting_rows[partition] <= self._most_waiting // 2:
                connection.resume(partition)
                self._paused.discard(partition)
