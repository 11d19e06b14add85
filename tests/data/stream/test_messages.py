"""Messages have the same requests as files; a damaged one gives one kind of error, which says why."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from easq_rec import json_file
from easq_rec.config.schema import Feature, FeatureSchema, Outcome, Table
from easq_rec.data.bad_rows import BadRows, Place
from easq_rec.data.columns import RequestColumns
from easq_rec.data.decode import decode
from easq_rec.data.layout import Layout
from easq_rec.data.stream.messages import BadMessage, MessageDecoder, message_of
from tests.data.builders import SCHEMA, Row, arrow_schema, expected, make_answers, make_rows, plain, to_table

PLAIN, ANSWERS = Layout.of(SCHEMA), Layout.of(SCHEMA, answers=True)


def json_of(value: object) -> bytes:
    return json_file.text(value).encode()


def decoded(message: bytes, layout: Layout = PLAIN) -> RequestColumns:
    place = Place(file="topic", row_group=0, unit="offset")
    return decode(MessageDecoder(layout).rows(message), layout, place, max_history=50)


def refused(message: bytes, layout: Layout = PLAIN) -> str:
    with pytest.raises(BadMessage) as caught:
        MessageDecoder(layout).rows(message)
    return str(caught.value)


@pytest.fixture
def rows() -> list[Row]:
    return make_rows(np.random.default_rng(0), 20)


def test_arrow_and_json_give_the_rows_of_files(rows: list[Row]) -> None:
    for message in (message_of(to_table(rows)), json_of(rows)):
        assert plain(decoded(message)) == expected(rows)
    assert plain(decoded(json_of(rows[3]))) == expected(rows[3:4])


def test_answers_may_be_null(rows: list[Row]) -> None:
    answers = make_answers(np.random.default_rng(1), rows)
    assert any(candidate["answer"] is None for row in answers for candidate in row["candidates"])
    table = to_table(answers, arrow_schema(answers=True))
    for message in (message_of(table), json_of(answers)):
        assert plain(decoded(message, ANSWERS)) == expected(answers, more=("answer", "answered_at_ms"))


def test_an_arrow_message_may_have_several_batches_or_no_compression(rows: list[Row]) -> None:
    sink = pa.BufferOutputStream()
    table = to_table(rows)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for part in table.to_batches(max_chunksize=6):
            writer.write_batch(part)
    assert plain(decoded(sink.getvalue().to_pybytes())) == expected(rows)


def test_a_slice_is_a_message_of_its_own(rows: list[Row]) -> None:
    message = message_of(to_table(rows).slice(5, 3))
    assert len(message) < len(message_of(to_table(rows)))
    assert plain(decoded(message)) == expected(rows[5:8])


def test_no_requests() -> None:
    for message in (message_of(to_table([])), b"[]"):
        assert len(decoded(message)) == 0


def test_one_decoder_takes_messages_of_several_schemas(rows: list[Row]) -> None:
    decoder = MessageDecoder(PLAIN)
    full = to_table(rows)
    assert len(decoder.rows(message_of(full))) == 20
    with pytest.raises(BadMessage, match="user_id: missing"):
        decoder.rows(message_of(full.drop_columns(["user_id"])))
    assert len(decoder.rows(message_of(full.drop_columns(["page"])))) == 20


def test_messages_converted_together_equal_messages_one_by_one() -> None:
    rows = make_rows(np.random.default_rng(3), 200)
    messages = [json_of(row) for row in rows[:90]] + [json_of(rows[90:120]), message_of(to_table(rows[120:130])), b"[]"]
    messages += [json_of(row) for row in rows[130:]]
    for wrong in (b"{", b"{}", b""):
        messages.insert(len(messages) // 2, wrong)
    decoder = MessageDecoder(PLAIN)
    for message, found in zip(messages, decoder.tables(messages), strict=True):
        if isinstance(found, BadMessage):
            assert str(found) == refused(message)
        else:
            assert found.equals(decoder.rows(message))


KINDS = FeatureSchema(
    tables=(
        Table(name="user", rows=9, dim=8),
        Table(name="video", rows=50, dim=8),
        Table(name="topic", rows=9, dim=8),
    ),
    user=(Feature(name="user_id", table="user"), Feature(name="taste", kind="float_list", length=2)),
    history=(Feature(name="video_id", table="video"),),
    candidate=(
        Feature(name="video_id", table="video"),
        Feature(name="topics", kind="weighted_id_list", table="topic"),
        Feature(name="likes", kind="count"),
    ),
    outcomes=(Outcome(name="like", weight=1.0), Outcome(name="watch_ms", kind="amount", weight=0.001)),
)


def test_json_has_every_kind_of_column() -> None:
    candidate = {
        "video_id": 5,
        "topics": [{"id": 1, "weight": 0.5}, {"id": 2, "weight": 1}],
        "likes": {"shown": 10, "happened": 2, "prior": 0.1, "window": "7d"},
        "like": True,
        "watch_ms": 2**60,
    }
    row = {
        "request_id": 1,
        "user_id": 2,
        "timestamp_ms": 3,
        "user": {"taste": [1, 0.25]},
        "history": [{"video_id": 4, "timestamp_ms": 2, "watch_ratio": 1}],
        "candidates": [candidate, {**candidate, "topics": [], "like": 0}],
    }
    found = decoded(json_of(row), Layout.of(KINDS))
    assert found.scalars["user.taste"].tolist() == [[1.0, 0.25]]
    assert found.history.column("watch_ratio").dtype == np.float32
    candidates = found.candidates
    assert candidates.lists("topics").lengths.tolist() == [2, 0]
    assert candidates.lists("topics").column("weights").tolist() == [0.5, 1.0]
    np.testing.assert_allclose(candidates.column("likes"), [[10, 2, 0.1]] * 2, rtol=1e-6)
    assert candidates.column("like").tolist() == [1.0, 0.0]
    assert candidates.column("watch_ms").tolist() == [2.0**60] * 2


def set_at(path: str, value: Any) -> Callable[[Row], None]:
    def change(row: Row) -> None:
        *parents, name = path.split(".")
        for parent in parents:
            row = row[parent][-1] if isinstance(row[parent], list) else row[parent]
        row[name] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("request_id", "7", 'request_id: found "7", expected an integer'),
        ("request_id", 7.0, "request_id: found 7.0, expected an integer"),
        ("user_id", True, "user_id: found true, expected an integer"),
        ("timestamp_ms", 2**64, "timestamp_ms: an integer does not fit into 64 bits"),
        ("user", [], "user: found [], expected an object"),
        ("user.region", 1.5, "user.region: found 1.5, expected an integer"),
        ("user.interests", 3, "user.interests: found 3, expected a list"),
        ("user.interests", [None, {}], "user.interests: found {}, expected an integer"),
        ("history", {}, "history: found {}, expected a list"),
        ("history", ["x" * 500], 'history: found "' + "x" * 76 + "..., expected an object"),
        ("candidates.quality", "high", 'candidates.quality: found "high", expected a number, true or false'),
        ("candidates.like", "yes", 'candidates.like: found "yes", expected a number, true or false'),
    ],
)
def test_a_wrong_type_in_json_names_column_and_value(rows: list[Row], path: str, value: Any, reason: str) -> None:
    rows[4].setdefault("history", []).append(copy.deepcopy(rows[0]["history"] or rows[1]["history"])[:1])
    rows[4]["history"] = [entry for entry in rows[4]["history"] if isinstance(entry, dict)]
    set_at(path, value)(rows[4])
    assert refused(json_of(rows)) == reason


@pytest.mark.parametrize("path", ["request_id", "user", "user.region", "candidates.tags", "candidates.like"])
def test_a_missing_column_is_named(rows: list[Row], path: str) -> None:
    changed = copy.deepcopy(rows)
    *parents, name = path.split(".")
    owner = changed[-1]
    for parent in parents:
        owner = owner[parent][-1] if isinstance(owner[parent], list) else owner[parent]
    del owner[name]
    assert refused(json_of(changed)) == f"{path}: missing"
    schema = arrow_schema()
    if not parents:
        assert f"{path}" in refused(message_of(to_table(rows).drop_columns([name])))
    else:
        at = schema.get_field_index(parents[0])
        whole = schema.field(at).type
        struct = whole.value_type if pa.types.is_list(whole) else whole
        less = pa.struct([field for field in struct if field.name != name])
        schema = schema.set(at, pa.field(parents[0], pa.list_(less) if pa.types.is_list(whole) else less))
        assert f"{path}: missing" in refused(message_of(to_table(rows, schema)))


@pytest.mark.parametrize(
    "path", ["user", "history", "candidates", "request_id", "user.interests", "candidates.quality"]
)
def test_a_null_is_left_to_the_check_of_rows(rows: list[Row], path: str) -> None:
    set_at(path, None)(rows[2])
    with pytest.raises(BadRows, match=f"topic, offset 0, row 2, column {path}: found null"):
        decoded(json_of(rows))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "neither an Arrow IPC stream nor JSON"),
        (b"\x00\x00\x00\x00\x07avro", "neither an Arrow IPC stream nor JSON"),
        (b"\xff\xfe{}", "neither an Arrow IPC stream nor JSON"),
        (b'{"request_id": NaN}', "NaN is no number of JSON"),
        (b"[" * 100_000, "neither an Arrow IPC stream nor JSON"),
        (b"1" * 5_000, "neither an Arrow IPC stream nor JSON"),
        (b"7", "the message: found 7, expected an object, or a list of objects"),
        (b"[{}, null]", "the message: found null, expected an object, or a list of objects"),
        (b"\xff\xff\xff\xff", "no valid Arrow IPC stream"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f", "no valid Arrow IPC stream"),
    ],
)
def test_other_bytes_are_refused(message: bytes, reason: str) -> None:
    assert reason in refused(message)


def damaged(message: bytes, rng: np.random.Generator) -> bytes:
    """A message with some bytes changed, removed, repeated or moved."""
    data = bytearray(message)
    for _ in range(int(rng.integers(1, 5))):
        at, length = int(rng.integers(len(data))), int(rng.integers(1, 64))
        match int(rng.integers(6)):
            case 0:
                data[at] = int(rng.integers(256))
            case 1:
                data[at] ^= 1 << int(rng.integers(8))
            case 2:
                data[at : at + length] = b""
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                # Sizes and offsets are little-endian numbers.
                data[at : at + 4] = int(rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1])).to_bytes(4, "little")
            case _:
                del data[at:]
        if not data:
            break
    return bytes(data)


@pytest.mark.parametrize("compression", ["zstd", None, "json"])
def test_thousands_of_damaged_messages_are_refused_or_read(rows: list[Row], compression: str | None) -> None:
    if compression == "json":
        message = json_of(rows[:3])
    else:
        sink = pa.BufferOutputStream()
        table = to_table(rows[:8])
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
            writer.write_table(table)
        message = sink.getvalue().to_pybytes()
    rng = np.random.default_rng(2)
    decoder, place = MessageDecoder(PLAIN), Place(file="topic", row_group=0, unit="offset")
    refusals = 0
    for _ in range(2_000):
        try:
            decode(decoder.rows(damaged(message, rng)), PLAIN, place, max_history=50)
        except (BadMessage, BadRows):
            refusals += 1
    assert refusals > 500
