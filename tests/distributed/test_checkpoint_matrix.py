"""A checkpoint that 1, 2 or 4 ranks save under any sharding plan loads on 1, 2 or 4 ranks under any plan.

The ranks are real processes under torchrun: `worker_checkpoint.py` trains and saves with every number of ranks, then
loads the checkpoints, with --slow all of them under every plan, otherwise a third of these pairs. Tables, network and
AdamW's state must equal the saved ones bit for bit. So must Adagrad's moments, unless the columns of the table are
split in another way: then they are compared with a loop over columns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from easq_rec.training.checkpoint.adagrad_reshard import Columns, columns_of, resplit
from tests.conftest import Warm
from tests.distributed.worker_checkpoint import (
    HALF,
    RANKS,
    SEQUENCE,
    SPLIT,
    STATES,
    State,
    config_of,
    in_the_third,
)
from tests.distributed.worker_equivalence import WIDE

WORKER = Path(__file__).with_name("worker_checkpoint.py")
PAIRS = [
    pytest.param(
        source,
        target,
        id="{}-{}-on-{}-{}".format(*source, *target),
        marks=[] if in_the_third(source, target) else pytest.mark.slow,
    )
    for source in STATES
    for target in STATES
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, warm: Warm, pytestconfig: pytest.Config) -> Path:
    """All states, saved and then loaded."""
    directory = tmp_path_factory.mktemp("matrix")
    for what in ("save", "load-all" if pytestconfig.getoption("--slow") else "load"):
        for ranks in RANKS:
            warm.run(*warm.torchrun(ranks), str(WORKER), what, str(directory))
    return directory


def state(directory: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(directory / f"{name}.pt", weights_only=True)
    return found


@pytest.mark.distributed
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_every_plan_loads_the_checkpoints_of_every_plan(directory: Path, source: State, target: State) -> None:
    (from_ranks, from_plan), (ranks, plan) = source, target
    saved = state(directory, f"{from_ranks}-{from_plan}")
    loaded = state(directory, f"{ranks}-{plan}-from-{from_ranks}-{from_plan}")
    for part in ("tables", "dense"):
        assert_equal(loaded[part], saved[part])
    assert_equal(loaded["adamw"], saved["adamw"])
    assert loaded["moments"].keys() == saved["moments"].keys()
    for name, moment in loaded["moments"].items():
        before = saved["moments"][name]
        if moment.shape == before.shape:
            assert torch.equal(moment, before), name
        else:
            assert "columns" in (plan, from_plan)
            rows = min(len(moment), len(before))
            expected = by_column(before**2, len(before) // rows, len(moment) // rows)
            torch.testing.assert_close(moment**2, expected, rtol=1e-5, atol=1e-9, msg=name)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys() and found
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def by_column(moments: Tensor, before: int, after: int) -> Tensor:
    """The moments of each new part: the mean, over its columns, of the moment of the old part that had the column."""
    old = moments.view(before, -1)
    per_column = torch.stack([old[column * before // WIDE] for column in range(WIDE)])
    return torch.cat([part.mean(0) for part in per_column.chunk(after)])


def test_the_saved_states_are_trained_and_have_the_forced_plans(directory: Path) -> None:
    """All tables have been updated, the plans are the forced ones, and the wide tables are split."""
    tables = {
        table.name for table in (*config_of("tables").schema.tables, *config_of("tables").schema.satisfaction_tables)
    }
    for ranks, plan in STATES:
        found = state(directory, f"{ranks}-{plan}")
        kinds = {table: kind for table, kind, _ in found["plan"]}
        assert kinds.keys() == tables
        split = {"rows": (SEQUENCE, "row_wise"), "columns": (SPLIT, "column_wise"), "tables": ((), "")}[plan]
        assert {table for table in tables if kinds[table] != "table_wise"} == set(split[0])
        assert all(kinds[table] == split[1] for table in split[0])
        rounded = {name.split(".")[-2] for name, value in found["tables"].items() if (value.half() == value).all()}
        assert rounded == set(HALF)
        assert all((moment > 0).any() for moment in found["moments"].values())
        rows = {name.split(".")[-2]: len(value) for name, value in found["tables"].items()}
        moments = {name.removesuffix(".momentum1"): len(value) for name, value in found["moments"].items()}
        parts = {table: moments[table] // rows[table] for table in tables}
        assert {table for table in tables if parts[table] == 2} == (set(SPLIT) if plan == "columns" else set())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([(0, 256)], [(0, 128), (128, 128)]),
        ([(0, 128), (128, 128)], [(0, 256)]),
        ([(0, 64), (64, 192)], [(0, 128), (128, 128)]),
        ([(0, 86), (86, 85), (171, 85)], [(0, 128), (128, 128)]),
        ([(0, 128), (128, 128)], [(0, 128), (128, 128)]),
    ],
)
def test_resplitting_equals_a_loop_over_columns(before: Columns, after: Columns) -> None:
    rows = 5
    moments = torch.rand(len(before) * rows, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = []
    for first, width in after:
        for row in range(rows):
            total = 0.0
            for column in range(first, first + width):
                (part,) = (index for index, (start, size) in enumerate(before) if start <= column < start + size)
                total += float(moments[part * rows + row])
            expected.append(total / width)
    torch.testing.assert_close(resplit(moments, before, after), torch.tensor(expected, dtype=torch.float64))


def test_moments_of_a_grid_are_refused() -> None:
    """If parts have neither all rows nor all columns, the order of their moments is not known."""
    parts = [((0, 0), (4, 8)), ((4, 0), (4, 8)), ((0, 8), (4, 8)), ((4, 8), (4, 8))]
    with pytest.raises(ValueError, match=r"video: its rows as well as its columns are split"):
        columns_of("video", parts, 8)
    assert columns_of("video", parts[:2], 8) == [(0, 8)], "a split of rows only is accepted"
