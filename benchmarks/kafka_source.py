"""How many impressions per CPU second come from Kafka, from messages to encoded batches?

Writes requests of the reference workload (12 candidates, 50 history entries) to a mock broker in another process, once
for each format of messages:

- arrow:       Arrow IPC with zstd, 64 requests a message
- json:        a list of 64 requests in JSON
- json_object: one request in JSON

and reads them with `KafkaSource` in this process: poll, read, encode. CPU seconds are those of the whole process, with
the threads of librdkafka. `reader` reads the Arrow messages as a rank does that does not poll: read, encode.
Prints one JSON line.

    python -m benchmarks.kafka_source [--messages 512] [--rounds 5] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka
import numpy as np
import pyarrow as pa
import torch

from benchmarks.reference_files import to_table
from benchmarks.report import hardware, publish
from benchmarks.train_step import CANDIDATES, HISTORY, random_requests, reference_config
from easq_rec import json_file
from easq_rec.data.columns import RequestColumns
from easq_rec.data.encode import encode
from easq_rec.data.layout import Layout
from easq_rec.data.stream.kafka import KafkaSource
from easq_rec.data.stream.kafka_address import KafkaAddress
from easq_rec.data.stream.messages import message_of
from easq_rec.data.stream.source import Chunk

REQUESTS = 64
"""Per message."""
PARTITIONS = 16
FORMATS = ("arrow", "json", "json_object")
SHARES = {"arrow": 1.0, "json": 0.125, "json_object": 2.0}
"""Messages of each format, as a share of --messages; the mock broker holds 5 MiB a partition."""


def messages(form: str, count: int) -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    for index in range(count):
        requests = 1 if form == "json_object" else REQUESTS
        table = to_table(random_requests(requests, rng), first_id=index * REQUESTS)
        match form:
            case "arrow":
                yield message_of(table)
            case "json":
                yield json_file.text(table.to_pylist()).encode()
            case _:
                yield json_file.text(table.to_pylist()[0]).encode()


def produce(servers: str, form: str, count: int) -> int:
    """Sends messages; returns their bytes."""
    producer = confluent_kafka.Producer({"bootstrap.servers": servers, "log_level": "0"})
    size = 0
    for index, message in enumerate(messages(form, count)):
        size += len(message)
        producer.produce(form, message, partition=index % PARTITIONS)
        producer.poll(0)
    assert producer.flush(60) == 0
    return size


def opened(servers: str, form: str, layout: Layout) -> KafkaSource:
    address = KafkaAddress.parse(f"kafka://{servers}/{form}")
    source = KafkaSource(address, layout, max_history=HISTORY)
    source.seek({}, ())
    return source


class Stages:
    """CPU seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.process_time()

    def end(self, stage: str) -> None:
        now = time.process_time()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


def poll_all(source: KafkaSource, layout: Layout, count: int) -> tuple[list[Chunk], int, dict[str, float]]:
    """Polls, reads and encodes `count` messages: (chunks, impressions, CPU seconds by stage)."""
    stages, chunks, impressions = Stages(), [], 0
    while len(chunks) < count:
        found = source.poll()
        stages.end("poll")
        columns = [source.read(chunk.partition, chunk.offset)[0] for chunk in found]
        stages.end("read")
        impressions += encoded(layout, columns)
        stages.end("encode")
        chunks += found
        if not found:
            time.sleep(0.01)
    return chunks, impressions, stages.seconds


def read_all(source: KafkaSource, layout: Layout, chunks: list[Chunk]) -> tuple[int, dict[str, float]]:
    """Reads and encodes chunks that another process has polled."""
    stages, impressions = Stages(), 0
    for chunk in chunks:
        columns, _ = source.read(chunk.partition, chunk.offset)
        stages.end("read")
        impressions += encoded(layout, [columns])
        stages.end("encode")
    return impressions, stages.seconds


def encoded(layout: Layout, columns: list[RequestColumns]) -> int:
    return sum(len(encode(layout, part).candidates.children["video_id"]) for part in columns)


def measure(servers: str, count: int, rounds: int) -> dict[str, object]:
    layout = Layout.of(reference_config().schema)
    result: dict[str, object] = {}
    for form in FORMATS:
        sent = max(int(count * SHARES[form]), 1)
        size = produce(servers, form, sent)
        requests = sent if form == "json_object" else sent * REQUESTS
        polled: list[dict[str, float]] = []
        read: list[dict[str, float]] = []
        for _ in range(rounds):
            source = opened(servers, form, layout)
            chunks, impressions, seconds = poll_all(source, layout, sent)
            source.close()
            assert impressions == requests * CANDIDATES
            polled.append(seconds)
            if form == "arrow":
                source = opened(servers, form, layout)
                impressions, seconds = read_all(source, layout, chunks)
                source.close()
                assert impressions == requests * CANDIDATES
                read.append(seconds)
        result[form] = {"bytes_per_request": round(size / requests), **summary(polled, requests * CANDIDATES)}
        if read:
            result["reader"] = summary(read, requests * CANDIDATES)
    return result


def summary(rounds: list[dict[str, float]], impressions: int) -> dict[str, object]:
    total = [sum(seconds.values()) for seconds in rounds]
    stages = {stage: statistics.median(seconds[stage] for seconds in rounds) for stage in rounds[0]}
    return {
        "impressions": impressions,
        "impressions_per_cpu_s": round(impressions / statistics.median(total)),
        "impressions_per_cpu_s_best": round(impressions / min(total)),
        "cpu_us_per_impression": {stage: round(1e6 * cpu / impressions, 3) for stage, cpu in stages.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    topics = [f"{form}={PARTITIONS}" for form in FORMATS]
    command = [sys.executable, "-m", "benchmarks.mock_kafka", *topics]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as broker:
        assert broker.stdout is not None
        result = measure(broker.stdout.readline().strip(), args.messages, args.rounds)
        broker.communicate()
    about = {"requests_per_message": REQUESTS, "partitions": PARTITIONS, "rounds": args.rounds}
    versions = {name: importlib.metadata.version(name) for name in ("confluent-kafka", "pyarrow", "numpy")}
    publish({"benchmark": "kafka_source", **result, **about, **versions, **hardware()}, args.out)


if __name__ == "__main__":
    main()
