"""`easq-rec study`, as a user calls it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from easq_rec.tools.studies.grid import ANCHORS, ENGAGING, RANDOM, SATISFYING
from tests.conftest import Warm

pytestmark = pytest.mark.integration


def study(warm: Warm, *arguments: str) -> subprocess.CompletedProcess[str]:
    return warm.run(warm.python, "-m", "easq_rec.cli", "study", *arguments, check=False)


def test_the_rank_study_runs_from_end_to_end(tmp_path: Path, warm: Warm) -> None:
    out = tmp_path / "rank"
    asked = ("rank", "--budget", "small", "--out", str(out))
    done = study(warm, *asked, "--seeds", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "6/6 " in done.stdout and "world 0: satisfaction ." in done.stdout and "undecided: No other rank" in done.stdout
    )
    results = json.loads((out / "results.json").read_text())
    assert results["command"].startswith("easq-rec study rank --seeds 1 --budget small")
    assert results["seeds"] == [0] and results["versions"]["torch"] and results["hardware"]["cores"] >= 1
    trained = {"main_only", "r=2", "r=8"}
    assert {cell["variant"] for cell in results["cells"]} == trained | {*ANCHORS}
    assert all(0 < cell["metrics"]["satisfaction_ndcg5"] < 1 for cell in results["cells"] if cell["variant"] in trained)
    means = {row["label"]: row["mean"] for row in results["rows"]}
    assert set(means) == trained | {*ANCHORS}
    assert means[SATISFYING]["satisfaction"] == 1 and means[RANDOM]["gauc"] == 0.5
    assert means[ENGAGING]["engagement"] > max(means[name]["engagement"] for name in trained)
    assert results["verdict"]["outcome"] == "undecided" and results["verdict"]["budget"] == "small"
    assert "| main_only | 1 |" in (out / "table.md").read_text()
    for name in ("frontier.png", "rank.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert not list((out / "runs").glob("*/checkpoints"))

    again = study(warm, *asked, "--seeds", "1")
    assert again.returncode == 2 and "is not empty: add --resume" in again.stderr
    resumed = study(warm, *asked, "--seeds", "1", "--resume")
    assert resumed.returncode == 0 and "6 of 6 cells are already finished" in resumed.stdout
    assert json.loads((out / "results.json").read_text())["cells"] == results["cells"]


@pytest.mark.slow
def test_the_ab_study_runs_from_end_to_end(tmp_path: Path, warm: Warm) -> None:
    out = tmp_path / "ab"
    asked = ("ab", "--budget", "small", "--seeds", "1", "--out", str(out))
    done = study(warm, *asked)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((out / "results.json").read_text())
    arms = {arm["label"]: arm["metrics"] for arm in results["ab"]["arms"]}
    assert set(arms) == {"main_only", "main_only, again", "easq"}
    assert {row["label"] for row in results["rows"]} == {*arms, *ANCHORS}
    assert all(0 < metrics["lt7"] < 7 and metrics["stay_s"] > metrics["watch_s"] > 0 for metrics in arms.values())
    assert arms["main_only"] != arms["easq"] != arms["main_only, again"]
    assert len(results["ab"]["differences"]) == 2 * 6 and results["verdict"]["budget"] == "small"
    assert all(len(by_day["active"]) == 7 for by_day in results["ab"]["days"].values())
    for name in ("ab.png", "days.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert "| main_only, again |" in (out / "table.md").read_text()
    # One cell is lost: only this cell runs again, with the same result.
    (out / "cells" / "easq--world_0.json").unlink()
    resumed = study(warm, *asked, "--resume")
    assert resumed.returncode == 0 and "5 of 6 cells are already finished" in resumed.stdout
    assert json.loads((out / "results.json").read_text())["ab"] == results["ab"]


@pytest.mark.slow
def test_the_trigger_study_runs_from_end_to_end(tmp_path: Path, warm: Warm) -> None:
    out = tmp_path / "trigger"
    done = study(warm, "trigger", "--budget", "small", "--seeds", "1", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((out / "results.json").read_text())
    paper, wide = results["settings"]
    assert (paper["watch_s"], wide["watch_s"]) == (7.0, 0.0) and wide["triggered_percent"] > 90
    assert paper["shown_permille"] == pytest.approx(wide["shown_permille"], rel=0.15)
    assert paper["response_percent"] > wide["response_percent"] and paper["overlap_percent"] < wide["overlap_percent"]
    trained = {"main_only", "easq, 7 s or 0.5", "easq, 0 s or 0.5"}
    assert {row["label"] for row in results["rows"]} == trained | {*ANCHORS}
    for name in ("trigger.png", "asked.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_the_signal_study_reads_any_built_data(tmp_path: Path, world: Path, warm: Warm) -> None:
    out = tmp_path / "signal"
    done = study(warm, "signal", "--data", str(world), "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((out / "results.json").read_text())
    assert {row["behaviour"] for row in results["rows"]} >= {"like", "follow"}
    assert results["verdict"]["remark"] is None and (out / "signal.png").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("ranks",), "Expected one of ('signal', 'worth', 'frontier'"),
        (("rank", "--seeds", "0"), "--seeds"),
        (("rank", "--recipe", "movielens"), "given together with --data"),
        (("sparsity", "--data", "."), "generates its worlds"),
        (("signal", "--data", "no/such/place"), "no/such/place"),
        (("signal", "--ray", "local"), "trains nothing"),
        (("worth", "--seeds", "2"), "reads one log"),
        (("frontier", "--schema", "schema.toml"), "to study worth"),
        (("rank", "--ray", "auto", "--jobs", "2"), "the CPUs of the Ray cluster limit"),
        (("rank", "--gpus", "1"), "given together with --ray"),
        (("rank", "--gpus", "-1", "--ray", "auto"), "0 or more"),
        (("rank", "--budget", "large"), "small or full in study rank"),
        (("map", "--world-version", "1"), "study map runs on World 2"),
        (("worth", "--world-version", "1"), "study worth runs on World 2"),
        (("map", "--data", "."), "generates its worlds"),
        (("frontier", "--world-version", "2", "--data", "."), "omitted with --data"),
    ],
)
def test_errors_are_one_line(
    arguments: tuple[str, ...], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from easq_rec.cli.main import main

    assert main(["study", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert reason in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
