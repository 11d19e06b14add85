"""The Kafka source, with real clients, on the mock broker of librdkafka."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from easq_rec import json_file
from easq_rec.data.layout import Layout
from easq_rec.data.quarantine import Quarantine
from easq_rec.data.stream import kafka as kafka_module
from easq_rec.data.stream.future import FutureLimit
from easq_rec.data.stream.kafka import KafkaSource
from easq_rec.data.stream.kafka_address import KafkaAddress
from easq_rec.data.stream.kafka_connection import KafkaConnection
from easq_rec.data.stream.messages import message_of
from easq_rec.data.stream.source import Chunk, StreamSource
from easq_rec.errors import UserError
from tests.data.builders import SCHEMA, Row, expected, ids, make_rows, plain, to_table

pytest.importorskip("confluent_kafka")

import confluent_kafka

from benchmarks.mock_kafka import MockKafka

LAYOUT = Layout.of(SCHEMA)
PATIENCE_S = 60.0


class Topic:
    """A topic of the mock broker, and the rows of each of its messages."""

    def __init__(self, broker: MockKafka, name: str, partitions: int) -> None:
        self.broker, self.name, self.partitions = broker, name, partitions
        broker.create(name, partitions)
        self._producer = confluent_kafka.Producer({"bootstrap.servers": broker.servers, "log_level": "0"})
        self._rng = np.random.default_rng(0)
        self._id = 0
        self.rows: dict[str, list[list[Row]]] = {str(partition): [] for partition in range(partitions)}
        self.open: list[KafkaSource] = []

    def send(self, partition: int, message: bytes | None, rows: list[Row]) -> None:
        self._producer.produce(self.name, message, partition=partition)
        assert self._producer.flush(PATIENCE_S) == 0
        self.rows[str(partition)].append(rows)

    def fill(self, messages: int, *, most_rows: int = 4, form: str = "arrow") -> None:
        """Sends messages with some rows each to partitions in turn."""
        for index in range(messages):
            rows = self.made(int(self._rng.integers(1, most_rows + 1)))
            message = message_of(to_table(rows)) if form == "arrow" else json_file.text(rows).encode()
            partition = str(index % self.partitions)
            self._producer.produce(self.name, message, partition=int(partition))
            self.rows[partition].append(rows)
        assert self._producer.flush(PATIENCE_S) == 0

    def made(self, count: int) -> list[Row]:
        self._id += count
        return make_rows(self._rng, count, first_id=self._id - count)

    @property
    def address(self) -> KafkaAddress:
        return KafkaAddress.parse(f"kafka://{self.broker.servers}/{self.name}")

    def source(
        self,
        positions: dict[str, int] | None = None,
        *,
        quarantine: Quarantine | None = None,
        most_waiting: int | None = None,
        limit: FutureLimit | None = None,
        kept_bytes: int = 1 << 26,
        timeout_s: float = PATIENCE_S,
    ) -> KafkaSource:
        source = KafkaSource(
            self.address,
            LAYOUT,
            max_history=50,
            quarantine=quarantine,
            most_waiting=most_waiting,
            limit=limit,
            kept_bytes=kept_bytes,
            timeout_s=timeout_s,
        )
        self.open.append(source)
        source.seek(positions or {}, ())
        return source

    @property
    def places(self) -> list[tuple[str, int]]:
        return [(partition, offset) for partition, sent in self.rows.items() for offset in range(len(sent))]


@pytest.fixture(scope="module")
def broker() -> Iterator[MockKafka]:
    broker = MockKafka()
    yield broker
    broker.close()


@pytest.fixture
def topic(broker: MockKafka, request: pytest.FixtureRequest) -> Iterator[Callable[[int], Topic]]:
    made: list[Topic] = []

    def make(partitions: int) -> Topic:
        name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
        made.append(Topic(broker, f"{name}-{len(made)}", partitions))
        return made[-1]

    yield make
    for one in made:
        for source in one.open:
            source.close()


def polled(source: StreamSource, count: int) -> list[Chunk]:
    """Chunks until there are so many; a second later there are no more."""
    chunks: list[Chunk] = []
    until = time.monotonic() + PATIENCE_S
    while len(chunks) < count and time.monotonic() < until:
        chunks += source.poll()
        time.sleep(0.01)
    assert len(chunks) == count
    time.sleep(0.6)
    assert source.poll() == []
    return chunks


def check(source: StreamSource, topic: Topic, partition: str, offset: int) -> None:
    """Compares the rows of a message with those that were sent."""
    columns, placed = source.read(partition, offset)
    rows = topic.rows[partition][offset]
    assert placed.tolist() == list(range(len(rows)))
    assert plain(columns) == expected(rows)


@pytest.mark.parametrize("form", ["arrow", "json"])
def test_every_message_is_polled_once_and_in_order(topic: Callable[[int], Topic], form: str) -> None:
    sent = topic(3)
    sent.fill(40, form=form)
    source = sent.source()
    assert source.partitions == ("0", "1", "2")
    assert source.journal == ()
    chunks = polled(source, 40)
    for partition in source.partitions:
        assert [c.offset for c in chunks if c.partition == partition] == list(range(len(sent.rows[partition])))
    for chunk in chunks:
        assert chunk.time_ms.tolist() == [row["timestamp_ms"] for row in sent.rows[chunk.partition][chunk.offset]]
        check(source, sent, chunk.partition, chunk.offset)
    sent.fill(5, form=form)
    assert len(polled(source, 5)) == 5


def test_a_source_continues_at_any_position(topic: Callable[[int], Topic]) -> None:
    sent = topic(3)
    sent.fill(60)
    source, rng = sent.source(), np.random.default_rng(1)
    for _ in range(4):
        positions = {str(partition): int(rng.integers(0, 21)) for partition in rng.permutation(3)[:2]}
        wanted = [(name, offset) for name, offset in sent.places if offset >= positions.get(name, 0)]
        source.seek(positions, ())
        found = [(chunk.partition, chunk.offset) for chunk in polled(source, len(wanted))]
        assert sorted(found) == sorted(wanted)


def test_another_rank_reads_the_same_rows_forward_and_at_random(topic: Callable[[int], Topic]) -> None:
    sent = topic(3)
    sent.fill(90)
    reader, rng = sent.source(), np.random.default_rng(2)
    for offset in range(0, 30, 2):
        for partition in ("0", "2", "1"):
            check(reader, sent, partition, offset)
            check(reader, sent, partition, offset)
    for index in rng.integers(0, len(sent.places), 40):
        check(reader, sent, *sent.places[index])


def test_what_was_not_kept_is_fetched_again(topic: Callable[[int], Topic]) -> None:
    sent = topic(2)
    sent.fill(40)
    source = sent.source(kept_bytes=20_000)
    for chunk in polled(source, 40):
        check(source, sent, chunk.partition, chunk.offset)


def test_a_reader_keeps_little_ahead(topic: Callable[[int], Topic]) -> None:
    """Partitions pause and go on, and nothing is lost or doubled by it."""
    sent = topic(3)
    sent.fill(300)
    reader = sent.source(kept_bytes=40_000)
    for offset in range(100):
        for partition in ("0", "1", "2") if offset % 7 else ("2",):
            check(reader, sent, partition, offset)


def test_a_partition_waits_until_its_rows_are_released(topic: Callable[[int], Topic]) -> None:
    sent = topic(2)
    sent.fill(600, most_rows=1)
    source = sent.source(most_waiting=20)
    first: list[Chunk] = []
    for _ in range(100):
        first += source.poll()
        time.sleep(0.01)
    # A batch of messages is taken as a whole.
    assert 40 <= len(first) <= 2 * (20 + kafka_module.BATCH)
    chunks = first
    until = time.monotonic() + PATIENCE_S
    while len(chunks) < 600 and time.monotonic() < until:
        source.release({partition: 1 + max(c.offset for c in chunks if c.partition == partition) for partition in "01"})
        chunks += source.poll()
        time.sleep(0.01)
    for partition in "01":
        assert [c.offset for c in chunks if c.partition == partition] == list(range(300))


def test_reading_releases_the_messages_before(topic: Callable[[int], Topic]) -> None:
    sent = topic(1)
    sent.fill(300, most_rows=1)
    source = sent.source(most_waiting=20)
    seen = 0
    until = time.monotonic() + PATIENCE_S
    while seen < 300 and time.monotonic() < until:
        for chunk in source.poll():
            assert chunk.offset == seen
            check(source, sent, chunk.partition, chunk.offset)
            seen += 1
    assert seen == 300


def test_bad_messages_and_rows_are_quarantined_once(topic: Callable[[int], Topic], tmp_path: Path) -> None:
    sent = topic(1)
    good, bad = sent.made(3), sent.made(3)
    bad[1]["candidates"][0]["long_view"] = 7
    worst = sent.made(1)
    worst[0]["candidates"][0]["quality"] = float("inf")
    sent.send(0, b"\xff\xff\xff\xffrubbish", [])
    sent.send(0, message_of(to_table(good)), good)
    sent.send(0, message_of(to_table(bad)), bad)
    sent.send(0, message_of(to_table(worst)), worst)
    sent.send(0, None, [])
    sent.send(0, message_of(to_table([])), [])
    sent.send(0, json_file.text(good[0]).encode(), good[:1])
    for _ in range(2):
        quarantine = Quarantine(tmp_path / "quarantine")
        source, reader = sent.source(quarantine=quarantine), sent.source(quarantine=quarantine)
        chunks = polled(source, 4)
        assert [chunk.offset for chunk in chunks] == [1, 2, 3, 6]
        for one in (source, reader):
            columns, placed = one.read("0", 2)
            assert placed.tolist() == [0, -1, 1]
            assert ids(columns) == [bad[0]["request_id"], bad[2]["request_id"]]
            columns, placed = one.read("0", 3)
            assert placed.tolist() == [-1]
            assert len(columns) == 0
            check(one, sent, "0", 6)
        assert quarantine.count() == 4
    files = [pq.read_table(file).to_pylist() for file in sorted((tmp_path / "quarantine").iterdir())]
    messages = {rows[0]["bad_offset"]: rows[0] for rows in files if "bad_message" in rows[0]}
    assert messages[0]["bad_message"] == b"\xff\xff\xff\xffrubbish"
    assert "no valid Arrow IPC stream" in messages[0]["bad_reason"]
    assert (messages[4]["bad_topic"], messages[4]["bad_partition"]) == (sent.name, 0)
    assert "neither an Arrow IPC stream nor JSON" in messages[4]["bad_reason"]
    rows = {rows[0]["bad_row_group"]: rows[0] for rows in files if "bad_row" in rows[0]}
    assert rows[2]["bad_file"] == f"topic {sent.name}, partition 0"
    assert (rows[2]["bad_row"], rows[2]["bad_column"], rows[2]["bad_value"]) == (1, "candidates.long_view", "7.0")
    assert rows[2]["request_id"] == bad[1]["request_id"]
    assert rows[2]["page"] == "home"


def test_a_request_from_the_future_is_quarantined_and_the_clock_ignores_it(
    topic: Callable[[int], Topic], tmp_path: Path
) -> None:
    sent = topic(1)
    rows = sent.made(4)
    now_ms = max(row["timestamp_ms"] for row in rows)
    rows[1]["timestamp_ms"] = now_ms + 60_001
    sent.send(0, message_of(to_table(rows)), rows)
    quarantine = Quarantine(tmp_path / "quarantine")
    source = sent.source(quarantine=quarantine, limit=FutureLimit(60.0, now=lambda: now_ms / 1_000))
    (chunk,) = polled(source, 1)
    assert chunk.time_ms[1] == -1 and (np.delete(chunk.time_ms, 1) > 0).all()
    assert source.read("0", 0)[1].tolist() == [0, -1, 1, 2]
    assert quarantine.count() == 1


def test_small_messages_are_decoded_together_but_judged_alone(topic: Callable[[int], Topic], tmp_path: Path) -> None:
    sent = topic(1)
    rows = sent.made(12)
    rows[5]["candidates"][0]["long_view"] = 7
    for row in [*rows, rows[2]]:
        sent.send(0, json_file.text(row).encode(), [row])
    source = sent.source(quarantine=Quarantine(tmp_path / "quarantine"))
    strict = sent.source()
    polled(source, 13)
    polled(strict, 13)
    for offset in range(13):
        if offset == 5:
            assert source.read("0", 5)[1].tolist() == [-1]
            with pytest.raises(UserError, match=r"offset 5, row 0, column candidates.long_view: found 7\.0"):
                strict.read("0", 5)
        else:
            check(source, sent, "0", offset)
            check(strict, sent, "0", offset)


def test_without_a_quarantine_a_bad_message_is_an_error_that_names_it(topic: Callable[[int], Topic]) -> None:
    sent = topic(2)
    bad = sent.made(1)
    bad[0]["candidates"][0]["long_view"] = 7
    sent.send(1, message_of(to_table(bad)), bad)
    source = sent.source()
    polled(source, 1)
    at = f"topic {sent.name}, partition 1, offset"
    with pytest.raises(UserError, match=f"{at} 0, row 0, column candidates.long_view: found 7.0"):
        source.read("1", 0)
    sent.send(1, b"{}", [])
    with pytest.raises(UserError, match=f"{at} 1: request_id: missing"):
        polled(source, 1)


def test_an_offset_that_retention_has_removed_is_an_error(topic: Callable[[int], Topic]) -> None:
    sent = topic(1)
    rows = sent.made(1)
    for _ in range(8):
        noise = [np.random.default_rng().bytes(900_000)]
        sent.send(0, message_of(to_table(rows).append_column("noise", [noise])), rows)
    reason = rf"topic {sent.name}, partition 0: offset 0 is gone; the broker has offsets [1-7] to 7\."
    with pytest.raises(UserError, match=reason):
        sent.source({"0": 0})
    with pytest.raises(UserError, match="offset 9 is gone; the broker has offsets"):
        sent.source({"0": 9})
    with pytest.raises(UserError, match="partition 1: is not there any more"):
        sent.source({"1": 0})
    with pytest.raises(UserError, match=reason):
        sent.source().read("0", 0)
    # Retention may remove it after the check.
    source = sent.source()
    source._next = {0: 0}
    with pytest.raises(UserError, match=reason):
        polled(source, 8)
    # Without a position, reading begins with what is there.
    first = polled(sent.source({"0": 8}), 0)
    assert first == []
    chunks = []
    beginning = sent.source()
    until = time.monotonic() + PATIENCE_S
    while (not chunks or chunks[-1].offset < 7) and time.monotonic() < until:
        chunks += beginning.poll()
    assert chunks[0].offset > 0
    assert chunks[-1].offset == 7


def test_new_partitions_are_read_from_their_beginning(
    topic: Callable[[int], Topic], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mock broker cannot add partitions, so those that there are become known later."""
    sent = topic(4)
    sent.fill(40)
    known, found = {0, 1}, KafkaConnection.partitions
    monkeypatch.setattr(KafkaConnection, "partitions", lambda self, timeout_s: found(self, timeout_s) & known)
    monkeypatch.setattr(kafka_module, "LOOK_S", 0.2)
    source = sent.source()
    assert source.partitions == ("0", "1")
    polled(source, 20)
    known.update({2, 3})
    chunks = polled(source, 20)
    assert source.partitions == ("0", "1", "2", "3")
    assert sorted((chunk.partition, chunk.offset) for chunk in chunks) == [(p, o) for p in "23" for o in range(10)]
    for chunk in chunks:
        check(source, sent, chunk.partition, chunk.offset)


