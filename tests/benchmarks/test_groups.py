"""The benchmark of comparison groups counts the pairs that training compares."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.groups import ROWS, USER, compared, table
from easq_rec.config.command_line import parse_config
from easq_rec.config.recipes import kuairand_schema
from easq_rec.data.dataset import split
from tests.datasets.test_kuairand import prepare, some_impressions, write_raw

WEIGHTS = {outcome.name: outcome.weight for outcome in kuairand_schema().outcomes}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kuairand")
    prepare.prepare(write_raw(folder / "raw", some_impressions(1_000)), folder / "out", window=300, reveal=0.5)
    return folder / "out"


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_options_of_the_trainer(name: str) -> None:
    config = parse_config(shlex.split(ROWS[name]), prog="test")
    assert config.losses.pointwise.weight == 1
    assert ("user" in name) == (config.losses.groups == "user")
    assert ("order" in name) == (config.data.user_requests > 1)
    assert ("L_dense" in name) == (config.losses.dense.weight > 0)


def loop(rows: list[dict[str, Any]], key: str) -> tuple[int, int, int]:
    """(pairs of different utility in the groups of a column, candidates that are in one, candidates)."""
    groups: dict[int, list[float]] = {}
    for row in rows:
        utilities = [
            sum(weight * candidate[name] for name, weight in WEIGHTS.items()) for candidate in row["candidates"]
        ]
        groups.setdefault(row[key], []).extend(utilities)
    pairs = sum(a != b for group in groups.values() for a, b in itertools.combinations(group, 2))
    inside = sum(len(group) for group in groups.values() if len(set(group)) > 1)
    return pairs, inside, sum(map(len, groups.values()))


def test_pairs_equal_a_loop_over_the_training_requests(data: Path) -> None:
    period, _ = split(data / "requests", 0.2)
    rows = [row for row in pq.read_table(data / "requests").to_pylist() if row["timestamp_ms"] < period.end_ms]
    options = "kuairand_main_only --losses.main.weight 0.3 --trainer.batch-size 4096"
    pairs, inside, total = loop(rows, "request_id")
    found = compared(options, data)
    assert found == {"pairs": pairs, "in_pairs": round(inside / total, 4)}
    # All requests of a user are in one batch. A user with more than 64 candidates has several groups.
    across, _, _ = loop(rows, "user_id")
    by_user = compared(f"{options} {USER}", data)
    assert pairs < by_user["pairs"] <= across
    assert compared("kuairand_main_only", data) == {"pairs": 0, "in_pairs": 0.0}


def test_the_table_has_differences_to_the_first_row() -> None:
    value = {"value": 0.7, "low": 0.6, "high": 0.8}
    row: dict[str, Any] = {"pairs": 1_000, "in_pairs": 0.25, "cpu_seconds": 9.4, "auc": value, "gauc": value}
    minus = {"auc": {"value": -0.01, "low": -0.02, "high": 0.0}}
    lines = table({"a": row, "b": row | {"difference": minus}}).splitlines()
    assert lines[2] == "| a | 1,000 | 25% | 0.7000 | 0.7000 | 9 |"
    assert lines[3] == "| b | 1,000 | 25% | 0.7000 (-0.0100 [-0.0200, +0.0000]) | 0.7000 | 9 |"
