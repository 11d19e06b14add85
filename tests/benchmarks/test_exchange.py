"""The benchmark of exchanges, run whole with few calls."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import exchange


def test_both_groups_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "exchange.json"
    monkeypatch.setattr(sys, "argv", ["exchange", "--rounds", "1", "--calls", "2", "--out", str(out)])
    exchange.main()
    found = json.loads(out.read_text())
    assert found["ranks"] == 2
    names = {f"{name} {size}" for name in exchange.COLLECTIVES for size in exchange.SIZES}
    assert found["collectives"].keys() == names
    for one in found["collectives"].values():
        assert one["gloo"]["ms"] > 0 and one["shared_memory"]["ms"] > 0


def test_one_rank_exchanges_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["exchange", "--ranks", "1"])
    with pytest.raises(SystemExit):
        exchange.main()
    assert "--ranks 1 is not allowed: at least 2" in capsys.readouterr().err


def test_ranks_are_averaged() -> None:
    ranks = [{"x": {"gloo": {"ms": 4, "cpu_ms": 3}, "shared_memory": {"ms": time, "cpu_ms": 1}}} for time in (1, 3)]
    assert exchange.together(ranks)["x"]["less_by"] == {"ms": 2.0, "cpu_ms": 3.0}
