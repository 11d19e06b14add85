"""A connection to one topic of Kafka, through confluent-kafka (librdkafka).

It reads partitions at offsets that are given, and commits none. A broker that goes away is waited for: librdkafka
connects again by itself, and meanwhile there are no messages.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from easq_rec.data.stream.kafka_address import KafkaAddress
from easq_rec.errors import UserError

if TYPE_CHECKING:
    from confluent_kafka import Message

SETTINGS = {
    # A consumer must have a group, although it joins none.
    "group.id": "easq-rec",
    "client.id": "easq-rec",
    "check.crcs": "true",
    # It would write a line for every attempt to reach a broker that is away.
    "log_level": "0",
}
"""Options that an address may change."""
GONE = ("_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE")
"""Errors of a partition that does not have the offset."""
TRANSIENT = ("_PARTITION_EOF", "_RESOLVE", "_TIMED_OUT", "_TRANSPORT", "_ALL_BROKERS_DOWN", "REQUEST_TIMED_OUT")
"""Errors of a partition that librdkafka mends by itself."""
BOUNDS_S = 10.0
"""How long to wait for what a broker still has, after it said that an offset is gone."""
WARN_S = 60.0
"""Seconds between two warnings about brokers."""
LONGEST_PAUSE_MS = 86_400_000
"""An evaluation may take hours, and nothing is polled meanwhile. The most that librdkafka allows."""


class KafkaConnection:
    """Reads partitions of a topic. Only `partitions` and `bounds` may be called from other threads.

    Args:
        settings: further options of librdkafka, which the options of the address override.

    Raises:
        UserError: confluent-kafka is not installed, or an option is wrong.
    """

    def __init__(self, address: KafkaAddress, settings: Mapping[str, object] | None = None) -> None:
        self._address = address
        self._kafka = _library()
        self._problem, self._silent_until_s = "", 0.0
        self._assigned = False
        try:
            self._consumer = self._kafka.Consumer(
                {
                    **SETTINGS,
                    "max.poll.interval.ms": LONGEST_PAUSE_MS,
                    **(settings or {}),
                    **address.options,
                    "bootstrap.servers": address.servers,
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "enable.partition.eof": False,
                    "auto.offset.reset": "error",
                    "error_cb": self._note,
                }
            )
        except self._kafka.KafkaException as error:
            raise UserError(f"{address}: {_text(error)}") from error
        except (TypeError, ValueError) as error:
            raise UserError(f"{address}: {error}") from error

    def _note(self, error: Any) -> None:
        """Librdkafka calls this when a broker is away or refuses something. It goes on by itself."""
        self._problem = str(error.str())
        if time.monotonic() >= self._silent_until_s:
            self._silent_until_s = time.monotonic() + WARN_S
            logging.getLogger(__name__).warning("%s: %s", self._address, self._problem)

    def partitions(self, timeout_s: float) -> set[int]:
        """The partitions of the topic. Raises UserError if no broker answers, or there is no such topic."""
        try:
            found = self._consumer.list_topics(self._address.topic, timeout=timeout_s).topics[self._address.topic]
        except self._kafka.KafkaException as error:
            if not self._assigned:
                # This serves the callback that knows the reason. It might take a message, if there were any.
                self._consumer.poll(0)
            raise UserError(
                f"{self._address}: no broker answers within {timeout_s:g} s: {self._problem or _text(error)}"
            ) from error
        if found.error is not None:
            raise UserError(f"{self._address}: no topic {self._address.topic} can be read there: {found.error.str()}")
        return set(found.partitions)

    def bounds(self, partition: int, timeout_s: float) -> tuple[int, int]:
        """(first offset that the broker still has, offset of the next message to come) of a partition."""
        try:
            low, high = self._consumer.get_watermark_offsets(self._at(partition), timeout=timeout_s, cached=False)
        except self._kafka.KafkaException as error:
            raise UserError(f"{self.place(partition)}: {_text(error)}") from error
        return low, high

    def check(self, partition: int, offset: int, timeout_s: float) -> None:
        """Raises UserError if reading cannot continue at an offset."""
        low, high = self.bounds(partition, timeout_s)
        if not low <= offset <= high:
            raise self._gone(partition, offset, low, high)

    def assign(self, offsets: Mapping[int, int | None]) -> None:
        """Adds partitions, to be read from an offset; None: from their beginning."""
        places = [
            self._at(partition, self._kafka.OFFSET_BEGINNING if offset is None else offset)
            for partition, offset in offsets.items()
        ]
        self._assigned = True
        self._consumer.incremental_assign(places)

    def unassign(self, partition: int) -> None:
        """Removes a partition, with all that has arrived of it."""
        self._consumer.incremental_unassign([self._at(partition)])

    def pause(self, partition: int) -> None:
        """Stops fetching a partition."""
        self._consumer.pause([self._at(partition)])

    def resume(self, partition: int) -> None:
        """Goes on after the last message of a partition that `consume` returned."""
        self._consumer.resume([self._at(partition)])

    def consume(self, most: int, timeout_s: float, expected: Mapping[int, int]) -> list[Message]:
        """Messages that have arrived, in the order of their offsets within a partition.

        Args:
            most: number of messages.
            timeout_s: how long to wait for the first one.
            expected: the next offset of each partition, for error messages.

        Raises:
            UserError: an offset is gone, or a partition cannot be read.
        """
        messages = self._consumer.consume(most, timeout_s)
        return [message for message in messages if message.error() is None or self._refuse(message, expected)]

    def _refuse(self, message: Message, expected: Mapping[int, int]) -> bool:
        """False for an error after which librdkafka goes on by itself. Raises UserError for others."""
        error, partition = message.error(), message.partition()
        assert error is not None
        if partition is None or partition < 0:
            if error.fatal():
                raise UserError(f"{self._address}: {error.str()}")
            return False
        if error.name() in GONE:
            low, high = self.bounds(partition, BOUNDS_S)
            raise self._gone(partition, expected.get(partition, message.offset()), low, high)
        if error.name() in TRANSIENT:
            return False
        raise UserError(f"{self.place(partition)}: {error.str()}")

    def _gone(self, partition: int, offset: int | None, low: int, high: int) -> UserError:
        kept = f"{low} to {high - 1}" if high > low else f"none, and the next will be {high}"
        return UserError(
            f"{self.place(partition)}: offset {offset} is gone; the broker has offsets {kept}. Messages must be kept "
            "longer than training may stand still (retention.ms and retention.bytes of the topic); a new --run-dir "
            "begins with what is there"
        )

    def place(self, partition: int) -> str:
        """A partition as messages for users name it."""
        return partition_name(self._address.topic, partition)

    def _at(self, partition: int, offset: int | None = None) -> Any:
        place = self._kafka.TopicPartition(self._address.topic, partition)
        if offset is not None:
            place.offset = offset
        return place

    def close(self) -> None:
        """Ends threads and connections."""
        self._consumer.close()


def partition_name(topic: str, partition: int) -> str:
    """A partition as messages for users name it."""
    return f"topic {topic}, partition {partition}"


def open_checked(address: KafkaAddress, offsets: Iterable[tuple[int, int]], timeout_s: float) -> set[int]:
    """The partitions of a topic. Raises UserError if reading cannot continue at these offsets of partitions."""
    connection = KafkaConnection(address)
    try:
        partitions = connection.partitions(timeout_s)
        for partition, offset in offsets:
            if partition not in partitions:
                raise UserError(f"{connection.place(partition)}: is not there any more; a new --run-dir begins anew")
            connection.check(partition, offset, timeout_s)
        return partitions
    finally:
        connection.close()


def _library() -> Any:
    """confluent-kafka. Raises UserError if it is not installed."""
    try:
        import confluent_kafka
    except ImportError as error:
        raise UserError("reading from Kafka needs confluent-kafka: pip install 'easq-rec[kafka]'") from error
    return confluent_kafka


def _text(error: Exception) -> str:
    """What librdkafka says about a failure."""
    inner: Any = error.args[0] if error.args else None
    return str(inner.str() if hasattr(inner, "str") else error)
