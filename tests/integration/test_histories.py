"""Commands on histories by reference do what they do on the same data with histories in the requests."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from easq_rec.config import World
from easq_rec.tools.simulation.world import generate
from tests.integration.conftest import WORLD, metrics

Train = Callable[..., subprocess.CompletedProcess[str]]
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def reference(call: Call, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world with histories by reference."""
    out = tmp_path_factory.mktemp("reference") / "data"
    printed = call("data", "convert", world, "--out", out, "--histories", "reference").stdout
    assert f"{WORLD.requests:,} requests" in printed and "MiB before" in printed
    return out


@pytest.mark.integration
def test_training_evaluating_and_scoring_are_the_same(
    train: Train, call: Call, world: Path, reference: Path, tmp_path: Path
) -> None:
    found = []
    for directory in (world, reference):
        run = tmp_path / directory.parent.name
        train(run, "--trainer.max-steps", "8", "--data.path", str(directory))
        call("evaluate", "--run", run, "--resamples", "20")
        call("score", "--run", run, "--input", directory, "--output", run / "scores.parquet")
        losses = [{name: value for name, value in line.items() if "loss" in name} for line in metrics(run)]
        assert len(losses) == 8
        found.append((losses, pq.read_table(run / "evaluation.parquet"), pq.read_table(run / "scores.parquet")))
    assert found[0] == found[1]


@pytest.mark.integration
def test_inspecting_and_counting_are_the_same(call: Call, world: Path, reference: Path, tmp_path: Path) -> None:
    reports = []
    for directory in (world, reference):
        out = tmp_path / directory.parent.name
        lines = call("data", "inspect", directory, "--out", out).stdout.splitlines()
        reports.append(
            (
                [line for line in lines if str(directory) not in line and "MiB" not in line and str(out) not in line],
                (out / "schema.toml").read_text().replace(str(directory), ""),
            )
        )
    assert reports[0] == reports[1] and len(reports[0][0]) > 30
    call("data", "inspect", reference, "--out", tmp_path / "again", "--schema", out / "schema.toml")
    # Counts are added to the candidates; references and the folder histories/ stay.
    generate(World(requests=300, users=40, videos=80, density=500.0), tmp_path / "plain", counts=False)
    call("data", "convert", tmp_path / "plain", "--out", tmp_path / "referring", "--histories", "reference")
    for name in ("plain", "referring"):
        call("data", "counts", tmp_path / name, "--out", tmp_path / f"{name}-counted", "--recipe", "quickstart")
    call("data", "convert", tmp_path / "referring-counted", "--out", tmp_path / "back", "--histories", "inline")
    assert pq.read_table(tmp_path / "back" / "requests") == pq.read_table(tmp_path / "plain-counted" / "requests")
