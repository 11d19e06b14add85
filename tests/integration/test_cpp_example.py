"""The example in C++ is built, and scores as the package does in Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from easq_rec.export.manifest import Manifest
from easq_rec.export.package import Package, read_golden
from easq_rec.export.versions import current_of

SOURCE = Path(__file__).parents[2] / "examples" / "cpp"
BUILD_S = 500


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built example."""
    compiler = os.environ.get("CXX", "g++")
    for name in ("cmake", compiler):
        if shutil.which(name) is None:
            pytest.skip(f"needs {name}")
    folder = tmp_path_factory.mktemp("cpp")
    configure = ("cmake", "-S", SOURCE, "-B", folder, f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}")
    for command in (configure, ("cmake", "--build", folder)):
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning: " not in done.stderr or str(SOURCE) not in done.stderr, done.stderr
    return folder / "easq_score"


def run(program: Path, packages: Path, values: dict[str, Any], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    request = tmp_path / "request.json"
    request.write_text(json.dumps(values))
    return subprocess.run([program, packages, request], capture_output=True, text=True, timeout=60, check=False)


def golden(packages: Path) -> tuple[dict[str, list[Any]], list[torch.Tensor]]:
    """(what a client would send of the golden requests, the same as inputs)."""
    folder = current_of(packages)
    inputs = Manifest.read(folder).inputs
    columns, _ = read_golden(inputs, folder)
    sent = {one.name: c.tolist() for one, c in zip(inputs, columns, strict=True) if not one.name.endswith("_slots")}
    return sent, list(columns)


def single(packages: Path, values: dict[str, list[Any]], number: int) -> dict[str, list[Any]]:
    """One of several requests."""
    begin, count = {"requests": number}, {"requests": 1}
    found = {}
    for one in Manifest.read(current_of(packages)).inputs:
        if one.name in values:
            first = begin[one.axis]
            found[one.name] = values[one.name][first : first + count[one.axis]]
            if one.name.startswith("lengths:"):
                axis = one.name.removeprefix("lengths:")
                begin[axis], count[axis] = sum(values[one.name][:first]), sum(found[one.name])
    return found


@pytest.mark.integration
def test_it_scores_as_the_package(program: Path, exported: tuple[Path, Path], tmp_path: Path) -> None:
    packages = exported[1]
    values, columns = golden(packages)
    expected = Package(current_of(packages))(tuple(columns)).numpy()
    ends = np.cumsum([0, *values["lengths:candidates"]])
    # One request with a history and lists, the empty one, and all together.
    largest = int(np.argmax(values["lengths:history"]))
    for number in (largest, 0, None):
        sent = values if number is None else single(packages, values, number)
        done = run(program, packages, sent, tmp_path)
        assert done.returncode == 0, done.stderr
        scores = np.array(done.stdout.split(), np.float32)
        wanted = expected if number is None else expected[ends[number] : ends[number + 1]]
        assert scores.shape == wanted.shape
        np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-4)


@pytest.mark.integration
def test_what_it_cannot_score_is_one_line(program: Path, exported: tuple[Path, Path], tmp_path: Path) -> None:
    packages = exported[1]
    values = single(packages, golden(packages)[0], 1)
    for change, message in (
        ({"user_id": []}, "user_id: needs 1 entries"),
        ({"user_id": [0.5]}, "user_id: a value is not an integer of 64 bits"),
        ({"user.region": [10**6]}, "user.region: needs ids of 0 or more and less than"),
        ({"lengths:candidates": [2**33]}, "lengths:candidates: needs numbers of 0 or more"),
        ({"candidates.video_id": []}, "candidates.video_id: needs"),
    ):
        done = run(program, packages, {**values, **change}, tmp_path)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    del values["user_id"]
    assert "user_id: is missing" in run(program, packages, values, tmp_path).stderr
    assert "current.json: cannot be read" in run(program, tmp_path, values, tmp_path).stderr


@pytest.mark.integration
def test_weights_that_do_not_fit_are_refused(program: Path, exported: tuple[Path, Path], tmp_path: Path) -> None:
    """Compiled code would read beyond the end of a table that lacks a row."""
    shutil.copytree(exported[1], tmp_path / "packages")
    table = current_of(tmp_path / "packages") / "tables" / "video.row.npy"
    np.save(table, np.load(table)[:-1])
    done = run(program, tmp_path / "packages", golden(exported[1])[0], tmp_path)
    assert done.returncode == 2 and "and the code needs torch.float32[" in done.stderr
