"""What arguments and paths alone can tell of a command about a trained run, before torch is imported."""

from __future__ import annotations

import math
from pathlib import Path

from easq_rec.config import Config
from easq_rec.data.presence import is_url, no_requests, require_folder
from easq_rec.errors import UserError
from easq_rec.run_directory.calibration_file import require_calibration
from easq_rec.run_directory.checkpoint_files import require_checkpoint
from easq_rec.run_directory.config_file import load_config


def check_run(run_dir: Path, *, best: bool, fuse: float | None = None, calibrated: bool = False) -> Config:
    """Returns the config of a run that can be served.

    Raises:
        UserError: the directory is not that of a run, it has no such checkpoint or no maps, or the run cannot be fused.
    """
    config = load_config(run_dir)
    check_fuse(config, run_dir, fuse)
    require_checkpoint(run_dir, best=best)
    if calibrated:
        require_calibration(run_dir)
    return config


def check_fuse(config: Config, run_dir: Path, fuse: float | None) -> None:
    """
    Raises:
        UserError: the run has no satisfaction tower to fuse with, or the weight is no number.
    """
    if fuse is not None and not math.isfinite(fuse):
        raise UserError(f"--fuse {fuse}: must be a finite number")
    if fuse is not None and config.model.satisfaction is None:
        raise UserError(
            f"--fuse {fuse:g}: the run {run_dir} (recipe {config.recipe!r}) has no satisfaction tower to fuse with: "
            "omit --fuse, or use a run of an aligned recipe such as easq"
        )


def check_data(config: Config, data: str | None) -> None:
    """
    Args:
        data: the directory or URL that was given; None: that of the training.

    Raises:
        UserError: it does not exist, or has no requests.
    """
    directory = data or config.data.path
    if directory is None or is_url(directory):
        return
    if data is None and not Path(directory).is_dir():
        raise UserError(f"the data of the run, {directory}: no such directory; say with --data where they are now")
    require_folder("--data", directory)
    if not Path(directory, "requests").is_dir():
        raise no_requests(directory)


def check_outcomes(config: Config, run_dir: Path, *, outcomes: bool, calibrated: bool) -> None:
    """
    Raises:
        UserError: the run predicts no outcomes to write, or calibrated outcomes are not written.
    """
    if calibrated and not outcomes:
        raise UserError("--calibrated changes the predicted outcomes only: give --outcomes, too, which writes them")
    if outcomes and config.model.policy_score != "expected_utility":
        raise UserError(f"--outcomes: {run_dir} (recipe {config.recipe!r}) predicts no outcomes: omit --outcomes")


def check_calibrated_run(config: Config, run_dir: Path) -> None:
    """
    Raises:
        UserError: the run predicts no outcomes to calibrate.
    """
    if config.model.policy_score != "expected_utility":
        raise UserError(
            f"{run_dir} (recipe {config.recipe!r}) predicts no outcomes to calibrate: "
            "train with model.policy_score='expected_utility'"
        )
