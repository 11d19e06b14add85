"""Two ranks that share a batch train like one rank with the whole batch, except for rounding.

The test uses real processes, real collectives, the train pipeline and both optimizers: `worker_equivalence.py` trains
every case with one rank and, under torchrun, with two. The test compares losses (summed over the ranks), pair counts
and dense gradients of every step, and all dense parameters, tables and moments after it.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from easq_rec.training.optim import PATHWAY, parameter_group
from tests.conftest import Warm
from tests.distributed.worker_equivalence import HALF, SHARDINGS, STEPS, cases

pytestmark = pytest.mark.distributed

WORKER = Path(__file__).with_name("worker_equivalence.py")
CASES = tuple(cases())

Results = dict[str, Any]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> dict[int, Results]:
    """The results by number of ranks."""
    directory = tmp_path_factory.mktemp("equivalence")
    for ranks, launcher in ((1, (warm.python,)), (2, warm.torchrun(2))):
        warm.run(*launcher, str(WORKER), str(directory / f"{ranks}.pt"))
    return {ranks: torch.load(directory / f"{ranks}.pt", weights_only=True) for ranks in (1, 2)}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], what: str, atol: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        message = partial("{} {}: {}".format, what, name)
        # A router standardises its inputs, which multiplies their rounding errors.
        scale = 10 if ".router." in name else 1
        torch.testing.assert_close(found[name], value, rtol=1e-5 * scale, atol=atol * scale, msg=message)


def resting_tables(case: str, tables: Collection[str], step: int) -> set[str]:
    """Tables without updates: those that only the satisfaction tower reads, if the case has no answers and no evidence
    or has not made an aligned step yet."""
    untaught = case == "slate_softmax, no answers" or ("resting" in case and step == 0)
    return {table for table in tables if table.startswith("satisfaction_")} if untaught else set()


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_train_like_one(results: dict[int, Results], case: str) -> None:
    one, two = results[1][case], results[2][case]
    assert_same(two["initial"], one["initial"], "initial", 0.0)
    for step in range(STEPS):
        expected, found = one["steps"][step], two["steps"][step]
        assert_same(found["pairs"], expected["pairs"], f"step {step}: pairs", 0.0)
        assert_same(found["losses"], expected["losses"], f"step {step}: loss", 1e-5)
        # Ranks pack other requests into a row of tokens, so sums are rounded in another order.
        assert_same(found["gradients"], expected["gradients"], f"step {step}: gradient of", 3e-5)
        assert_same(found["parameters"], expected["parameters"], f"step {step}: parameter", 1e-5)
        assert_same(found["moments"], expected["moments"], f"step {step}: moment of", 1e-6)
        moved = {name for name, moment in found["moments"].items() if (moment > 0).any()}
        assert len(moved) == len(two["shards"]) - len(resting_tables(case, two["shards"], step))


@pytest.mark.parametrize("case", CASES)
def test_every_case_trains_with_its_losses(results: dict[int, Results], case: str) -> None:
    """Comparing one and two ranks shows little unless a case has pairs, gradients and tables that change."""
    one = results[1][case]
    last = one["steps"][-1]
    unanswered = "no answers" in case or "main_only" in case
    assert all(int(step["pairs"]["main"]) > 5 for step in one["steps"])
    engagement = {"main"} if "paper" in case else {"pointwise", "main"}
    for number, step in enumerate(one["steps"]):
        rests = "resting" in case and number % 2 == 0
        seldom = "seldom" in case and number % 2 == 0
        assert (int(step["pairs"].get("answered", 0)) == 0) == (unanswered or rests or seldom)
        assert not rests or set(step["losses"]) == engagement | {"whole"}
    expected = engagement | (set() if unanswered else {"direct" if "direct" in case else "satisfaction"})
    if "paper" in case or "slate" in case or "guarded" in case or "weighed" in case:
        expected |= set() if unanswered else {"dpo"}
    if "easq" in case or "slate" in case or "guarded" in case or "weighed" in case:
        expected |= {"dense"}
    if "easq" in case or "guarded" in case or "weighed" in case:
        expected |= {"evidence"}
    if "guarded" in case:
        expected |= {"policy_evidence", "reward"}
    aligned = one["steps"][1]
    assert {name for name, value in aligned["losses"].items() if value} == expected | {"whole"}
    moved = {name for name, value in last["parameters"].items() if not torch.equal(value, one["initial"][name])}
    resting = set(one["initial"]) - moved
    # A head's bias has no gradient in pairwise losses. Without answers only L_evidence moves the pathway: its tower.
    still = resting_tables(case, one["shards"], STEPS)
    assert {name.split(".")[-2] for name in resting if ".embeddings." in name} == still
    # Statistics of float features are fitted before training, and not trained.
    resting = {name for name in resting if "_numbers." not in name and ".ids." not in name}
    if unanswered:
        resting = {name for name in resting if parameter_group(name) not in PATHWAY}
    assert not [name for name in resting if "head.bias" not in name and "satisfaction" not in name]


def test_momentum_does_not_move_the_adapters(results: dict[int, Results]) -> None:
    """Only the second of three aligned steps has answers, on one rank and on two."""
    for ranks in (1, 2):
        first, second, third = (
            {name: value for name, value in step["parameters"].items() if ".lora_" in name}
            for step in results[ranks]["easq, seldom answered"]["steps"]
        )
        assert first and not any(torch.equal(value, first[name]) for name, value in second.items())
        assert all(torch.equal(value, second[name]) for name, value in third.items())


def test_ids_lose_their_rows_to_others(results: dict[int, Results]) -> None:
    """The cases of admitted ids reset rows in every step after the first, on both ranks alike."""
    for situation in ("shared", "one rank has nothing"):
        one, two = (results[ranks][f"easq with admitted ids, {situation}"]["resets"] for ranks in (1, 2))
        assert one == two
        assert not any(one[0].values())
        assert all(len(step["video"]) > 3 for step in one[1:])


@pytest.mark.parametrize(("precision", "most"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_half_precision_messages_round_the_gradients(results: dict[int, Results], precision: str, most: float) -> None:
    """In the first step, gradients on two ranks differ from the exact ones, by no more than the format's precision."""
    exact, found = (results[2][case]["steps"][0] for case in ("easq, shared", precision))
    assert_same(found["pairs"], exact["pairs"], "pairs", 0.0)
    strayed = [
        float((found["gradients"][name] - value).norm() / value.norm())
        for name, value in exact["gradients"].items()
        if value.norm() > 1e-6
    ]
    assert len(strayed) > 30 and most / 200 < max(strayed) < most
    # One rank sends no messages, so nothing is rounded.
    alone = results[1]
    assert_same(alone[precision]["steps"][-1]["parameters"], alone["easq, shared"]["steps"][-1]["parameters"], "", 0.0)


