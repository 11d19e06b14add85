"""What a group of one host's ranks says when something is amiss, and when it is taken.

Its ranks are threads here; that collectives find the same as gloo's is in tests/distributed/test_host_group.py.
"""

from __future__ import annotations

import datetime
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist

from easq_rec.config import Trainer
from easq_rec.training import host_group, runtime
from easq_rec.training.host_group import HostGroup, connect

TIMEOUT = datetime.timedelta(seconds=1)
ONE_HOST = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}


def on_two_ranks(*calls: Callable[[HostGroup], Any]) -> list[Any]:
    """What each rank's call returns, or the error that it raises."""
    store = dist.HashStore()
    found: list[Any] = [None, None]
    groups: list[HostGroup] = []

    def run(rank: int) -> None:
        groups.append(group := HostGroup(store, rank, 2, TIMEOUT))
        try:
            found[rank] = calls[rank](group)
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive()
    for group in groups:
        group.shutdown()
    return found


def all_reduce(group: HostGroup) -> object:
    return group.allreduce([torch.ones(3)]).wait()


def all_gather(group: HostGroup) -> object:
    return group.allgather([[torch.ones(3), torch.ones(3)]], [torch.ones(3)]).wait()


def test_ranks_that_make_other_calls() -> None:
    one, other = on_two_ranks(all_reduce, all_gather)
    assert isinstance(one, RuntimeError) and isinstance(other, RuntimeError)
    assert "rank 0 waits for 12 bytes of rank 1 in all_reduce" in str(one)
    assert "that came with 12 in all_gather: they do not make the same calls" in str(one)
    assert "rank 1 waits for 12 bytes of rank 0 in all_gather" in str(other)


def test_ranks_that_send_other_sizes() -> None:
    one, _ = on_two_ranks(all_reduce, lambda group: group.allreduce([torch.ones(5)]).wait())
    assert "rank 0 waits for 12 bytes of rank 1 in all_reduce, but that came with 20 in all_reduce" in str(one)


def test_a_rank_that_ends() -> None:
    """It is noticed as such: after the timeout, the error would be that the rank did not come."""
    one, _ = on_two_ranks(all_reduce, HostGroup.shutdown)
    assert str(one) == "rank 1 has ended while rank 0 was with it in all_reduce"


def test_a_rank_that_does_not_come() -> None:
    one, _ = on_two_ranks(all_reduce, lambda group: time.sleep(2))
    assert str(one) == "rank 1 did not come to all_reduce within 1 s, where rank 0 waits"


def test_a_group_that_has_failed_stays_so() -> None:
    """What came after it would be taken for something else."""

    def twice(group: HostGroup) -> str:
        first = group.allreduce([torch.ones(3)])
        second = group.allreduce([torch.ones(3)])
        with pytest.raises(RuntimeError):
            first.wait()
        with pytest.raises(RuntimeError) as error:
            second.wait()
        return str(error.value)

    one, _ = on_two_ranks(twice, all_gather)
    assert "they do not make the same calls" in one


def test_a_rank_that_does_not_come_at_all() -> None:
    with pytest.raises(RuntimeError, match=r"ranks 1, 2 did not come to rank 0 within 0\.1 s"):
        connect(dist.HashStore(), 0, 3, 0.1)


@pytest.mark.parametrize(
    ("rows", "splits", "problem"),
    [(3, [], "all_to_all_single of 3 rows: 2 ranks have no equal share"), (3, [1, 1], r"\[1, 1\] does not add up")],
)
def test_rows_that_cannot_be_shared(rows: int, splits: list[int], problem: str) -> None:
    one, _ = on_two_ranks(
        lambda group: group.all_to_all_single(torch.ones(rows), torch.ones(rows), splits, splits),
        lambda group: None,
    )
    with pytest.raises(ValueError, match=problem):
        raise one


def test_a_result_that_does_not_lie_in_one_piece() -> None:
    one, _ = on_two_ranks(lambda group: group.allreduce([torch.ones(4, 4).T[:2]]), lambda group: None)
    with pytest.raises(ValueError, match=r"all_reduce writes into a tensor of shape \(2, 4\) that is not contiguous"):
        raise one


@pytest.mark.parametrize(
    ("environment", "config", "backend"),
    [
        (ONE_HOST, {}, "host"),
        (ONE_HOST, {"cpu_backend": "gloo"}, "gloo"),
        ({**ONE_HOST, "LOCAL_WORLD_SIZE": "2"}, {}, "gloo"),
        ({"WORLD_SIZE": "4"}, {}, "gloo"),
        ({}, {}, "gloo"),
        ({"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, {}, "gloo"),
    ],
)
def test_when_it_is_taken(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], config: dict[str, Any], backend: str
) -> None:
    for name in ONE_HOST:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert runtime._backend(Trainer(**config), torch.device("cpu")) == backend


@pytest.mark.parametrize("what", ["another system", "a sandbox"])
def test_where_memory_cannot_be_shared_there_is_gloo(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def refuse(name: str, flags: int) -> int:
        raise PermissionError(name)

    for name, value in ONE_HOST.items():
        monkeypatch.setenv(name, value)
    assert host_group.available()
    if what == "a sandbox":
        monkeypatch.setattr(os, "memfd_create", refuse)
    else:
        monkeypatch.delattr(os, "memfd_create")
    assert not host_group.available()


def test_large_sums_of_many_ranks_are_gloos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_group, "ADDED_BY_EACH", 1)
    monkeypatch.setattr(host_group, "SMALL", 12)

    def add(group: HostGroup) -> tuple[bool, bool, float]:
        found = torch.ones(4)
        small, large = group.allreduce([torch.ones(3)]), group.allreduce([found])
        large.wait()
        return isinstance(small, host_group._HostWork), isinstance(large, host_group._HostWork), found.sum().item()

    assert on_two_ranks(add, add) == [(True, False, 8.0)] * 2


def test_a_gpu_has_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ONE_HOST.items():
        monkeypatch.setenv(name, value)
    assert runtime._backend(Trainer(), torch.device("cuda")) == "cpu:gloo,cuda:nccl"


def test_no_collective_is_inherited() -> None:
    """A method that a Python class has from torch's would hold the interpreter's lock while it waits for gloo's."""
    others = {
        *("abort", "bound_device_id", "boxed", "get_group_store", "group_desc", "group_name", "merge_remote_group"),
        *("name", "rank", "set_timeout", "size", "split_group", "unbox", "use_pg_for_symm_mem_rendezvous"),
    }
    methods = {name for name in dir(dist.ProcessGroup) if name.islower() and not name.startswith("_")} - others
    assert methods > {"broadcast", "scatter", "barrier"}
    assert {*methods, "_allgather_base", "_reduce_scatter_base"} - set(vars(HostGroup)) == set()
