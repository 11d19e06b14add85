"""Opens the streams that a run follows."""

from __future__ import annotations

from easq_rec.config import Config
from easq_rec.data import files
from easq_rec.data.layout import Layout
from easq_rec.data.quarantine import Quarantine
from easq_rec.data.stream.folder import FolderSource
from easq_rec.data.stream.held_answers import unsupported
from easq_rec.data.stream.source import Source
from easq_rec.errors import UserError

KAFKA = "kafka://"


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
    for problem in unsupported(config):
        raise UserError(f"--follow: {problem}: choose another variant")


def open_streams(config: Config, quarantine: Quarantine | None) -> tuple[Source, Source | None]:
    """(requests, answers); the answers are None if the run reads none.

    Raises:
        UserError: the source cannot be read, or is not of a kind that is known.
    """
    source = config.follow.source
    assert source is not None
    layouts = Layout.of(config.schema), Layout.of(config.schema, answers=True) if config.reads_answers else None
    if source.startswith(KAFKA):
        raise UserError(f"--follow {source}: Kafka cannot be read yet")
    requests, answers = (
        FolderSource(files.join(source, name), layout, max_history=config.data.max_history, quarantine=quarantine)
        if layout is not None
        else None
        for name, layout in zip(("requests", "answers"), layouts, strict=True)
    )
    assert requests is not None
    return requests, answers
