"""How the ranks of one host share its cores."""

from __future__ import annotations

import itertools
import os
import threading

import pytest

from easq_rec.config import TrainerConfig
from easq_rec.training.cores import share
from easq_rec.training.process import running


@pytest.mark.parametrize(("cores", "ranks"), [(2, 2), (8, 2), (7, 3), (96, 8), (5, 5), (4, 1)])
def test_every_core_belongs_to_exactly_one_rank(cores: int, ranks: int) -> None:
    usable = {3 * core + 1 for core in range(cores)}
    shares = [share(usable, rank, ranks, 1) for rank in range(ranks)]
    assert sorted(core for mine in shares for core in mine) == sorted(usable)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    # The cores of a rank are adjacent, because adjacent cores share caches.
    assert all(max(one) < min(other) for one, other in itertools.pairwise(shares))


@pytest.mark.parametrize(("cores", "ranks", "threads"), [(2, 4, 1), (8, 2, 8), (7, 2, 4)])
def test_too_few_cores_are_shared_by_all_ranks(cores: int, ranks: int, threads: int) -> None:
    usable = set(range(cores))
    assert all(share(usable, rank, ranks, threads) == usable for rank in range(ranks))


@pytest.mark.parametrize("pin", [True, False])
def test_a_rank_is_pinned_to_its_cores(monkeypatch: pytest.MonkeyPatch, pin: bool) -> None:
    """The rank and the threads that it starts are pinned until the run ends, if `pin_cores` is set."""
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("needs two cores")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    found: list[set[int]] = []
    with running(TrainerConfig(device="cpu", threads=1, pin_cores=pin)):
        thread = threading.Thread(target=lambda: found.append(os.sched_getaffinity(0)))
        thread.start()
        thread.join()
    assert found == [set(sorted(before)[len(before) // 2 :]) if pin else before]
    assert os.sched_getaffinity(0) == before
