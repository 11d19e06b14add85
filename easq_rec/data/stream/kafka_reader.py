"""Messages of a topic by partition and offset, for ranks that do not poll.

Plans name messages of a partition in the order of their offsets, with gaps where other ranks read. So the reader stays
where it is, passes over what was not asked for, and keeps some messages ahead, as they arrive. Any other offset works,
too, and costs a new start of that partition.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from easq_rec.data.stream.kafka_address import KafkaAddress
from easq_rec.data.stream.kafka_connection import KafkaConnection
from easq_rec.errors import UserError

BATCH = 64
"""Messages that are taken from librdkafka at once."""
FAR = 10_000
"""Messages that are passed over rather than to start anew."""
WAIT_S = 0.1
SETTINGS = {"queued.max.messages.kbytes": 16_384, "fetch.wait.max.ms": 50}
"""librdkafka would hold 64 MiB, and start a partition only when a fetch of the others has ended, after 500 ms."""


@dataclass(kw_only=True)
class _Ahead:
    """What has arrived of a partition and was not asked for yet."""

    next: int
    """The least offset that may arrive next."""
    messages: deque[tuple[int, bytes | None]] = field(default_factory=deque)
    """(offset, value), ascending."""
    size: int = 0
    """Bytes of the values."""
    paused: bool = False

    def pop(self) -> tuple[int, bytes | None]:
        offset, value = self.messages.popleft()
        self.size -= len(value or b"")
        return offset, value

    def covers(self, offset: int) -> bool:
        first = self.messages[0][0] if self.messages else self.next
        return first <= offset < self.next + FAR


class KafkaReader:
    """Reads messages of one topic. Not thread-safe.

    Args:
        ahead_bytes: bytes of messages that are kept ahead, in all partitions together.
        timeout_s: how long a broker may be away.
    """

    def __init__(self, address: KafkaAddress, *, ahead_bytes: int, timeout_s: float) -> None:
        self._address = address
        self._ahead_bytes = ahead_bytes
        self._timeout_s = timeout_s
        self._connection: KafkaConnection | None = None
        self._ahead: dict[int, _Ahead] = {}

    def value(self, partition: int, offset: int) -> bytes | None:
        """The value of a message.

        Raises:
            UserError: there is no message at this offset, or no broker answers in time.
        """
        if self._connection is None:
            self._connection = KafkaConnection(self._address, SETTINGS)
        try:
            return self._value(self._connection, partition, offset)
        except UserError:
            # Another read of the partition starts anew.
            if self._ahead.pop(partition, None) is not None:
                self._connection.unassign(partition)
            raise

    def _value(self, connection: KafkaConnection, partition: int, offset: int) -> bytes | None:
        ahead = self._ahead.get(partition)
        if ahead is None or not ahead.covers(offset):
            ahead = self._start(connection, partition, offset)
        deadline = time.monotonic() + self._timeout_s
        while True:
            while ahead.messages:
                found, value = ahead.pop()
                if found == offset:
                    return value
                if found > offset:
                    raise UserError(f"{connection.place(partition)}: there is no message at offset {offset}")
            if time.monotonic() > deadline:
                place = f"{connection.place(partition)}, offset {offset}"
                raise UserError(f"{place}: {self._address} has sent nothing for {self._timeout_s:g} s")
            if ahead.paused:
                connection.resume(partition)
                ahead.paused = False
            self._receive(connection)

    def _start(self, connection: KafkaConnection, partition: int, offset: int) -> _Ahead:
        """Goes to an offset of a partition."""
        if partition in self._ahead:
            connection.unassign(partition)
        connection.assign({partition: offset})
        self._ahead[partition] = _Ahead(next=offset)
        return self._ahead[partition]

    def _receive(self, connection: KafkaConnection) -> None:
        """Takes over what has arrived, and pauses partitions that are enough ahead."""
        expected = {partition: ahead.next for partition, ahead in self._ahead.items()}
        for message in connection.consume(BATCH, WAIT_S, expected):
            partition, offset = message.partition(), message.offset()
            assert partition is not None and offset is not None
            ahead = self._ahead.get(partition)
            if ahead is None or offset < ahead.next:
                continue
            ahead.messages.append((offset, message.value()))
            ahead.next = offset + 1
            ahead.size += len(message)
            if ahead.size > self._ahead_bytes // len(self._ahead) and not ahead.paused:
                connection.pause(partition)
                ahead.paused = True

    def close(self) -> None:
        """Ends threads and connections."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._ahead.clear()
