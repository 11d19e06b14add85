"""Requests of callers are the inputs that the trainer's reader makes, or are refused by column."""

from __future__ import annotations

import dataclasses
import json
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from easq_rec.export.bad_request import BadRequestError
from easq_rec.export.inputs import Input, inputs_of, tensors_of
from easq_rec.export.request import CallLimits, Contract, Decoded, sent_of, tensors_of_calls
from easq_rec.export.request_json import columns_of_json
from easq_rec.serving.server.quick_json import quick_columns
from tests.builders import EVERYTHING, HISTORY, ragged_requests, random_requests, small_config, with_every_kind

CONFIG = small_config(EVERYTHING)
CONFIG = dataclasses.replace(CONFIG, schema=with_every_kind(CONFIG.schema))
INPUTS = inputs_of(CONFIG, satisfaction=True)
CONTRACT = Contract(sent=sent_of(INPUTS), bounds={"user.region": 32})
SENT = CONTRACT.sent


def columns(seed: int = 0, count: int = 3) -> dict[str, np.ndarray]:
    """What a caller has: the columns of some requests."""
    requests = ragged_requests(CONFIG.schema, np.random.default_rng(seed), count)
    tensors = tensors_of(INPUTS, requests, max_history=HISTORY)
    return {one.name: tensor.numpy() for one, tensor in zip(INPUTS, tensors, strict=True) if one in SENT}


def as_json(values: dict[str, Any]) -> bytes:
    return json.dumps({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}).encode()


