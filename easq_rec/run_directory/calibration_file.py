"""RUN_DIR/calibration.json: the maps that calibrate the predicted outcomes of one checkpoint.

A map corrects the errors of the weights that it was fitted with. It is used with no other checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from easq_rec import json_file
from easq_rec.config.serialization import load_json, to_dict
from easq_rec.errors import UserError
from easq_rec.evaluation.calibration_map import CalibrationMethod, Isotonic, Temperature
from easq_rec.run_directory.checksums import digest_of
from easq_rec.run_directory.paths import CheckpointDirectory, RunDirectory
from easq_rec.run_directory.whole_file import replace

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class OutcomeCalibration:
    """The content of the file."""

    format: int = FORMAT
    method: CalibrationMethod
    step: int
    """Training steps of the checkpoint."""
    checkpoint: str
    """`digest_of` the checkpoint."""
    from_ms: int
    until_ms: int
    """Timestamps of the requests that the maps were fitted to: the first is included, the last is not."""
    candidates: int
    """Number of candidates that they were fitted to."""
    maps: dict[str, Temperature | Isotonic]
    """By outcome. An outcome without a map keeps its predictions."""


def write_calibration(run_dir: Path, calibration: OutcomeCalibration) -> Path:
    """Writes the file under a temporary name, publishes it by a rename, and returns its path."""
    path = RunDirectory(run_dir).calibration
    replace(path, json_file.text(to_dict(calibration), indent=1) + "\n")
    return path


def require_calibration(run_dir: Path) -> None:
    """
    Raises:
        UserError: there is no file.
    """
    path = RunDirectory(run_dir).calibration
    if not path.is_file():
        raise UserError(f"--calibrated: {run_dir} has no {path.name}: {_remedy(run_dir)}first")


def _remedy(run_dir: Path) -> str:
    return f"run `easq-rec calibrate --run {run_dir}` "


def read_calibration(run_dir: Path, checkpoint: CheckpointDirectory) -> OutcomeCalibration:
    """The maps of a checkpoint.

    Raises:
        UserError: there is no file, it cannot be read, or its maps belong to another checkpoint.
    """
    path, remedy = RunDirectory(run_dir).calibration, _remedy(run_dir)
    require_calibration(run_dir)
    found = load_json(OutcomeCalibration, path, f"the {path.name} of a run")
    if found.format != FORMAT:
        raise UserError(f"{path} has format {found.format}, this version reads format {FORMAT}: {remedy}again")
    if found.checkpoint != digest_of(checkpoint):
        raise UserError(
            f"--calibrated: the maps in {path} were fitted to another checkpoint (step {found.step:,}) than "
            f"{checkpoint.path.name}: {remedy}again, with the same --best"
        )
    return found
