"""`easq-rec study`, as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]


def study(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "easq_rec.cli", "study", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_rank_study_from_end_to_end(tmp_path: Path, environment: dict[str, str]) -> None:
    out = tmp_path / "rank"
    asked = ("rank", "--budget", "small", "--out", str(out))
    done = study(environment, *asked, "--seeds", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "3/3 " in done.stdout and "world 0: satisfaction ." in done.stdout and "undecided: No other rank" in done.stdout
    )
    results = json.loads((out / "results.json").read_text())
    assert results["command"].startswith("easq-rec study rank --seeds 1 --budget small")
    assert results["seeds"] == [0] and results["versions"]["torch"] and results["hardware"]["cores"] >= 1
    assert {cell["variant"] for cell in results["cells"]} == {"main_only", "r=2", "r=8"}
    assert all(0 < cell["metrics"]["satisfaction_ndcg5"] < 1 for cell in results["cells"])
    assert {row["label"] for row in results["rows"]} == {"main_only", "r=2", "r=8"}
    assert results["verdict"]["outcome"] == "undecided" and results["verdict"]["budget"] == "small"
    assert "| main_only | 1 |" in (out / "table.md").read_text()
    for name in ("frontier.png", "rank.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert not list((out / "runs").glob("*/checkpoints"))

    again = study(environment, *asked, "--seeds", "1")
    assert again.returncode == 2 and "is not empty: add --resume" in again.stderr
    resumed = study(environment, *asked, "--seeds", "1", "--resume")
    assert resumed.returncode == 0 and "3 of 3 cells are finished already" in resumed.stdout
    assert json.loads((out / "results.json").read_text())["cells"] == results["cells"]


def test_the_signal_study_reads_any_built_data(tmp_path: Path, world: Path, environment: dict[str, str]) -> None:
    out = tmp_path / "signal"
    done = study(environment, "signal", "--data", str(world), "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((out / "results.json").read_text())
    assert {row["behaviour"] for row in results["rows"]} >= {"like", "follow"}
    assert results["verdict"]["remark"] is None and (out / "signal.png").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("ranks",), "one of signal, frontier"),
        (("rank", "--seeds", "0"), "--seeds"),
        (("rank", "--recipe", "movielens"), "along with --data"),
        (("sparsity", "--data", "."), "generates its worlds"),
        (("signal", "--data", "no/such/place"), "no/such/place"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: tuple[str, ...], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from easq_rec.cli import main

    assert main(["study", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert reason in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
