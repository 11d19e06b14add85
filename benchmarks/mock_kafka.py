"""A Kafka broker for tests and measurements: the mock cluster of librdkafka, which real clients reach over TCP.

It holds about 5 MiB of messages per partition and silently drops the oldest ones of more.

    python -m benchmarks.mock_kafka requests=16 answers=1

makes topics with so many partitions, prints the address of the broker, and ends when its standard input ends.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from pathlib import Path

import confluent_kafka

PARTITION_BYTES = 5 << 20


class MockKafka:
    """One broker. Other processes may connect."""

    def __init__(self) -> None:
        folder = Path(confluent_kafka.__file__).parent.with_name("confluent_kafka.libs")
        # The wheel has loaded it already, under this name.
        self._library = library = ctypes.CDLL(str(next(folder.glob("librdkafka-*.so*"))))
        for name in ("conf_new", "new", "mock_cluster_new"):
            getattr(library, f"rd_kafka_{name}").restype = ctypes.c_void_p
        library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        said = ctypes.create_string_buffer(512)
        configuration = ctypes.c_void_p(library.rd_kafka_conf_new())
        self._client = ctypes.c_void_p(library.rd_kafka_new(0, configuration, said, ctypes.c_size_t(len(said))))
        assert self._client.value, said.value
        self._cluster = ctypes.c_void_p(library.rd_kafka_mock_cluster_new(self._client, 1))
        assert self._cluster.value
        self.servers = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        """HOST:PORT."""

    def create(self, topic: str, partitions: int) -> None:
        code = self._library.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 1)
        assert code == 0, code

    def stop(self) -> None:
        """The broker goes away, and keeps its messages."""
        self._library.rd_kafka_mock_broker_set_down(self._cluster, 1)

    def start(self) -> None:
        """It comes back."""
        self._library.rd_kafka_mock_broker_set_up(self._cluster, 1)

    def close(self) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("topics", nargs="+", metavar="TOPIC=PARTITIONS")
    args = parser.parse_args()
    broker = MockKafka()
    for topic in args.topics:
        name, _, partitions = topic.partition("=")
        broker.create(name, int(partitions))
    print(broker.servers, flush=True)
    sys.stdin.read()
    broker.close()


if __name__ == "__main__":
    main()
