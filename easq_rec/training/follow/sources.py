"""Opens the streams that a run follows."""

from __future__ import annotations

from easq_rec.config import Config
from easq_rec.data import files
from easq_rec.data.layout import Layout
from easq_rec.data.quarantine import Quarantine
from easq_rec.data.stream.folder import FolderSource
from easq_rec.data.stream.future import FutureLimit
from easq_rec.data.stream.held_answers import unsupported
from easq_rec.data.stream.kafka import KafkaSource
from easq_rec.data.stream.kafka_address import KafkaAddress, is_kafka
from easq_rec.data.stream.source import StreamSource
from easq_rec.errors import UserError

WAITING_PER_PARTITION = 50_000
"""Requests of a partition of Kafka that may be polled and not trained on; above it, the partition is paused."""


def check_followed(config: Config) -> None:
    """Checks the options of continuous training, without the streams.

    Raises:
        UserError: the recipe needs a log that has an end.
    """
    if config.optim.schedule != "constant":
        raise UserError(
            f"optim.schedule={config.optim.schedule!r} needs a last step, and --follow has none: give --optim.schedule "
            "constant"
        )
    if config.data.path is not None:
        raise UserError("--data and --follow: give one of them; --follow.start-from names a run on a fixed log")
    for problem in unsupported(config):
        raise UserError(f"--follow: {problem}: choose another variant")


def open_streams(config: Config, quarantine: Quarantine | None) -> tuple[StreamSource, StreamSource | None]:
    """(requests, answers); the answers are None if the run reads none.

    Raises:
        UserError: the source cannot be read, or is not of a kind that is known.
    """
    source = config.follow.source
    assert source is not None
    layouts = Layout.of(config.schema), Layout.of(config.schema, answers=True) if config.reads_answers else None
    opened = _topics if is_kafka(source) else _folders
    requests, answers = (
        opened(config, source, place, layout, quarantine) if layout is not None else None
        for place, layout in enumerate(layouts)
    )
    assert requests is not None
    return requests, answers


def _folders(config: Config, source: str, place: int, layout: Layout, quarantine: Quarantine | None) -> StreamSource:
    return FolderSource(
        files.join(source, ("requests", "answers")[place]),
        layout,
        max_history=config.data.max_history,
        quarantine=quarantine,
        look_s=config.follow.poll_seconds,
        limit=_limit(config),
    )


def _topics(config: Config, source: str, place: int, layout: Layout, quarantine: Quarantine | None) -> StreamSource:
    return KafkaSource(
        KafkaAddress.parse(topics_of(source)[place]),
        layout,
        max_history=config.data.max_history,
        quarantine=quarantine,
        most_waiting=WAITING_PER_PARTITION,
        limit=_limit(config),
    )


def _limit(config: Config) -> FutureLimit | None:
    minutes = config.follow.most_ahead_minutes
    return FutureLimit(60 * minutes) if minutes is not None else None


def topics_of(source: str) -> tuple[str, str]:
    """The addresses of the topics of requests and of answers.

    Raises:
        UserError: the last part of the path is not REQUESTS,ANSWERS.
    """
    path, mark, options = source.partition("?")
    base, slash, names = path.rpartition("/")
    topics = names.split(",")
    if not slash or len(topics) != 2 or not all(topics):
        form = "kafka://HOST:PORT[,HOST:PORT]/REQUESTS,ANSWERS"
        raise UserError(f"--follow {source}: expected the names of two topics: {form}")
    requests, answers = (f"{base}/{topic}{mark}{options}" for topic in topics)
    return requests, answers
