"""Floats, lists of floats, weighted ids and counts: equal to plain loops over rows, or refused."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from easq_rec.config.schema import Feature, FeatureSchema, Outcome, Table
from easq_rec.data.bad_rows import BadRows, Place
from easq_rec.data.batch import Answers, RequestBatch, collate
from easq_rec.data.batch_file import read_batch, write_batch
from easq_rec.data.dataset import RequestDataset
from easq_rec.data.encode import EncodedRequests, encode
from easq_rec.data.kinds import Column, read
from easq_rec.data.layout import Layout
from easq_rec.data.quarantine import Quarantine
from tests.data.builders import Row, write_dataset

SCHEMA = FeatureSchema(
    tables=(
        Table(name="user", rows=7, dim=4),
        Table(name="interest", rows=5, dim=4),
        Table(name="video", rows=9, dim=4),
        Table(name="topic", rows=6, dim=4, id_space="dense"),
        Table(name="tag", rows=3, dim=4),
    ),
    user=(
        Feature(name="age", kind="float", transform="log1p"),
        Feature(name="user_id", table="user"),
        Feature(name="taste", kind="float_list", length=2),
        Feature(name="interests", kind="weighted_id_list", table="interest", pooling="mean"),
    ),
    history=(
        Feature(name="content", kind="float_list", length=3, transform="log1p"),
        Feature(name="video_id", table="video"),
        Feature(name="price", kind="float"),
    ),
    candidate=(
        Feature(name="video_id", table="video"),
        Feature(name="embedding", source="content", kind="float_list", length=3),
        Feature(name="topics", kind="weighted_id_list", table="topic"),
        Feature(name="tags", kind="id_list", table="tag", pooling="mean"),
        Feature(name="price", kind="float"),
        Feature(name="rate", kind="count", source="likes", smoothing=2.5),
        Feature(name="rougher", kind="count", source="likes"),
    ),
    outcomes=(Outcome(name="like", weight=1.0),),
    satisfaction_dim=8,
    satisfaction=(Feature(name="asked", kind="count", source="likes", smoothing=4.0),),
)
LAYOUT = Layout.of(SCHEMA)


def weighted(dtype: pa.DataType, *, more: bool = False) -> pa.DataType:
    """A list of structs; `more`: with a field that is not read."""
    fields = [("id", pa.int64()), ("weight", dtype)]
    return pa.list_(pa.struct([("note", pa.string()), *fields] if more else fields))


def arrow_schema(numbers: Callable[[int], pa.DataType]) -> pa.Schema:
    """Columns of a file, with lists of numbers of a type that depends on their length."""
    user = [("age", pa.int16()), ("taste", numbers(2)), ("interests", weighted(pa.float64(), more=True))]
    entry = [("video_id", pa.int64()), ("content", numbers(3)), ("price", pa.float64())]
    times = [("timestamp_ms", pa.int64()), ("watch_ratio", pa.float32())]
    # The fields of a count may have any order and number type, and others may lie between them.
    count = [("prior", pa.float64()), ("note", pa.string()), ("happened", pa.float32()), ("shown", pa.int32())]
    candidate = [*entry, ("topics", weighted(pa.int8())), ("tags", pa.list_(pa.int64())), ("like", pa.int8())]
    candidate.insert(2, ("likes", pa.struct(count)))
    ids = [("request_id", pa.int64()), ("user_id", pa.int64()), ("timestamp_ms", pa.int64())]
    lists = {"history": entry + times, "candidates": candidate}
    columns = [(name, pa.list_(pa.struct(fields))) for name, fields in lists.items()]
    return pa.schema([*ids, ("user", pa.struct(user)), *columns])


TYPES: dict[str, Callable[[int], pa.DataType]] = {
    "list": lambda length: pa.list_(pa.float32()),
    "large list": lambda length: pa.large_list(pa.float64()),
    "fixed-size list": lambda length: pa.list_(pa.float32(), length),
}
PLAIN = arrow_schema(TYPES["list"])


def make_rows(rng: np.random.Generator, count: int) -> list[Row]:
    def numbers(length: int) -> list[float]:
        return [float(value) for value in rng.normal(size=length).astype(np.float32)]

    def pairs(low: int, high: int, weights: list[float]) -> list[dict[str, Any]]:
        return [
            {"note": "", "id": int(rng.integers(low, high)), "weight": float(rng.choice(weights))}
            for _ in range(rng.integers(4))
        ]

    def entry() -> dict[str, Any]:
        return {"video_id": int(rng.integers(-99, 99)), "content": numbers(3), "price": float(rng.normal())}

    def likes() -> dict[str, Any]:
        shown = int(rng.choice([0, 1, 7, 10**6]))
        happened = float(np.float32(shown * rng.choice([0.0, 0.3, 1.0])))
        return {"shown": shown, "happened": happened, "prior": float(rng.choice([0.0, 0.25, 1.0])), "note": ""}

    return [
        {
            "request_id": number,
            "user_id": int(rng.integers(-99, 99)),
            "timestamp_ms": 10_000 + number,
            "user": {"age": int(rng.integers(90)), "taste": numbers(2), "interests": pairs(-99, 99, [0.0, 0.5, 2.25])},
            "history": [{**entry(), "timestamp_ms": number, "watch_ratio": 0.5} for _ in range(rng.integers(4))],
            "candidates": [
                {**entry(), "topics": pairs(0, 6, [0, 1, 3]), "tags": [3, 4, 7][: rng.integers(4)], "like": 1}
                | {"likes": likes()}
                for _ in range(rng.integers(1, 4))
            ],
        }
        for number in range(count)
    ]


def encoded(directory: Path, rows: list[Row], schema: pa.Schema = PLAIN) -> EncodedRequests:
    columns = RequestDataset(write_dataset(directory, rows, row_group_sizes=[4], schema=schema), LAYOUT).read_all()
    assert columns is not None
    return encode(LAYOUT, columns)


def pooled(feature: Feature, value: Any) -> list[tuple[int, float]]:
    """(table row, weight in the sum) of each id."""
    if feature.kind == "id":
        pairs = [(value, 1.0)]
    elif feature.kind == "id_list":
        pairs = [(identity, 1.0) for identity in value]
    else:
        pairs = [(pair["id"], pair["weight"]) for pair in value]
    total = sum(weight for _, weight in pairs) if feature.pooling == "mean" and feature.kind != "id" else 1.0
    rows = SCHEMA.table(str(feature.table)).rows
    return [(identity % rows, weight / total if total else 0.0) for identity, weight in pairs]


def floats(features: tuple[Feature, ...], entry: dict[str, Any]) -> list[float]:
    found = []
    for feature in features:
        value = entry[feature.column]
        if feature.kind == "count":
            found += [logit(smoothed(feature, value)), math.log1p(value["shown"]), logit(value["prior"])]
            continue
        for number in value if isinstance(value, list) else [value]:
            found.append(math.log1p(max(number, 0)) if feature.transform == "log1p" else number)
    return found


def smoothed(feature: Feature, count: dict[str, float]) -> float:
    return (count["happened"] + feature.smoothing * count["prior"]) / (count["shown"] + feature.smoothing)


def logit(rate: float) -> float:
    """Of a rate, which is kept a millionth away from 0 and 1."""
    rate = min(max(rate, 1e-6), 1 - 1e-6)
    return math.log(rate / (1 - rate))


def lookups(kjt: KeyedJaggedTensor) -> dict[str, list[list[tuple[int, float]]]]:
    found = {}
    for key, jagged in kjt.to_dict().items():
        pairs = list(zip(jagged.values().tolist(), jagged.weights().tolist(), strict=True))
        bounds = jagged.offsets().tolist()
        found[key] = [pairs[begin:end] for begin, end in pairwise(bounds)]
    return found


def near(values: Any) -> Any:
    return pytest.approx(values, rel=1e-6, abs=1e-7)


def check(batch: RequestBatch, rows: list[Row]) -> None:
    users = [{**row["user"], "user_id": row["user_id"]} for row in rows]
    candidates = [candidate for row in rows for candidate in row["candidates"]]
    expected = {f"user.{f.name}": [pooled(f, user[f.column]) for user in users] for f in SCHEMA.user_ids}
    found = lookups(batch.user)
    assert found.keys() == expected.keys()
    own = {f"candidate.{f.name}": [pooled(f, c[f.column]) for c in candidates] for f in SCHEMA.pooled}
    own |= {f"satisfaction.{f.name}": [pooled(f, c[f.column]) for c in candidates] for f in SCHEMA.candidate if f.table}
    assert batch.candidate is not None
    found |= lookups(batch.candidate)
    expected |= own
    assert found.keys() == expected.keys()
    for key, lists in expected.items():
        assert [[row for row, _ in pairs] for pairs in found[key]] == [[row for row, _ in pairs] for pairs in lists]
        assert [weight for pairs in found[key] for _, weight in pairs] == near([w for pairs in lists for _, w in pairs])
    numbers = {
        "user_float_RF": [floats(SCHEMA.user_floats, user) for user in users],
        "history_float_HF": [floats(SCHEMA.history_floats, entry) for row in rows for entry in row["history"]],
        "float_NF": [floats(SCHEMA.floats, candidate) for candidate in candidates],
        "satisfaction_NF": [floats(SCHEMA.satisfaction, candidate) for candidate in candidates],
    }
    for name, wanted in numbers.items():
        tensor = getattr(batch, name)
        assert tensor.shape == (len(wanted), len(wanted[0])) and tensor.is_contiguous()
        assert tensor.flatten().tolist() == near([number for entry in wanted for number in entry])
    assert batch.sequence.weights_or_none() is None


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("seed", range(3))
def test_a_batch_equals_loops_over_rows(tmp_path: Path, dtype: str, seed: int) -> None:
    rows = make_rows(np.random.default_rng(seed), 13)
    columns = encoded(tmp_path, rows, arrow_schema(TYPES[dtype]))
    check(collate(SCHEMA, columns), rows)
    # Shuffled batches of most rows and of few rows, followed by replayed requests.
    for order in ([12, 3, 0, 7, 5, 1, 9, 2], [4, 11]):
        nothing = np.zeros(0, np.int64)
        replayed = Answers(
            requests=columns.take(np.array([6, 8])), request_A=nothing, candidate_A=nothing, answer_A=nothing
        )
        batch = collate(SCHEMA, columns.take(np.array(order)), replayed)
        check(batch, [rows[index] for index in [*order, 6, 8]])
    parts = [columns.slice(0, 5), columns.slice(5, 13)]
    check(collate(SCHEMA, EncodedRequests.concat(parts)), rows)


def test_a_blank_request_has_zeros(tmp_path: Path) -> None:
    columns = encoded(tmp_path, make_rows(np.random.default_rng(0), 5))
    batch = collate(SCHEMA, columns.take(np.zeros(0, np.int64)))
    assert batch.user_float_RF.tolist() == [[0.0] * 3]
    assert batch.history_float_HF.shape == (0, 4)
    assert batch.float_NF.tolist() == [[0.0] * 10]
    assert batch.satisfaction_NF.tolist() == [[0.0] * 3]


def test_candidates_that_the_satisfaction_tower_does_not_read_have_no_weights(tmp_path: Path) -> None:
    columns = encoded(tmp_path, make_rows(np.random.default_rng(0), 5))
    batch = collate(SCHEMA, columns, aligned=False)
    assert batch.candidate is not None
    found = lookups(batch.candidate)
    assert any(found["candidate.topics"]) and not any(found["satisfaction.topics"])


def test_a_batch_file_keeps_weights(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(1), 6)
    write_batch(tmp_path / "batch.npz", collate(SCHEMA, encoded(tmp_path / "data", rows)), {})
    check(read_batch(tmp_path / "batch.npz").batch, rows)


def _set(path: str, value: Any) -> Callable[[Row], None]:
    def change(row: Row) -> None:
        *parents, name = path.split(".")
        for parent in parents:
            row = row[parent][-1] if isinstance(row[parent], list) else row[parent]
        row[name] = value

    return change


NAN, INFINITE = float("nan"), float("inf")
BAD: list[tuple[str, str, Any, str]] = [
    ("user.age", "user.age", None, "found null, expected a number"),
    ("user.taste", "user.taste", None, "found null, expected a list of 2 numbers"),
    ("user.taste", "user.taste", [1.0], "found a list of 1, expected a list of 2 numbers"),
    ("user.taste", "user.taste", [], "found a list of 0, expected a list of 2 numbers"),
    ("user.taste", "user.taste", [1.0, None], "found null, expected a number"),
    ("user.taste", "user.taste", [NAN, 1.0], "found nan, expected a finite number (float32)"),
    ("user.interests", "user.interests", None, "found null, expected a list"),
    ("user.interests", "user.interests", [None], "found null, expected a struct of id and weight"),
    ("user.interests.id", "user.interests", [{"id": None, "weight": 1.0}], "found null, expected an integer"),
    ("user.interests.weight", "user.interests", [{"id": 1, "weight": None}], "found null, expected a number"),
    ("user.interests.weight", "user.interests", [{"id": 1, "weight": NAN}], "found nan, expected a finite number"),
    ("user.interests.weight", "user.interests", [{"id": 1, "weight": -0.5}], "found -0.5, expected a weight of 0 or"),
    ("history.price", "history.price", INFINITE, "found inf, expected a finite number (float32)"),
    ("history.content", "history.content", [1.0] * 4, "found a list of 4, expected a list of 3 numbers"),
    ("candidates.content", "candidates.content", [0.0, 0.0, INFINITE], "found inf, expected a finite number"),
    ("candidates.topics.id", "candidates.topics", [{"id": 6, "weight": 1}], "found 6, expected 0..5 (dense table"),
    ("candidates.topics.weight", "candidates.topics", [{"id": 1, "weight": -2}], "found -2.0, expected a weight of 0"),
    ("candidates.likes", "candidates.likes", None, "found null, expected a struct of shown, happened, prior"),
    ("candidates.likes.prior", "candidates.likes.prior", None, "found null, expected a number"),
    ("candidates.likes.prior", "candidates.likes.prior", 1.5, "found 1.5, expected a rate from 0 to 1"),
    ("candidates.likes.prior", "candidates.likes.prior", NAN, "found nan, expected a finite number (float32)"),
    ("candidates.likes.shown", "candidates.likes.shown", -1, "found -1.0, expected a number of 0 or more"),
    ("candidates.likes.happened", "candidates.likes.happened", 1e7, "found 1e+07, expected a number from 0 to"),
    ("candidates.likes.happened", "candidates.likes.happened", -0.5, "found -0.5, expected a number from 0 to"),
]


@pytest.mark.parametrize(("column", "path", "value", "message"), BAD, ids=[f"{bad[0]}: {bad[3]}" for bad in BAD])
def test_a_bad_value_is_named_with_its_place_or_quarantined(
    tmp_path: Path, column: str, path: str, value: Any, message: str
) -> None:
    rows = make_rows(np.random.default_rng(3), 8)
    entry = {"video_id": 1, "content": [0.0] * 3, "price": 0.0, "timestamp_ms": 1, "watch_ratio": 0.0}
    rows[6]["history"].append(entry)
    good = copy.deepcopy(rows)
    _set(path, value)(rows[6])
    directory = write_dataset(tmp_path / "bad", rows, row_group_sizes=[4], schema=PLAIN)
    place = f"{directory / 'part=00' / '0000.parquet'}, row group 1, row 2, column {column}: {message}"
    with pytest.raises(ValueError, match=re.escape(place)):
        RequestDataset(directory, LAYOUT).read_all()
    quarantine = Quarantine(tmp_path / "quarantine")
    found = RequestDataset(directory, LAYOUT, quarantine=quarantine).read_all()
    assert found is not None and quarantine.count() == 1
    check(collate(SCHEMA, encode(LAYOUT, found)), [row for row in good if row["request_id"] != 6])


@pytest.mark.parametrize(
    ("name", "dtype", "problem"),
    [
        ("taste", pa.list_(pa.string()), "user.taste: is list<element: string>, expected a list of numbers"),
        ("taste", pa.float32(), "user.taste: is float, expected a list of numbers"),
        ("interests", pa.list_(pa.int64()), "expected a list of structs of an integer id and a number weight"),
        ("interests", pa.list_(pa.struct([("id", pa.int64())])), "expected a list of structs of an integer id and a"),
        ("age", pa.list_(pa.float32()), "user.age: is list<element: float>, expected a number or boolean"),
    ],
)
def test_columns_of_other_types_are_refused(tmp_path: Path, name: str, dtype: pa.DataType, problem: str) -> None:
    fields = [field if field.name != name else pa.field(name, dtype) for field in PLAIN.field("user").type]
    schema = PLAIN.set(PLAIN.get_field_index("user"), pa.field("user", pa.struct(fields)))
    directory = write_dataset(tmp_path, [], schema=schema)
    with pytest.raises(ValueError, match=re.escape(problem)):
        RequestDataset(directory, LAYOUT)


@pytest.mark.parametrize(
    ("dtype", "problem"),
    [
        (
            pa.float32(),
            "is float, expected a struct of the numbers shown, happened and prior, as `easq-rec data counts`",
        ),
        (pa.struct([("shown", pa.int64()), ("happened", pa.int64())]), ", expected a struct of the numbers"),
        (None, "candidates.likes: missing, expected a struct of the numbers"),
    ],
)
def test_a_column_that_is_no_count_is_refused(tmp_path: Path, dtype: pa.DataType | None, problem: str) -> None:
    fields = [field for field in PLAIN.field("candidates").type.value_type if field.name != "likes"]
    fields += [] if dtype is None else [pa.field("likes", dtype)]
    schema = PLAIN.set(PLAIN.get_field_index("candidates"), pa.field("candidates", pa.list_(pa.struct(fields))))
    with pytest.raises(ValueError, match=re.escape(problem)):
        RequestDataset(write_dataset(tmp_path, [], schema=schema), LAYOUT)


def refused(**group: tuple[Feature, ...]) -> str:
    parts: dict[str, Any] = {name: getattr(SCHEMA, name) for name in ("tables", "user", "history", "candidate")}
    with pytest.raises(ValueError, match="is not allowed") as caught:
        FeatureSchema(**(parts | group), outcomes=SCHEMA.outcomes)
    return str(caught.value)


def test_contradictory_schemas_are_refused() -> None:
    for length in (None, 0, -3):
        with pytest.raises(ValueError, match=f"feature a: length={length} is not allowed: the numbers in each list"):
            Feature(name="a", kind="float_list", length=length)
    with pytest.raises(ValueError, match="feature a: length=3 is not allowed: None for kind 'float'"):
        Feature(name="a", kind="float", length=3)
    with pytest.raises(ValueError, match="feature a: table='user' is not allowed: None for kind 'float_list'"):
        Feature(name="a", kind="float_list", table="user", length=3)
    with pytest.raises(ValueError, match="feature a: table=None is not allowed: a table for an id feature"):
        Feature(name="a", kind="weighted_id_list")
    weighted_entry = Feature(name="topics", kind="weighted_id_list", table="video")
    assert "schema.history: id lists=['topics']" in refused(history=(*SCHEMA.history, weighted_entry))
    assert "at least one id feature" in refused(user=SCHEMA.user_floats)
    short = Feature(name="start", source="taste", kind="float_list", length=1)
    count = Feature(name="rate", source="price", kind="count")
    assert "the kind and the length of price, which reads the same" in refused(candidate=(*SCHEMA.candidate, count))
    for group in ("user", "history"):
        assert f"schema.{group}: counts=['rate'] is not allowed" in refused(**{group: (*getattr(SCHEMA, group), count)})
    with pytest.raises(ValueError, match="feature a: table='user' is not allowed: None for kind 'count'"):
        Feature(name="a", kind="count", table="user")
    with pytest.raises(ValueError, match="feature a: smoothing=0 is not allowed: more than 0"):
        Feature(name="a", kind="count", smoothing=0)
    with pytest.raises(ValueError, match="feature a: transform='log1p' is not allowed: 'identity' for kind 'count'"):
        Feature(name="a", kind="count", transform="log1p")
    assert "the kind and the length of taste, which reads the same column" in refused(user=(*SCHEMA.user, short))


def test_outcomes_are_flags_or_amounts() -> None:
    """Other values are bad rows."""
    place = Place(file="part.parquet", row_group=0)
    flag, amount = Column(path="candidates.like", kind="flag"), Column(path="candidates.watch_ms", kind="amount")
    assert read(pa.array([True, False]), flag, place, None).tolist() == [1.0, 0.0]  # type: ignore[union-attr]
    with pytest.raises(BadRows) as bad:
        read(pa.array([0, 1, 3]), flag, place, None)
    assert "found 3.0, expected 0 or 1" in str(bad.value) and "row 2" in str(bad.value)
    assert read(pa.array([0, 2_500]), amount, place, None).tolist() == [0.0, 2_500.0]  # type: ignore[union-attr]
    with pytest.raises(BadRows, match=r"found -1.0, expected a number of 0 or more"):
        read(pa.array([5, -1]), amount, place, None)
