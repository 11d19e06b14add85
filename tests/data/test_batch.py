"""`collate` compared with a simple reference that loops over plain Python rows."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from easq_rec.config.schema import Feature, FeatureSchema
from easq_rec.data.batch import Answers, Extent, RequestBatch, collate, sequence_keys
from easq_rec.data.dataset import RequestDataset
from easq_rec.data.encode import EncodedRequests, encode
from easq_rec.data.layout import Layout
from tests.data.builders import HUGE, SCHEMA, Row, arrow_schema, make_answers, make_rows, read_answers, write_dataset

PLAIN = Layout.of(SCHEMA)


def columns_of(directory: Path, rows: list[Row], layout: Layout = PLAIN) -> EncodedRequests:
    """The rows as read from a file."""
    schema = arrow_schema(answers="candidates.answer" in {column.path for column in layout.columns})
    folder = write_dataset(directory / "requests", rows, row_group_sizes=[4], schema=schema)
    columns = RequestDataset(folder, layout).read_all()
    assert columns is not None
    return encode(layout, columns)


def answers_of(directory: Path, rows: list[Row]) -> EncodedRequests:
    columns = read_answers(write_dataset(directory / "answers", rows, schema=arrow_schema(answers=True)))
    assert columns is not None
    return columns


Jagged = dict[str, list[list[int]]]
"""Per key, the ids of every sample."""


def ids_of(feature: Feature, value: Any) -> list[int]:
    table = SCHEMA.table(feature.table)  # type: ignore[arg-type]
    values = value if feature.kind == "id_list" else [value]
    return [value % table.rows if table.id_space == "hashed" else value for value in values]


def user_ids(row: Row, feature: Feature) -> list[int]:
    return ids_of(feature, row["user_id"] if feature.column == "user_id" else row["user"][feature.column])


def reference(rows: list[Row]) -> tuple[Jagged, Jagged, Jagged]:
    """User, sequence and candidate ids, request by request."""
    user: Jagged = {f"user.{f.name}": [user_ids(row, f) for row in rows] for f in SCHEMA.user}
    sequence: Jagged = {}
    for group, features in (("history", SCHEMA.history), ("candidate", SCHEMA.shared)):
        entries = [row["history" if group == "history" else "candidates"] for row in rows]
        for f in features:
            sequence[f"{group}.{f.name}"] = [[ids_of(f, e[f.column])[0] for e in request] for request in entries]
    candidates = [candidate for row in rows for candidate in row["candidates"]]
    pooled: Jagged = {f"candidate.{f.name}": [ids_of(f, c[f.column]) for c in candidates] for f in SCHEMA.pooled}
    own = [feature for feature in SCHEMA.candidate if feature.table]
    pooled |= {f"satisfaction.{f.name}": [ids_of(f, c[f.column]) for c in candidates] for f in own}
    return user, sequence, pooled


def unjagged(kjt: KeyedJaggedTensor) -> Jagged:
    return {
        key: [part.tolist() for part in torch.split(jagged.values(), jagged.lengths().tolist())]
        for key, jagged in kjt.to_dict().items()
    }


def offsets(lengths: list[int]) -> list[int]:
    return np.cumsum([0, *lengths]).tolist()


def check(batch: RequestBatch, rows: list[Row], *, stream: int) -> None:
    """Compares a batch with its rows, of which the first `stream` are not replayed."""
    candidates = [candidate for row in rows for candidate in row["candidates"]]
    history = [(row, entry) for row in rows for entry in row["history"]]
    user, sequence, pooled = reference(rows)
    assert batch.candidate is not None
    assert (batch.user.stride(), batch.sequence.stride()) == (len(rows), len(rows))
    assert batch.candidate.stride() == len(candidates)
    assert unjagged(batch.user) == user
    assert unjagged(batch.sequence) == sequence
    assert list(sequence) == sequence_keys(SCHEMA) == batch.sequence.keys()
    assert unjagged(batch.candidate) == pooled
    assert batch.history_offsets_R1.tolist() == offsets([len(row["history"]) for row in rows])
    assert batch.candidate_offsets_R1.tolist() == offsets([len(row["candidates"]) for row in rows])
    ages = [(row["timestamp_ms"] - entry["timestamp_ms"]) / 1_000 for row, entry in history]
    assert batch.history_age_H.tolist() == pytest.approx(ages, rel=1e-6)
    assert batch.history_ratio_H.tolist() == pytest.approx([entry["watch_ratio"] for _, entry in history], rel=1e-6)
    floats = [value for c in candidates for value in (math.log1p(max(c["duration_ms"], 0)), c["quality"])]
    assert batch.float_NF.flatten().tolist() == pytest.approx(floats, rel=1e-5)
    assert batch.outcome_NO.tolist() == [[c["long_view"], float(c["like"])] for c in candidates]
    assert batch.total == extent(rows)
    assert batch.stream == extent(rows[:stream])
    assert batch.max_history == max((len(row["history"]) for row in rows), default=0)
    assert batch.max_candidates == max(len(row["candidates"]) for row in rows)
    assert batch.keys.request_id_R.tolist() == [row["request_id"] for row in rows]
    assert batch.keys.user_id_R.tolist() == [row["user_id"] for row in rows]
    assert batch.keys.item_N.tolist() == [candidate["video_id"] for candidate in candidates]
    for floating in (batch.history_age_H, batch.history_ratio_H, batch.float_NF, batch.outcome_NO):
        assert floating.dtype == torch.float32
    for whole in (batch.user.values(), batch.candidate_offsets_R1, batch.answered_A, batch.answer_A):
        assert whole.dtype == torch.int64


def extent(rows: list[Row]) -> Extent:
    return Extent(
        requests=len(rows),
        history=sum(len(row["history"]) for row in rows),
        candidates=sum(len(row["candidates"]) for row in rows),
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_batch_contains_its_requests(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = make_rows(rng, 17)
    batch = collate(SCHEMA, columns_of(tmp_path, rows))
    check(batch, rows, stream=17)
    assert batch.answered_A.tolist() == batch.answer_A.tolist() == []
    assert batch.answer_offsets.tolist() == [0] and batch.max_answers == 0
    assert batch.truth_N is None


@pytest.mark.parametrize("id_", [-1, -50, -51, HUGE, -HUGE, 2**63 - 1, -(2**63)])
def test_hashed_ids_of_any_size_have_a_row(tmp_path: Path, id_: int) -> None:
    rows = make_rows(np.random.default_rng(0), 1)
    rows[0]["user_id"] = id_
    rows[0]["candidates"] = [{**rows[0]["candidates"][0], "video_id": id_, "tags": [id_, 3]}]
    batch = collate(SCHEMA, columns_of(tmp_path, rows))
    assert unjagged(batch.user)["user.user_id"] == [[id_ % 97]]
    assert unjagged(batch.sequence)["candidate.video_id"] == [[id_ % 50]]
    assert unjagged(batch.candidate)["candidate.tags"] == [[id_ % 11, 3]]  # type: ignore[arg-type]
    assert (batch.keys.user_id_R[0], batch.keys.item_N[0]) == (id_, id_), "keys are not hashed"


@pytest.mark.parametrize("seed", range(4))
def test_replayed_requests_come_last(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = make_rows(rng, 6)
    replayed = make_answers(rng, make_rows(rng, 4, first_id=100))
    answered = [
        (request, index, candidate["answer"])
        for request, row in enumerate(replayed)
        for index, candidate in enumerate(row["candidates"])
        if candidate["answer"] is not None
    ]
    # The third request is replayed with only some of its answers, as in a draw, or with none.
    answered = [entry for entry in answered if entry[0] != 2 or entry[1] % 2]
    request_A, candidate_A, answer_A = (np.array(values) for values in zip(*answered, strict=True))
    drawn = answers_of(tmp_path, replayed)
    answers = Answers(requests=drawn, request_A=request_A, candidate_A=candidate_A, answer_A=answer_A.astype(np.int8))
    batch = collate(SCHEMA, columns_of(tmp_path, rows), answers)
    check(batch, rows + replayed, stream=6)
    all_candidates = [(row["request_id"], index) for row in rows + replayed for index in range(len(row["candidates"]))]
    assert [all_candidates[position] for position in batch.answered_A.tolist()] == [
        (100 + request, index) for request, index, _ in answered
    ]
    assert batch.answer_A.tolist() == [answer for _, _, answer in answered]
    counts = [sum(request == number for request, _, _ in answered) for number in range(4)]
    assert batch.answer_offsets.tolist() == offsets(counts)
    assert batch.max_answers == max(counts)


def test_answers_without_a_stream(tmp_path: Path) -> None:
    """A rank without requests in a step still has its share of the answers."""
    rng = np.random.default_rng(0)
    rows = make_rows(rng, 3)
    nothing = columns_of(tmp_path, rows).take(np.zeros(0, np.int64))
    replayed = answers_of(tmp_path, make_answers(rng, rows))
    answers = Answers(requests=replayed, request_A=np.array([1]), candidate_A=np.array([0]), answer_A=np.array([2]))
    batch = collate(SCHEMA, nothing, answers)
    check(batch, rows, stream=0)
    assert batch.answered_A.tolist() == [len(rows[0]["candidates"])]
    assert batch.answer_offsets.tolist() == [0, 0, 1, 1]


def blank_row() -> Row:
    return {
        "request_id": 0,
        "user_id": 0,
        "timestamp_ms": 0,
        "user": {"region": 0, "interests": []},
        "history": [],
        "candidates": [
            {
                **dict.fromkeys(("video_id", "author_id", "category_code", "duration_ms", "quality"), 0),
                **{name: [] for name in ("tags", "genres")},
                **dict.fromkeys(("long_view", "like"), 0),
            }
        ],
    }


def test_an_empty_stream_gets_a_blank_replayed_request(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(0), 3)
    batch = collate(SCHEMA, columns_of(tmp_path, rows).take(np.zeros(0, np.int64)))
    check(batch, [blank_row()], stream=0)
    assert batch.answered_A.numel() == batch.answer_A.numel() == 0
    assert batch.answer_offsets.tolist() == [0, 0] and batch.max_answers == 0


def test_requests_without_candidates_are_kept_and_get_a_blank_one(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(0), 3)
    for row in rows:
        row["candidates"] = []
    batch = collate(SCHEMA, columns_of(tmp_path, rows))
    check(batch, [*rows, blank_row()], stream=3)


def test_truth_is_included_if_requested(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(0), 5)
    columns = columns_of(tmp_path, rows, Layout.of(SCHEMA, truth="true_satisfaction"))
    batch = collate(SCHEMA, columns, truth="true_satisfaction")
    truth = [candidate["true_satisfaction"] for row in rows for candidate in row["candidates"]]
    assert batch.truth_N is not None and None in truth
    assert batch.truth_N.tolist() == pytest.approx([math.nan if v is None else v for v in truth], nan_ok=True)
    empty = collate(SCHEMA, columns.take(np.zeros(0, np.int64)), truth="true_satisfaction")
    assert empty.truth_N is not None and len(empty.truth_N) == 1 == empty.total.candidates


def test_scoring_has_no_outcomes(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(0), 5)
    columns = columns_of(tmp_path, rows, Layout.of(SCHEMA, outcomes=False))
    assert collate(SCHEMA, columns).outcome_NO.shape == (sum(len(row["candidates"]) for row in rows), 0)


def test_a_schema_without_pooled_or_float_features(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(0), 5)
    shared = tuple(feature for feature in SCHEMA.candidate if feature.name in ("video_id", "author_id"))
    schema: FeatureSchema = dataclasses.replace(SCHEMA, candidate=shared, satisfaction_dim=0)
    batch = collate(schema, columns_of(tmp_path, rows, Layout.of(schema)))
    assert batch.candidate is None
    assert batch.float_NF.shape == (batch.total.candidates, 0)


def tensors(batch: RequestBatch) -> dict[str, Tensor]:
    """Every tensor of a batch, including those of the KeyedJaggedTensors."""
    found: dict[str, Tensor] = {}
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, KeyedJaggedTensor):
            found |= {f"{field.name}.values": value.values(), f"{field.name}.lengths": value.lengths()}
        elif isinstance(value, Tensor):
            found[field.name] = value
    return found


def answered_batch(tmp_path: Path) -> RequestBatch:
    """A batch whose fields are all in use."""
    rng = np.random.default_rng(0)
    rows = make_rows(rng, 5)
    layout = Layout.of(SCHEMA, answers=True, truth="true_satisfaction")
    columns = columns_of(tmp_path, make_answers(rng, rows), layout)
    answers = Answers(requests=columns, request_A=np.array([1]), candidate_A=np.array([0]), answer_A=np.array([2]))
    return collate(SCHEMA, columns, answers, truth="true_satisfaction")


def test_an_unaligned_batch_has_no_ids_for_the_satisfaction_tower(tmp_path: Path) -> None:
    """Replayed candidates keep their ids, and all other lookups are the same."""
    columns, evidence = columns_of(tmp_path, make_rows(np.random.default_rng(0), 5)), np.ones(2, np.float32)
    answers = Answers(
        requests=columns.take(np.arange(2)),
        request_A=np.array([1]),
        candidate_A=np.array([0]),
        answer_A=np.array([2]),
    )
    full = collate(SCHEMA, columns, answers, evidence_O=evidence)
    bare = collate(SCHEMA, columns, answers, evidence_O=evidence, aligned=False)
    assert full.aligned and not bare.aligned
    assert len(full.evidence_candidate_E) and not len(bare.evidence_candidate_E)
    assert bare.evidence_offsets.tolist() == [0]
    assert full.candidate is not None and bare.candidate is not None
    expected, stream = unjagged(full.candidate), full.stream.candidates
    for key, lists in expected.items():
        if key.startswith("satisfaction."):
            expected[key] = [[]] * stream + lists[stream:]
    assert unjagged(bare.candidate) == expected
    assert any(expected["satisfaction.video_id"])


def test_moving_a_batch_moves_every_tensor(tmp_path: Path) -> None:
    batch = answered_batch(tmp_path)
    before = tensors(batch)
    assert len(before) == 22
    moved = batch.to(torch.device("meta"))
    assert {name: tensor.device.type for name, tensor in tensors(moved).items()} == dict.fromkeys(before, "meta")
    assert {tensor.device.type for tensor in tensors(batch).values()} == {"cpu"}
    same = batch.to(torch.device("cpu"), non_blocking=True)
    for name, tensor in tensors(same).items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        if not isinstance(value, Tensor | KeyedJaggedTensor):
            assert getattr(same, field.name) is value


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs CUDA")
def test_pinning_a_batch_pins_every_tensor(tmp_path: Path) -> None:
    pinned = tensors(answered_batch(tmp_path).pin_memory())
    assert {name for name, tensor in pinned.items() if not tensor.is_pinned()} == set()


def test_a_batch_is_frozen(tmp_path: Path) -> None:
    batch = collate(SCHEMA, columns_of(tmp_path, make_rows(np.random.default_rng(0), 2)))
    for field in dataclasses.fields(batch):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(batch, field.name, None)
