"""Groups of users equal loops over users and their requests."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from easq_rec.config.recipes import world_schema
from easq_rec.data.batch import Answers, RequestBatch, collate
from easq_rec.data.batch_file import read_batch, write_batch
from easq_rec.data.columns import RequestColumns, offsets_of
from easq_rec.data.encode import EncodedRequests, encode
from easq_rec.data.evidence import EvidenceCandidates
from easq_rec.data.groups import CandidateGroups, groups_of_users, slates_of_users
from easq_rec.data.layout import Layout
from tests.builders import random_answers, random_evidence, random_requests

REQUESTS = st.lists(st.tuples(st.sampled_from([7, -3, 2**62, 0]), st.integers(0, 6)), max_size=12)
"""(user, number of candidates) of every request."""
SCHEMA = world_schema(users=40, videos=64, dim=8)


def lists_of(groups: CandidateGroups) -> list[list[int]]:
    ends = groups.offsets_G1.tolist()
    assert groups.longest == max((b - a for a, b in itertools.pairwise(ends)), default=0)
    assert ends[-1] == len(groups.order_M)
    return [groups.order_M.tolist()[a:b] for a, b in itertools.pairwise(ends)]


def loop(requests: list[tuple[int, int]], limit: int | None) -> list[list[int]]:
    """The candidates of each group, computed from the definition; None: a user has one group."""
    begins = np.cumsum([0] + [length for _, length in requests])
    found = []
    for user in sorted({user for user, _ in requests}):
        numbered: dict[int, list[int]] = {}
        before = 0
        for row, (owner, length) in enumerate(requests):
            if owner == user:
                number = before // limit if limit is not None else 0
                numbered.setdefault(number, []).extend(range(begins[row], begins[row] + length))
                before += length
        found += list(numbered.values())
    return found


def arrays(requests: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """(user of every request, offsets of its candidates)."""
    user_R = np.array([user for user, _ in requests], dtype=np.int64)
    return user_R, offsets_of(np.array([length for _, length in requests], dtype=np.int64))


@given(requests=REQUESTS, limit=st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_groups_equal_a_loop_over_users(requests: list[tuple[int, int]], limit: int) -> None:
    user_R, offsets_R1 = arrays(requests)
    groups = lists_of(groups_of_users(user_R, offsets_R1, limit=limit))
    assert groups == loop(requests, limit)
    assert sorted(itertools.chain.from_iterable(groups)) == list(range(offsets_R1[-1])), "every candidate once"
    request_N = np.repeat(np.arange(len(requests)), np.diff(offsets_R1))
    for group in groups:
        assert len({user_R[request_N[candidate]] for candidate in group}) <= 1
        longest = max((np.diff(offsets_R1)[request_N[candidate]] for candidate in group), default=0)
        assert len(group) < limit + max(longest, 1), "a group exceeds the limit by less than one request"
    for request in range(len(requests)):
        assert len({index for index, g in enumerate(groups) for c in g if request_N[c] == request}) <= 1, "not cut"


@given(requests=REQUESTS, data=st.data())
@settings(max_examples=100, deadline=None)
def test_slates_hold_all_candidates_of_the_users_with_answers(
    requests: list[tuple[int, int]], data: st.DataObject
) -> None:
    user_R, offsets_R1 = arrays(requests)
    rows = st.sets(st.integers(0, len(requests) - 1)) if requests else st.just(set[int]())
    answered, left_out = data.draw(rows), data.draw(rows)
    kept_R = np.array([row not in left_out for row in range(len(requests))], dtype=bool)
    found = slates_of_users(user_R, offsets_R1, np.array(sorted(answered), np.int64), kept_R)
    asked = {requests[row][0] for row in answered}
    begins = offsets_R1.tolist()
    expected = []
    for user in sorted(asked):
        rows_of = [row for row, (owner, _) in enumerate(requests) if owner == user and row not in left_out]
        if rows_of:
            expected.append([c for row in rows_of for c in range(begins[row], begins[row + 1])])
    assert lists_of(found) == expected


def requests_of(users: list[int], lengths: list[int], *, seed: int = 0, first_id: int = 0) -> EncodedRequests:
    """Requests with these users and numbers of candidates."""
    columns = random_requests(SCHEMA, np.random.default_rng(seed), [1] * len(users), lengths)
    scalars = {**columns.scalars, "user_id": np.array(users), "request_id": first_id + np.arange(len(users))}
    return encode(Layout.of(SCHEMA), RequestColumns(**{**vars(columns), "scalars": scalars}))


def example(*, by_user: bool = True) -> RequestBatch:
    """Requests of three users; request 1 of the stream is also replayed. User 4 has an answer, but no request."""
    stream = requests_of([5, 6, 5, 8, 6], [2, 1, 3, 1, 2])
    answered = requests_of([6, 4], [1, 2], seed=1, first_id=1)
    answers = Answers(
        requests=answered,
        request_A=np.array([0, 1]),
        candidate_A=np.array([0, 1]),
        answer_A=np.array([0, 2], np.int8),
    )
    return collate(SCHEMA, stream, answers, evidence_O=random_evidence(SCHEMA), by_user=by_user)


def test_a_batch_has_groups_of_the_stream_and_slates_of_the_answers() -> None:
    batch = example()
    assert batch.groups is not None and batch.slates is not None
    assert lists_of(batch.groups) == [[0, 1, 3, 4, 5], [2, 7, 8], [6]]
    # Candidate 2 of the stream is candidate 9 of the replayed requests: it counts once.
    assert lists_of(batch.slates) == [[10, 11], [7, 8, 9]]
    assert example(by_user=False).groups is None and example(by_user=False).slates is None


def test_evidence_is_compared_within_groups() -> None:
    """Candidates with evidence are those of `EvidenceCandidates.find` over groups written as lists."""
    batch, alone = example(), example(by_user=False)
    assert batch.groups is not None
    outcome_NO, weight_O = batch.outcome_NO[:9].numpy(), random_evidence(SCHEMA)
    expected, offsets = [], [0]
    for group in lists_of(batch.groups):
        found = EvidenceCandidates.find(outcome_NO[group], weight_O, np.array([0, len(group)]), SCHEMA.trigger_index)
        if len(found.candidate_E):
            expected += [group[candidate] for candidate in found.candidate_E]
            offsets.append(len(expected))
    assert batch.evidence_candidate_E.tolist() == expected
    assert batch.evidence_offsets.tolist() == offsets
    assert len(expected) > len(alone.evidence_candidate_E), "the example has pairs across requests"
    np.testing.assert_allclose(
        batch.evidence_E.numpy(), ((outcome_NO > 0) @ weight_O)[expected], rtol=1e-6, err_msg="evidence of each"
    )


def test_a_batch_without_candidates_or_answers_has_empty_groups() -> None:
    batch = collate(SCHEMA, requests_of([5, 5], [0, 0]), by_user=True)
    assert batch.groups is not None and batch.slates is not None
    assert lists_of(batch.groups) == [[]] and lists_of(batch.slates) == []
    none = collate(SCHEMA, requests_of([5], [1]).take(np.zeros(0, np.int64)), by_user=True)
    assert none.groups is not None and lists_of(none.groups) == []


def test_groups_move_with_the_batch_and_are_stored_with_it(tmp_path: Path) -> None:
    batch = example()
    write_batch(tmp_path / "batch.npz", batch, {})
    for other in (read_batch(tmp_path / "batch.npz").batch, batch.to(torch.device("cpu"))):
        for name in ("groups", "slates"):
            found, expected = getattr(other, name), getattr(batch, name)
            assert lists_of(found) == lists_of(expected)
            assert all(tensor.dtype == torch.int64 for tensor in found.tensors())
    moved = batch.to(torch.device("meta"))
    assert moved.groups is not None and moved.groups.order_M.is_meta and moved.groups.offsets_G1.is_meta
    unmoved = dataclasses.replace(batch, groups=None, slates=None)
    write_batch(tmp_path / "plain.npz", unmoved, {})
    assert read_batch(tmp_path / "plain.npz").batch.groups is None


@pytest.mark.parametrize("replayed", [False, True])
def test_groups_do_not_change_the_rest_of_a_batch(replayed: bool) -> None:
    stream = requests_of([5, 6, 5], [2, 1, 3])
    answers = random_answers(requests_of([5], [3], seed=2, first_id=9), np.random.default_rng(0)) if replayed else None
    found, plain = (collate(SCHEMA, stream, answers, by_user=by_user) for by_user in (True, False))
    for field in dataclasses.fields(RequestBatch):
        value = getattr(plain, field.name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(getattr(found, field.name), value), field.name
