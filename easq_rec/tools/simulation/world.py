"""The built-in synthetic worlds: request logs whose true satisfaction is known.

Writes the two datasets of the data contract (`requests/` and `answers/`) with the columns of real logs, and two that
only a simulation has, `true_satisfaction` (grade 0..4) and `true_engagement` (probability of a long view). The usual
counts of the past are added in a second pass, as `easq-rec data counts` adds them to any log. Who likes what and what
users do is in the model of the world (`models.py`), the questionnaire in `outcomes.py`.

The log is simulated in rounds in which a user makes at most one request. So a round is computed with numpy expressions,
and the history, a ring buffer per user, is strictly as of the request. Memory does not grow with the number of
requests, only with that of the distinct keys that are counted, such as pairs of a user and a tag. Shapes: R requests of
a round, C candidates, H history entries.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from easq_rec import json_file
from easq_rec.config import World
from easq_rec.config.answer_scale import NO_ANSWER
from easq_rec.config.counts import with_usual_answer_counts, with_usual_counts
from easq_rec.config.recipes import world_schema
from easq_rec.config.schema import FeatureSchema, require
from easq_rec.data.writer import ROW_GROUP, PartWriter
from easq_rec.errors import UserError
from easq_rec.tools.simulation.latents import Int, Latents
from easq_rec.tools.simulation.models import Model, create_model
from easq_rec.tools.simulation.outcomes import Streams, outcomes
from easq_rec.tools.simulation.rounds import Histories, Round
from easq_rec.tools.simulation.time_line import DAY_MS, START_MS, round_size

GENERATORS = {1: 4, 2: 2}
"""Generator of each version. Must be raised when the same config would give another world, so that old worlds are not
reused."""
COUNTS = "counts"
"""Folder of the published counts (`easq_rec.data.count_files.FOLDER`, which needs torch)."""
WRITTEN = (
    *("watch_ms", "valid_play", "long_view", "like", "follow", "comment", "forward", "hate", "returned"),
    *("shown", "true_satisfaction", "true_engagement"),
)
"""Columns of the candidates that the round of a world may have, in the order of the files."""


def simulate(model: Model, histories: Histories | None = None) -> Iterator[Round]:
    """The log, round by round. Timestamps rise strictly, within and across rounds.

    Args:
        histories: empty; at the end it has the watch histories of all users.
    """
    config, latents = model.config, model.latents
    streams = Streams.of(config)
    rng = streams.log
    histories = Histories(config.users, config.history) if histories is None else histories
    size = round_size(config)
    span_ms = config.days * DAY_MS
    last_ms = START_MS - 1
    for start in range(0, config.requests, size):
        count = min(size, config.requests - start)
        users = latents.requesters(rng, count)
        at = np.sort(start + count * rng.random(count)) / config.requests
        order = np.arange(count)
        wanted_ms = np.maximum(START_MS + (span_ms * at).astype(np.int64), last_ms + 1)
        timestamp_ms = np.maximum.accumulate(wanted_ms - order) + order
        last_ms = int(timestamp_ms[-1])
        videos = latents.candidates(rng, users, config.candidates)
        history = histories.read(users)
        scores = model.scores(users, videos, timestamp_ms)
        outcome = outcomes(streams, model, scores, timestamp_ms, users, videos)
        ratio = np.divide(outcome["watch_ms"], latents.duration_ms[videos]).astype(np.float32)
        histories.append(users, videos, timestamp_ms, ratio, outcome["long_view"] == 1)
        yield model.round_type(
            request_id=start + order,
            user_id=users,
            timestamp_ms=timestamp_ms,
            history_length=history[0],
            history_video=history[1],
            history_timestamp_ms=history[2],
            history_ratio=history[3],
            video=videos,
            **outcome,
        )


def to_table(part: Round, latents: Latents, *, answers: bool, lengths: Int | None = None) -> pa.Table:
    """The Arrow table of requests.

    Args:
        answers: candidates also have `answer` and `answered_at_ms`.
        lengths: number of leading candidates of each request to write; None: all.
    """
    count, width = part.video.shape
    lengths = np.full(count, width) if lengths is None else lengths
    written = np.arange(width) < lengths[:, None]
    user = part.user_id
    users = _struct(age_group=latents.age_group[user], region=latents.region[user], device=latents.device[user])

    valid = np.arange(part.history_video.shape[1]) < part.history_length[:, None]
    seen = part.history_video[valid].astype(np.int64)
    history = _struct(
        video_id=seen,
        author_id=latents.author[seen],
        timestamp_ms=part.history_timestamp_ms[valid],
        watch_ratio=part.history_ratio[valid],
    )

    video = part.video[written]
    tag_count = latents.tag_count[video]
    has_tag = np.arange(latents.tags.shape[1]) < tag_count[:, None]
    columns: dict[str, NDArray[Any] | pa.Array] = {
        "video_id": video,
        "author_id": latents.author[video],
        "tags": _lists(tag_count, pa.array(latents.tags[video][has_tag])),
        "duration_ms": latents.duration_ms[video],
    }
    for name in WRITTEN:
        if hasattr(part, name):
            columns[name] = getattr(part, name)[written]
    if answers:
        none = part.answer[written] == NO_ANSWER
        columns["answer"] = pa.array(part.answer[written], mask=none)
        columns["answered_at_ms"] = pa.array(part.answered_at_ms[written], mask=none)
    return pa.table(
        {
            "request_id": part.request_id,
            "user_id": user,
            "timestamp_ms": part.timestamp_ms,
            "user": users,
            "history": _lists(part.history_length, history),
            "candidates": _lists(lengths, _struct(**columns)),
        }
    )


def _struct(**columns: NDArray[Any] | pa.Array) -> pa.StructArray:
    arrays = [column if isinstance(column, pa.Array) else pa.array(column) for column in columns.values()]
    return pa.StructArray.from_arrays(arrays, names=list(columns))


def _lists(lengths: NDArray[Any], values: pa.Array) -> pa.ListArray:
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def generate(config: World, out: Path, *, counts: bool = True) -> None:
    """Writes the world to `out`, which is published atomically; deterministic in `config`.

    If another process publishes the same world first, that one is kept and this one is removed. Raises UserError if
    `out` has other content.

    Args:
        counts: whether the candidates have the usual counts, also of answers, and the folder counts/ is written.
    """
    # A link cannot be replaced by a rename, the directory that it leads to can.
    out = Path(os.path.realpath(out))
    require(config.seed >= 0, "world.seed", config.seed, "0 or more")
    is_complete(config, out, counts=counts)
    out.parent.mkdir(parents=True, exist_ok=True)
    name = f".{out.name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp"
    temporary = out.parent / name
    temporary.mkdir()
    try:
        written = temporary / "world"
        _write(config, written)
        if counts:
            plain, written = written, temporary / "counted"
            # Imported here: the report lists studies, and with them this module, without torch.
            from easq_rec.tools.counts.command import add_counts

            add_counts(str(plain), written, counted_schema(config.version))
        try:
            os.rename(written, out)
        except OSError:
            if not is_complete(config, out, counts=counts):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def counted_schema(version: Literal[1, 2]) -> FeatureSchema:
    """The schema whose counts a world has: the usual ones of all outcomes of its version, and of answers."""
    # The number of rows of a table does not matter: each id is counted by itself.
    return with_usual_answer_counts(with_usual_counts(world_schema(users=1, videos=1, dim=4, version=version)))


def ensure(config: World, out: Path) -> None:
    """Generates the world unless `out` already has it. Raises UserError if `out` has other content."""
    if not is_complete(config, Path(out)):
        generate(config, out)


def is_complete(config: World, out: Path, *, counts: bool = True) -> bool:
    """Whether `out` has this world; False if it is missing or empty. Raises UserError for other content."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    remedy = "delete it or choose another directory"
    try:
        found = json.loads((out / "world.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"world directory {str(out)!r} has no complete world ({error}): {remedy}") from error
    wanted = _description(config)
    if found == wanted:
        has = (out / COUNTS).is_dir()
        missing = [one.name for one in counted_schema(config.version).counts if not _has_count(out, one.name)]
        if has == counts and not (counts and missing):
            return True
        lacks = f"{'without' if counts else 'with'} counts" if has != counts else f"without the count {missing[0]}"
        raise UserError(f"world directory {str(out)!r} has this world {lacks}: {remedy}")
    differences = _differences(found, wanted)
    raise UserError(f"world directory {str(out)!r} has another world ({differences}): {remedy}")


def _has_count(out: Path, name: str) -> bool:
    return (out / COUNTS / f"{name}.parquet").exists()


def _description(config: World) -> dict[str, object]:
    return {"generator": GENERATORS[config.version], "config": config.identity}


def _differences(found: object, wanted: dict[str, object]) -> str:
    """Lists the differences between two descriptions, as `name is found, not wanted`."""
    flat: list[dict[str, object]] = []
    for description in (found, wanted):
        entries = description if isinstance(description, dict) else {}
        config = entries.get("config")
        values = {f"world.{name}": value for name, value in config.items()} if isinstance(config, dict) else {}
        # World 1 has no version in its file, as before there was another world.
        flat.append({"generator": entries.get("generator"), "world.version": 1, **values})
    versions = [one["world.version"] for one in flat]
    if versions[0] != versions[1]:
        return f"world.version is {versions[0]!r}, not {versions[1]!r}"
    names = [name for name in {**flat[0], **flat[1]} if flat[0].get(name) != flat[1].get(name)]
    return "; ".join(f"{name} is {flat[0].get(name)!r}, not {flat[1].get(name)!r}" for name in names)


def _write(config: World, folder: Path) -> None:
    model = create_model(config)
    requests, answers = (PartWriter(folder / name, row_group=ROW_GROUP) for name in ("requests", "answers"))
    for rounds in simulate(model):
        requests.write(to_table(rounds, model.latents, answers=False))
        answers.write(to_table(rounds.answered(), model.latents, answers=True))
    requests.close()
    answers.close()
    # Written last, although the rename publishes: this also reveals an incomplete copy.
    (folder / "world.json").write_text(json_file.text(_description(config), indent=2) + "\n")
