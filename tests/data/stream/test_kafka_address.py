"""Addresses of topics: what they say, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path

import pytest

from easq_rec.data.stream.kafka_address import KafkaAddress, is_kafka
from easq_rec.errors import UserError


def test_hosts_topic_and_options() -> None:
    address = KafkaAddress.parse(
        "kafka://one:9092,[::1]:9093/feed.requests?security.protocol=ssl&ssl.ca.location=%2Fca"
    )
    assert address.servers == "one:9092,[::1]:9093"
    assert address.topic == "feed.requests"
    assert address.options == {"security.protocol": "ssl", "ssl.ca.location": "/ca"}
    assert KafkaAddress.parse("kafka://one/requests").options == {}


def test_a_file_of_options(tmp_path: Path) -> None:
    file = tmp_path / "client.properties"
    file.write_text("# ours\n\nsasl.username = trainer\nsasl.password=a=b&c\nclient.id=file\n")
    address = KafkaAddress.parse(f"kafka://one:9092/requests?properties={file}&client.id=url")
    assert address.options == {"sasl.username": "trainer", "sasl.password": "a=b&c", "client.id": "url"}


def test_options_are_not_shown() -> None:
    address = KafkaAddress.parse("kafka://one:9092/requests?sasl.password=secret")
    assert str(address) == "kafka://one:9092/requests"
    assert "secret" not in repr(address)
    for url in ("kafka://one:9092/a/b?sasl.password=secret", "kafka://one:9092/a?sasl.password=secret&group.id"):
        with pytest.raises(UserError) as caught:
            KafkaAddress.parse(url)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("/data/requests", "no address of a topic: expected kafka://HOST:PORT"),
        ("kafka:/one/requests", "no address of a topic"),
        ("kafka:///requests", "'' is no host"),
        ("kafka://one,/requests", "'' is no host"),
        ("kafka://one:port/requests", "'one:port' is no host"),
        ("kafka://one:9092", "names no topic"),
        ("kafka://one:9092/", "names no topic"),
        ("kafka://one:9092/a/b", "'a/b' is no name of a topic"),
        ("kafka://one:9092/..", "'..' is no name of a topic"),
        ("kafka://one:9092/a?", "no options after '?'"),
        ("kafka://one:9092/a?group.id", "option 'group.id' has no value"),
        ("kafka://one:9092/a?=1", "option '' has no value"),
        ("kafka://one:9092/a?client.id=1&client.id=2", "option client.id is there twice"),
        ("kafka://one:9092/a?enable.auto.commit=true", "enable.auto.commit cannot be set: positions are in the checkp"),
        ("kafka://one:9092/a?properties=/no/file", "/no/file cannot be read"),
    ],
)
def test_what_is_wrong_is_said(url: str, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        KafkaAddress.parse(url)
    assert reason in str(caught.value)


def test_a_folder_is_no_topic() -> None:
    assert is_kafka("kafka://one/requests")
    assert not is_kafka("s3://bucket/requests")