def test_tables_may_be_stored_in_half_precision(results: dict[int, Results]) -> None:
    """Only the values of tables in FP16 are rounded, on one rank and on two."""
    exact = results[1]["easq, shared"]
    one, two = (results[ranks]["half"]["steps"][-1]["parameters"] for ranks in (1, 2))
    tables = {name: name.split(".")[-2] for name in one if ".embeddings." in name}
    assert set(HALF) < set(tables.values())
    for name, table in tables.items():
        for found in (one[name], two[name]):
            assert bool((found.half() == found).all()) == (table in HALF), name
        # A sum in another order may round to a neighbouring FP16 number.
        torch.testing.assert_close(two[name], one[name], rtol=2e-3, atol=1e-4)
        torch.testing.assert_close(one[name], exact["steps"][-1]["parameters"][name], rtol=0, atol=5e-3)


def test_tables_are_split_as_the_plan_forces(results: dict[int, Results]) -> None:
    """The plan is the forced one, and row-wise and column-wise tables have more than one shard."""
    for case, sharding, split in (
        ("easq, shared", "rows", {"video": [[0, 0], [32, 0]], "tag": [[0, 0], [0, 128]]}),
        ("easq, sharded by columns", "columns", {"author": [[0, 0], [4, 0]], "user": [[0, 0], [0, 128]]}),
    ):
        found = results[2][case]
        plan = {table: kind for table, kind, _ in found["plan"]}
        tables = set(plan)
        assert {f"satisfaction_{name}" for name in ("video", "author", "tag")} & tables or "paper" in case
        assert plan == {table: kind for table, kind in SHARDINGS[sharding].items() if table in tables}
        for table, offsets in split.items():
            assert found["shards"][table] == offsets
    # No plan puts all tables on one rank.
    assert all(len({ranks for _, _, ranks in result["plan"]}) > 1 for result in results[2].values())
