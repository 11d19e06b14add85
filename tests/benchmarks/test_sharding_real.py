"""Sharding cases on two real ranks: exact cases equal the unsharded model, and a wrong case is detected."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.sharding.padding import CutEmbeddings, padded
from benchmarks.sharding.real import real
from benchmarks.sharding.workload import PROOF, config_of, share, whole_batch
from easq_rec.model.embeddings import RequestEmbeddings
from easq_rec.model.initial import initialise
from tests.conftest import Warm


@pytest.mark.distributed
def test_cases_are_compared_with_the_unsharded_model_on_two_ranks(warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON_EXEC", warm.python)
    names = ["planner", "row_wise", "grid_shard", "grid_shard, means too", "table_wise", "table_wise, fp16 messages"]
    (run,) = real(["1x2"], rounds=1, steps=1, proof_steps=2, cases=names, out=None)["runs"]
    equal = {name: proof["equal"] for name, proof in run["proofs"].items()}
    assert equal == {
        "planner": True,
        "table_wise": True,
        "row_wise": True,
        "grid_shard": True,
        "grid_shard, means too": False,
    }
    assert set(run["cases"]) == set(names) - {"grid_shard, means too"}
    exact, half = (run["cases"][name] for name in ("table_wise", "table_wise, fp16 messages"))
    assert half["strayed_first"] > 0 and exact["strayed_first"] == 0
    assert half["bytes_per_rank"]["alltoall_base"] < exact["bytes_per_rank"]["alltoall_base"]
    assert half["bytes_per_rank"]["allreduce"] == exact["bytes_per_rank"]["allreduce"]
    assert sum(exact["table_bytes_by_rank"]) == 4 * sum(table.rows * table.dim for table in tables_of_the_timed_size())


def tables_of_the_timed_size() -> list[Any]:
    from benchmarks.sharding.workload import TIMED

    schema = config_of(TIMED).schema
    return [*schema.tables, *schema.satisfaction_tables]


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_have_different_shares_of_the_same_requests(ranks: int) -> None:
    config = config_of(PROOF)
    whole = whole_batch(config, PROOF, 3)
    parts = [share(config, PROOF, 3, rank, ranks) for rank in range(ranks)]
    counts = [part.stream.requests for part in parts]
    assert sum(counts) == whole.stream.requests and len(set(counts)) == ranks
    merged = torch.cat([part.outcome_NO[: part.stream.candidates] for part in parts])
    assert torch.equal(merged, whole.outcome_NO[: whole.stream.candidates])


def test_padding_adds_empty_bags_that_are_removed_after_the_lookup() -> None:
    config = config_of(PROOF)
    batch = share(config, PROOF, 0, 0, 2)
    # Another rank has three more requests and candidates.
    runtime: Any = types.SimpleNamespace(agree=lambda count: [count + 3])
    more = padded(batch, runtime)
    assert isinstance(more.candidate, KeyedJaggedTensor) and batch.candidate is not None
    assert more.candidate.stride() == batch.candidate.stride() + 3
    assert more.user.stride() == batch.user.stride() + 3
    plain = RequestEmbeddings(config.schema, torch.device("cpu"), satisfaction=True)
    initialise(plain, seed=0)
    cut = CutEmbeddings(config.schema, torch.device("cpu"), satisfaction=True)
    cut.load_state_dict(plain.state_dict())
    (user, _, candidate), (same_user, _, same_candidate) = plain(batch), cut(more)
    assert torch.equal(user.values(), same_user.values())
    assert torch.equal(candidate.values(), same_candidate.values())