def as_arrow(values: dict[str, Any], *, form: str = "stream") -> bytes:
    arrays = [pa.array([v.tolist()], _list_type(v)) if isinstance(v, np.ndarray) else v for v in values.values()]
    table, sink = pa.table(arrays, names=list(values)), pa.BufferOutputStream()
    new = pa.ipc.new_stream if form == "stream" else pa.ipc.new_file
    with new(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _list_type(values: np.ndarray) -> pa.DataType:
    inner = pa.list_(pa.from_numpy_dtype(values.dtype))
    return inner if values.ndim == 1 else pa.list_(inner)


def read(body: bytes) -> Decoded:
    return CONTRACT.of_json(body) if body.startswith(b"{") else CONTRACT.of_arrow(body)


@pytest.mark.parametrize("form", ["json", "stream", "file"])
def test_calls_become_the_inputs_of_the_reader(form: str) -> None:
    calls = [columns(seed) for seed in range(3)]
    bodies = [as_json(call) if form == "json" else as_arrow(call, form=form) for call in calls]
    decoded = [read(body) for body in bodies]
    joined = tensors_of_calls(INPUTS, decoded, max_history=HISTORY)
    for one, found in zip(INPUTS, joined, strict=True):
        if one.name.endswith("_slots"):
            assert 2 <= len(found) <= HISTORY
            continue
        expected = np.concatenate([call[one.name] for call in calls])
        assert found.dtype == getattr(torch, one.dtype) and found.numpy().shape == expected.shape
        np.testing.assert_array_equal(found.numpy(), expected)
    assert [(one.requests, one.candidates) for one in decoded] == [
        (3, int(call["lengths:candidates"].sum())) for call in calls
    ]


def test_the_smallest_request_has_two_slots() -> None:
    requests = random_requests(CONFIG.schema, np.random.default_rng(0), [0], [1])
    tensors = tensors_of(INPUTS, requests, max_history=HISTORY)
    values = {one.name: t.numpy() for one, t in zip(INPUTS, tensors, strict=True) if one in SENT}
    found = tensors_of_calls(INPUTS, [read(as_json(values))], max_history=HISTORY)
    for one, expected, got in zip(INPUTS, tensors, found, strict=True):
        assert expected.shape == got.shape, one.name


CHANGES: list[tuple[str, Any, str]] = [
    ("timestamp_ms", [], "timestamp_ms: is 0 entries, expected 1 to 256"),
    ("timestamp_ms", 5, "timestamp_ms: is 5, expected a list of integers of 64 bits"),
    ("timestamp_ms", None, "timestamp_ms: is null, expected a list"),
    ("user_id", ["7", 8, 9], "user_id: is a list with '7', expected a list of integers"),
    ("user_id", [True, 8, 9], "user_id: is a list with True, expected a list of integers"),
    ("user_id", [7.0, 8, 9], "user_id: is a list with 7.0, expected a list of integers"),
    ("user_id", [2**63, 8, 9], "user_id: is a list with 9223372036854775808, expected a list of integers"),
    ("user_id", [[1], 8, 9], "user_id: is a list with [1], expected a list of integers"),
    ("user_id", [1, 2], "user_id: is 2 entries, expected 3 entries, as many as its lengths say"),
    ("user.region", [0, 32, 1], "user.region: is 32 at 1, expected ids from 0 to 31"),
    ("user.region", [0, 1, -1], "user.region: is -1 at 2, expected ids from 0 to 31"),
    ("user.age", [1.0, 1e39, 2.0], "user.age: is inf at 1, expected finite numbers"),
    ("user.age", [1.0, 10**400, 2.0], "user.age: is a list with 1000000"),
    ("user.taste", [[1, 2, 3], [1, 2], [1, 2, 3]], "user.taste: is a list with [1, 2], expected a list of lists of 3"),
    ("lengths:history", [-1, 3, 3], "lengths:history: is -1 at 0, expected numbers of 0 or more"),
    ("lengths:history", [0, 1], "lengths:history: is 2 numbers, expected 3, one for each of requests"),
    ("lengths:candidates", [0, 0, 0], "candidates: is 0 entries, expected 1 to 5000"),
    ("lengths:candidates", [2**31, 1, 1], "candidates: is 2147483650 entries, expected 1 to 5000"),
    ("lengths:candidates", [2**62, 2**62, 2**62], "lengths:candidates: is 4611686018427387904 at 0"),
]


@pytest.mark.parametrize(("name", "value", "message"), CHANGES)
def test_what_is_wrong_is_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(BadRequestError) as raised:
        read(as_json({**columns(), name: value}))
    assert message in str(raised.value)
    assert len(str(raised.value)) < 400


def test_numbers_of_weights_and_counts() -> None:
    values = columns()
    for name, bad, message in (
        ("weights:candidates.topics", -1.0, "expected weights of 0 or more"),
        ("candidates.rate", [-1.0, 0.0, 0.5], "expected shown of 0 or more"),
        ("candidates.rate", [3.0, 4.0, 0.5], "expected happened from 0 to shown"),
        ("candidates.rate", [3.0, 1.0, 1.5], "expected a prior from 0 to 1"),
    ):
        changed = values[name].copy()
        changed[1] = bad
        with pytest.raises(BadRequestError, match=message) as raised:
            read(as_arrow({**values, name: changed}))
        assert raised.value.column == name and " at 1" in raised.value.found


def test_columns_that_are_missing_or_unknown() -> None:
    values = columns()
    missing = {name: value for name, value in values.items() if name != "user.region"}
    with pytest.raises(BadRequestError, match=r"user\.region: is missing, expected a list; all columns are"):
        read(as_json(missing))
    with pytest.raises(BadRequestError, match=r"speed: is unknown, expected one of"):
        read(as_json({**values, "speed": [1]}))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body: is no Arrow"),
        (b"{", "body: is no JSON"),
        (b'{"timestamp_ms": [NaN]}', "body: is no JSON"),
        (b'{"user_id": [1], "user_id": [2]}', r"body: is no JSON \(user_id is there twice\)"),
        (b"{" * 100_000, "body: is no JSON"),
        (b"ARROW1 nonsense", "body: is no Arrow"),
        (as_arrow(columns())[:-200], "body: is no Arrow"),
    ],
)
def test_other_bodies(body: bytes, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        read(body)


def test_types_of_arrow() -> None:
    values = columns()
    for name, array, message in (
        ("user_id", pa.array([["a", "b", "c"]]), "of type list<item: string>"),
        ("user_id", pa.array([[1, None, 3]]), "a list with null"),
        ("user_id", pa.array([None], pa.list_(pa.int64())), "user_id: is null"),
        ("user_id", pa.array([[1.0, 2.0, 3.0]]), "of type list"),
        ("user_id", pa.array([[2**63, 0, 1]], pa.list_(pa.uint64())), "a list with 9223372036854775808"),
        ("user_id", pa.array([1]), "of type int64"),
        ("user.taste", pa.array([[[1.0], [2.0], [3.0]]]), "lists of [1] numbers"),
        ("user.taste", pa.array([[[1.0]] * 3], pa.list_(pa.list_(pa.float32(), 1))), "lists of 1 numbers"),
        ("user.taste", pa.array([[[1.0], None, [3.0]]]), "a list with null"),
    ):
        with pytest.raises(BadRequestError) as raised:
            read(as_arrow({**values, name: array}))
        assert message in str(raised.value), (name, message)
    fixed = pa.array([values["user.taste"].tolist()], pa.list_(pa.list_(pa.float32(), 3)))
    found = read(as_arrow({**values, "user.taste": fixed})).columns["user.taste"]
    np.testing.assert_array_equal(found, values["user.taste"])
    # A slice of a larger array.
    shifted = pa.concat_arrays([pa.array([[0, 0]], pa.list_(pa.int64())), pa.array([values["user_id"].tolist()])])[1:]
    np.testing.assert_array_equal(read(as_arrow({**values, "user_id": shifted})).columns["user_id"], values["user_id"])
    small = pa.array([values["user_id"].astype(np.int32).tolist()], pa.list_(pa.int32()))
    assert read(as_arrow({**values, "user_id": small})).columns["user_id"].dtype == np.int64


def test_limits() -> None:
    values = columns()
    for name in ("requests", "candidates", "history", "items"):
        strict = dataclasses.replace(CONTRACT, limits=dataclasses.replace(CallLimits(), **{name: 1}))
        with pytest.raises(BadRequestError, match="entries, expected"):
            strict.of_json(as_json(values))


def test_damaged_bodies_are_refused_or_read() -> None:
    """Whatever is sent, only `BadRequestError` comes out."""
    rng = random.Random(0)
    for number in range(600):
        body = bytearray(as_json(columns(number % 5)) if number % 2 else as_arrow(columns(number % 5)))
        for _ in range(rng.choice((1, 2, 10))):
            at = rng.randrange(len(body))
            match rng.randrange(3):
                case 0:
                    body[at] = rng.randrange(256)
                case 1:
                    del body[at : at + rng.randrange(1, 9)]
                case 2:
                    body[at:at] = rng.choice((b"9", b"-", b"[", b'"', b"\x00", b"e9"))
        try:
            found = CONTRACT.of_json(bytes(body)) if number % 2 else CONTRACT.of_arrow(bytes(body))
        except BadRequestError:
            continue
        sizes = {"requests": found.requests, "candidates": found.candidates}
        sizes |= {
            one.name.removeprefix("lengths:"): int(found.columns[one.name].sum())
            for one in SENT
            if one.name.startswith("lengths:")
        }
        assert {one.name: len(found.columns[one.name]) for one in SENT} == {one.name: sizes[one.axis] for one in SENT}
        assert sizes["candidates"] == found.candidates >= 1


def values_of(columns: dict[str, np.ndarray] | None) -> Any:
    if columns is None:
        return None
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in columns.items()}


