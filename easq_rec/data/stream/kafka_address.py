"""The address of a topic: ``kafka://HOST:PORT[,HOST:PORT]/TOPIC?option=value&option=value``.

Options are those of librdkafka, such as ``security.protocol=ssl``. The option ``properties`` names a file with one
``option=value`` on each line, which is the place for passwords: an address is stored with the config of a run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from easq_rec.errors import UserError

SCHEME = "kafka://"
FORM = f"{SCHEME}HOST:PORT[,HOST:PORT]/TOPIC[?option=value&...]"
PROPERTIES = "properties"
OURS = {
    "auto.offset.reset": "positions are in the checkpoint",
    "bootstrap.servers": "the hosts are in the address",
    "enable.auto.commit": "positions are in the checkpoint",
    "enable.auto.offset.store": "positions are in the checkpoint",
    "enable.partition.eof": "a stream has no end",
    "metadata.broker.list": "the hosts are in the address",
}
"""Options that an address cannot have, with the reason."""
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d{1,5})?", re.ASCII)
_TOPIC = re.compile(r"[\w.-]{1,249}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class KafkaAddress:
    """Where a topic is."""

    servers: str
    """Hosts with ports, separated by commas."""
    topic: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Options of librdkafka, which may contain passwords: `str` of an address leaves them out."""

    def __str__(self) -> str:
        return f"{SCHEME}{self.servers}/{self.topic}"

    @staticmethod
    def parse(url: str) -> KafkaAddress:
        """Reads an address.

        Raises:
            UserError: it has another form, or an option that it cannot have, or its file of options cannot be read.
        """
        if not url.startswith(SCHEME):
            raise UserError(f"{_shown(url)} is no address of a topic: expected {FORM}")
        place, question, query = url.removeprefix(SCHEME).partition("?")
        servers, slash, topic = place.partition("/")
        wrong = [server for server in servers.split(",") if not _HOST.fullmatch(server)]
        if wrong:
            raise UserError(f"{_shown(url)}: {wrong[0]!r} is no host: expected {FORM}")
        if not slash or not topic:
            raise UserError(f"{_shown(url)}: names no topic: expected {FORM}")
        if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
            raise UserError(
                f"{_shown(url)}: {topic!r} is no name of a topic: expected letters, digits, '.', '_' and '-'"
            )
        if question and not query:
            raise UserError(f"{_shown(url)}: no options after '?': expected {FORM}")
        options = _options((part, unquote(part)) for part in query.split("&")) if query else {}
        file = options.pop(PROPERTIES, None)
        return KafkaAddress(servers=servers, topic=topic, options={**_of_file(file), **options} if file else options)


def is_kafka(url: str) -> bool:
    """Whether a location is the address of a topic, rather than a folder."""
    return url.startswith(SCHEME)


def _options(parts: Iterable[tuple[str, str]], where: str = "address of a topic") -> dict[str, str]:
    """Options from texts `name=value`, each with the text to show."""
    found: dict[str, str] = {}
    for raw, part in parts:
        name, equals, value = part.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not name or not value:
            raise UserError(f"{where}: option {raw.partition('=')[0]!r} has no value: expected option=value")
        if name in OURS:
            raise UserError(f"{where}: option {name} cannot be set: {OURS[name]}")
        if name in found:
            raise UserError(f"{where}: option {name} is there twice")
        found[name] = value
    return found


def _of_file(file: str) -> dict[str, str]:
    """Options of a file with lines `option=value`; empty lines and lines that begin with # are comments."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"option {PROPERTIES} of a topic: {file} cannot be read: {error}") from error
    kept = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return _options(((line, line) for line in kept), where=file)


def _shown(url: str) -> str:
    return repr(url.partition("?")[0])