def test_a_broker_that_goes_away_is_waited_for(topic: Callable[[int], Topic]) -> None:
    sent = topic(2)
    sent.fill(20)
    source, reader = sent.source(), sent.source(timeout_s=2.0)
    polled(source, 20)
    check(reader, sent, "0", 0)
    sent.broker.stop()
    try:
        begin = time.monotonic()
        for _ in range(20):
            assert source.poll() == []
            time.sleep(0.05)
        assert time.monotonic() - begin < 5
        with pytest.raises(UserError, match=r"has sent nothing for 2 s"):
            reader.read("1", 999)
        with pytest.raises(UserError, match=r"no broker answers within 1 s: .*(refused|down)"):
            sent.source(timeout_s=1.0)
    finally:
        sent.broker.start()
    sent.fill(6)
    chunks = polled(source, 6)
    for chunk in chunks:
        check(source, sent, chunk.partition, chunk.offset)
        check(reader, sent, chunk.partition, chunk.offset)


def test_a_topic_that_does_not_exist_is_an_error(broker: MockKafka) -> None:
    source = KafkaSource(KafkaAddress.parse(f"kafka://{broker.servers}/nothing"), LAYOUT, max_history=50)
    for call in (lambda: source.seek({}, ()), source.poll):
        with pytest.raises(UserError, match=r"no topic nothing can be read there: .*Unknown topic"):
            call()
    source.close()


def test_a_wrong_option_is_an_error(broker: MockKafka) -> None:
    for option, reason in (("no.such=1", "No such configuration property"), ("security.protocol=x", "Invalid value")):
        address = KafkaAddress.parse(f"kafka://{broker.servers}/topic?{option}")
        with pytest.raises(UserError, match=reason):
            KafkaSource(address, LAYOUT, max_history=50).seek({}, ())


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    source = KafkaSource(KafkaAddress.parse("kafka://one/topic"), LAYOUT, max_history=50)
    with pytest.raises(UserError, match=r"pip install 'easq-rec\[kafka\]'"):
        source.seek({}, ())
