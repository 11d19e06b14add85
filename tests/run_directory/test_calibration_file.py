"""calibration.json is read back, and only for the checkpoint that its maps were fitted to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from easq_rec.evaluation.calibration_map import Isotonic, Temperature
from easq_rec.run_directory.calibration_file import OutcomeCalibration, read_calibration, write_calibration
from easq_rec.run_directory.checksums import checksums, digest_of, write_checksums
from easq_rec.run_directory.paths import CheckpointDirectory, RunDirectory


def checkpoint(run_dir: Path, step: int, content: str) -> CheckpointDirectory:
    """A checkpoint of one file."""
    found = RunDirectory(run_dir).checkpoint(step)
    found.path.mkdir(parents=True)
    (found.path / "weights").write_text(content)
    write_checksums(found, checksums(found, rank=0))
    return found


def calibration(of: CheckpointDirectory) -> OutcomeCalibration:
    maps = {"like": Temperature(scale=0.9, bias=-0.1), "watch_s": Isotonic(at=(0.1, 2.5), to=(0.2, 0.2))}
    return OutcomeCalibration(
        method="isotonic", step=of.step, checkpoint=digest_of(of), from_ms=10, until_ms=20, candidates=7, maps=maps
    )


def test_maps_are_read_back(tmp_path: Path) -> None:
    ours = checkpoint(tmp_path, 5, "a")
    path = write_calibration(tmp_path, calibration(ours))
    assert path == tmp_path / "calibration.json" and [file.name for file in tmp_path.glob("*.partial")] == []
    assert read_calibration(tmp_path, ours) == calibration(ours)


def test_maps_of_another_checkpoint_are_refused(tmp_path: Path) -> None:
    """Also of one with the same step: a run may have been trained again in its directory."""
    ours, later = checkpoint(tmp_path, 5, "a"), checkpoint(tmp_path, 9, "b")
    again = checkpoint(tmp_path / "again", 5, "c")
    write_calibration(tmp_path, calibration(ours))
    for other in (later, again):
        with pytest.raises(ValueError, match=rf"another checkpoint \(step 5\) than {other.path.name}: run `easq-rec"):
            read_calibration(tmp_path, other)


def test_a_missing_or_foreign_file_names_the_remedy(tmp_path: Path) -> None:
    ours = checkpoint(tmp_path, 5, "a")
    with pytest.raises(ValueError, match=rf"has no calibration.json: run `easq-rec calibrate --run {tmp_path}` first"):
        read_calibration(tmp_path, ours)
    path = write_calibration(tmp_path, calibration(ours))
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(ValueError, match=r"has format 99, this version reads format 1: run `easq-rec calibrate"):
        read_calibration(tmp_path, ours)
    del content["method"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"is not the calibration.json of a run:\n  method"):
        read_calibration(tmp_path, ours)