def quick(body: bytes) -> Any:
    """What the quick reader finds, as comparable values."""
    return values_of(quick_columns(body, CONTRACT.sent))


def slow(body: bytes) -> Any:
    try:
        return values_of(columns_of_json(body, CONTRACT.sent))
    except BadRequestError:
        return None


def test_the_quick_reader_of_json_is_equal_to_the_slow_one() -> None:
    """It reads each good body; what it leaves to the slow one may be good or bad."""
    rng = random.Random(1)
    read = 0
    for number in range(1_500):
        body = bytearray(as_json(columns(number % 5)))
        assert quick(bytes(body)) == slow(bytes(body)) is not None
        for _ in range(rng.choice((1, 2))):
            at = rng.randrange(len(body))
            body[at : at + rng.randrange(2)] = rng.choice(
                (b"9", b"-", b"[", b"]", b"0", b",", b"1.5", b" ", b"e9", b'"')
            )
        found = quick(bytes(body))
        read += found is not None
        assert found in (None, slow(bytes(body))), bytes(body)
    assert read > 100


@pytest.mark.parametrize(("name", "value", "message"), CHANGES)
def test_what_the_quick_reader_leaves_is_explained(name: str, value: Any, message: str) -> None:
    contract = dataclasses.replace(CONTRACT, quick_json=quick_columns)
    with pytest.raises(BadRequestError) as raised:
        contract.of_json(as_json({**columns(), name: value}))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user_id", [[7], 8, 9]),
        ("user_id", [[], [7, 8], 9]),
        ("user_id", [7, 8, True]),
        ("user.age", [1.0, None, 2.0]),
        ("user.taste", [[[1], 2, 3], [1, 2, 3], [1, 2, 3]]),
        ("user.taste", [[1, 2], [3, 1, 2, 3], [1, 2, 3]]),
        ("user.taste", [1, 2, 3, 1, 2, 3, 1, 2, 3]),
        ("user.taste", {"0": [1, 2, 3]}),
        ("user.taste", [{"a": 1, "b": 2, "c": 3}, [1, 2, 3], [1, 2, 3]]),
    ],
)
def test_the_quick_reader_does_not_flatten(name: str, value: Any) -> None:
    body = as_json({**columns(), name: value})
    assert quick(body) is None and slow(body) is None


def test_the_quick_reader_reads_large_numbers_as_the_slow_one() -> None:
    for name, value in (
        ("user.age", [1e300, 5e-324, 16_777_217]),
        ("user.age", [2**53 + 1, -(2**63), 1e39]),
        ("user_id", [2**63 - 1, -(2**63), 0]),
    ):
        body = as_json({**columns(), name: value})
        assert quick(body) == slow(body) is not None
    body = as_json({**columns(), "user.age": [2**63, 2**64, 10**25]})
    assert quick(body) in (None, slow(body))


def test_an_input_knows_its_shape() -> None:
    assert Input(name="a", dtype="float32", axis="history", width=3).shape == ("history", 3)
    assert {one.name for one in INPUTS if one.count} == {
        one.name for one in INPUTS if one.width == 3 and one.name.startswith("candidates.")
    }
