"""How the ranks of one host share its cores."""

from __future__ import annotations

import itertools
import os
import threading

import pytest

from easq_rec.config import TrainerConfig
from easq_rec.errors import UserError
from easq_rec.training import process
from easq_rec.training.cores import share, threads
from easq_rec.training.launch import Launch


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
    monkeypatch.setattr(process, "launch", lambda: Launch(local_rank=1, local_world_size=2))
    found: list[set[int]] = []
    with process.running(TrainerConfig(device="cpu", threads=1, pin_cores=pin)):
        thread = threading.Thread(target=lambda: found.append(os.sched_getaffinity(0)))
        thread.start()
        thread.join()
    assert found == [set(sorted(before)[len(before) // 2 :]) if pin else before]
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(("given", "expected"), [("3", 3), ("4,2", 4), (" 4 , 2,1", 4)])
def test_the_launcher_sets_the_threads(monkeypatch: pytest.MonkeyPatch, given: str, expected: int) -> None:
    """OMP_NUM_THREADS may list a number per level of nesting."""
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert threads(Launch(local_world_size=2)) == expected


@pytest.mark.parametrize("given", [None, "", " "])
def test_without_a_setting_the_ranks_share_the_cores(monkeypatch: pytest.MonkeyPatch, given: str | None) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    cores = len(os.sched_getaffinity(0))
    assert threads(Launch()) == cores and threads(Launch(local_world_size=2 * cores)) == 1


@pytest.mark.parametrize("given", ["many", "0", "-2", "4,", "4;2", "2.0"])
def test_other_settings_are_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    with pytest.raises(UserError, match=r"OMP_NUM_THREADS='.*' is not allowed: a number of threads, or a list"):
        threads(Launch())
