"""Fits maps for the predicted outcomes of a run to earlier held-out requests, and tries them on later ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from easq_rec.config import Config
from easq_rec.data import files
from easq_rec.data.dataset import Period
from easq_rec.evaluation.calibration_fit import fit_maps
from easq_rec.evaluation.calibration_map import CalibrationMethod
from easq_rec.evaluation.metrics.intervals import UserSums
from easq_rec.evaluation.predict import Predictions
from easq_rec.run_directory.calibration_file import OutcomeCalibration
from easq_rec.run_directory.checkpoint_files import checkpoint_of
from easq_rec.run_directory.checksums import digest_of
from easq_rec.run_directory.config_file import load_config
from easq_rec.serving.evaluate import calibrated_predictions, data_of, held_out, predictions_of
from easq_rec.serving.preflight import check_calibrated_run
from easq_rec.serving.score import load_served


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """Maps, and how right the predicted outcomes of later requests are without and with them."""

    calibration: OutcomeCalibration
    unfitted: list[str]
    """Outcomes without a map, because too few earlier candidates have the outcome, or lack it."""
    requests: int
    """Number of the later requests."""
    before: UserSums
    after: UserSums


def calibrate(
    run_dir: Path,
    data: files.Location | None,
    *,
    method: CalibrationMethod,
    share: float = 0.5,
    best: bool = False,
    thinned: bool = True,
) -> Calibrated:
    """Fits to the first `share` of the held-out period and measures on the rest of it.

    Args:
        data: location with requests/; None: the run's training data.
        best: use the checkpoint that `checkpoint.best` kept.
        thinned: as in `outcome_columns`.

    Raises:
        UserError: the run has no such checkpoint, it predicts no outcomes, or one part has no requests.
    """
    config = load_config(run_dir)
    outcomes = config.schema.outcomes
    check_calibrated_run(config, run_dir)
    directory = data_of(config, data)
    period = held_out(config, directory)
    cut = round(period.start_ms + share * (period.end_ms - period.start_ms))
    ranker = load_served(config, run_dir, None, best=best)

    def predicted(begin: int, end: int) -> Predictions:
        return predictions_of(ranker, config, run_dir, directory, Period(start_ms=begin, end_ms=end))

    earlier = predicted(period.start_ms, cut)
    assert earlier.logit_NO is not None and earlier.outcome_NO is not None
    maps = fit_maps(earlier.logit_NO, earlier.outcome_NO, outcomes, method, thinned=thinned)
    checkpoint = checkpoint_of(run_dir, best=best)
    calibration = OutcomeCalibration(
        method=method,
        step=checkpoint.step,
        checkpoint=digest_of(checkpoint),
        from_ms=period.start_ms,
        until_ms=cut,
        candidates=len(earlier.main_N),
        maps=maps,
    )
    del earlier
    later = predicted(cut, period.end_ms)
    return Calibrated(
        calibration=calibration,
        unfitted=[outcome.name for outcome in outcomes if outcome.name not in maps],
        requests=len(later.lengths_R),
        before=_sums(later, config, thinned),
        after=_sums(calibrated_predictions(later, calibration, config), config, thinned),
    )


def _sums(predictions: Predictions, config: Config, thinned: bool) -> UserSums:
    columns = predictions.outcome_columns(config.schema.outcomes, thinned=thinned)
    return UserSums(predictions.user_R.numpy(), {name: value.numpy() for name, value in columns.items()})
