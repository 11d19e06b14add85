"""`easq-rec evaluate`, `compare`, `calibrate` and `score`: what a trained run is worth, and its rankings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from easq_rec import doctor, json_file, outputs
from easq_rec.config.schema import require
from easq_rec.data.presence import require_folder
from easq_rec.errors import UserError
from easq_rec.evaluation.evaluation_file import evaluation_file


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Metrics of a trained run on the held-out requests (the last part of the time line), with 95% intervals.

    Writes RUN/NAME.json (all metrics) and RUN/NAME.parquet (one row per held-out request, for easq-rec compare)."""

    run_dir: Annotated[Path, tyro.conf.arg(name="run")]
    """Run directory."""
    data: str | None = None
    """Directory or URL with requests/ (and answers/); None: the one that the run was trained on."""
    fuse: float | None = None
    """Weight of the satisfaction score in the served score, in place of the run's model.satisfaction_weight; None: that
    weight."""
    best: bool = False
    """Use the checkpoint with the best evaluation during training (--checkpoint.best), not the newest."""
    calibrated: bool = False
    """Apply the maps of easq-rec calibrate to the predicted outcomes, and evaluate only the requests after those that
    they were fitted to."""
    all_negatives: bool = False
    """The data hold all negatives, although the schema says that the training data keep only a share
    (negatives_kept)."""
    users: Literal["all", "known", "new"] = "all"
    """known: evaluate only users with a request in the training period. new: only the others."""
    name: str = "evaluation"
    """Name of the two files that are written into the run directory."""
    resamples: int = 1_000
    """Bootstrap resamples of the users."""
    seed: int = 0
    """Seed of the resamples."""
    out: Path | None = None
    """Also write only the values, under the names of RUN/metrics.jsonl, to this JSON file."""

    def run(self) -> int:
        doctor.require_compatible()
        _require_resamples(self.resamples)
        if self.out is not None:
            outputs.check_file("--out", self.out)
        from easq_rec.serving import preflight

        config = preflight.check_run(self.run_dir, best=self.best, fuse=self.fuse, calibrated=self.calibrated)
        preflight.check_data(config, self.data)
        _check_run(self.run_dir)
        from easq_rec.evaluation import results
        from easq_rec.evaluation.metrics.intervals import CONFIDENCE, estimates
        from easq_rec.serving.evaluate import evaluate

        evaluated = evaluate(
            self.run_dir,
            self.data,
            fuse=self.fuse,
            best=self.best,
            calibrated=self.calibrated,
            thinned=not self.all_negatives,
            users=self.users,
        )
        intervals = estimates(evaluated.sums(), resamples=self.resamples, seed=self.seed)
        results.print_evaluation(evaluated, intervals, CONFIDENCE)
        how: dict[str, object] = {"data": self.data, "confidence": CONFIDENCE, "method": "BCa bootstrap over users"}
        how |= {"resamples": self.resamples, "seed": self.seed, "all_negatives": self.all_negatives}
        with outputs.writing("--run", self.run_dir):
            results.write(evaluated, intervals, self.run_dir, self.name, how)
        file = self.run_dir / self.name
        print(f"\nall figures in {file}.json, by request in {file}.parquet")
        if self.out is not None:
            json_file.write(self.out, results.plain_values(evaluated, intervals))
        return 0


@dataclass(frozen=True, kw_only=True)
class CompareCommand:
    """Paired differences between two runs that were evaluated on the same held-out requests, with 95% intervals."""

    run_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run")]
    """Run directory with evaluation.parquet in it, or such a file."""
    base: Annotated[Path, tyro.conf.Positional]
    """Run directory, or file, that it is compared with."""
    resamples: int = 1_000
    """Bootstrap resamples of the users, the same for both runs."""
    seed: int = 0
    """Seed of the resamples."""
    json: Path | None = None
    """Also write all figures to this file."""

    def run(self) -> int:
        doctor.require_compatible()
        _require_resamples(self.resamples)
        if self.json is not None:
            outputs.check_file("--json", self.json)
        evaluation_file(self.run_dir)
        evaluation_file(self.base)
        from easq_rec.evaluation.compare import compare, print_comparison, write_comparison

        found = compare(self.run_dir, self.base, resamples=self.resamples, seed=self.seed)
        print_comparison(*found)
        if self.json is not None:
            write_comparison(*found, self.json)
        return 0


@dataclass(frozen=True, kw_only=True)
class CalibrateCommand:
    """Fit maps that calibrate the predicted outcomes to the earlier held-out requests, and try them on the later ones.

    Writes RUN/calibration.json, for --calibrated of easq-rec evaluate and score. The maps belong to one checkpoint."""

    run_dir: Annotated[Path, tyro.conf.arg(name="run")]
    """Run directory."""
    data: str | None = None
    """Directory or URL with requests/; None: the one that the run was trained on."""
    method: Literal["temperature", "isotonic"] = "temperature"
    """temperature: scale and bias of the logit (Platt). isotonic: any map that never falls; it needs more
    candidates."""
    share: float = 0.5
    """Share of the held-out period, from its start, whose requests the maps are fitted to."""
    best: bool = False
    """Use the checkpoint with the best evaluation during training, not the newest."""
    all_negatives: bool = False
    """The data hold all negatives, although the schema says that the training data keep only a share
    (negatives_kept)."""
    resamples: int = 1_000
    """Bootstrap resamples of the users."""
    seed: int = 0
    """Seed of the resamples."""

    def run(self) -> int:
        doctor.require_compatible()
        _require_resamples(self.resamples)
        require(0 < self.share < 1, "--share", self.share, "more than 0 and less than 1")
        from easq_rec.serving import preflight

        config = preflight.check_run(self.run_dir, best=self.best)
        preflight.check_calibrated_run(config, self.run_dir)
        preflight.check_data(config, self.data)
        _check_run(self.run_dir)
        from easq_rec.evaluation.compare import print_calibrated
        from easq_rec.evaluation.metrics.intervals import differences
        from easq_rec.run_directory.calibration_file import write_calibration
        from easq_rec.serving.calibrate import calibrate

        found = calibrate(
            self.run_dir,
            self.data,
            method=self.method,
            share=self.share,
            best=self.best,
            thinned=not self.all_negatives,
        )
        calibration = found.calibration
        print(
            f"step {calibration.step:,}: {self.method} fitted to {calibration.candidates:,} candidates of the earlier "
            f"held-out requests, tried on {found.requests:,} later requests"
        )
        print_calibrated(differences(found.after, found.before, resamples=self.resamples, seed=self.seed))
        for name in found.unfitted:
            print(f"  {name}: not calibrated, too few earlier candidates with or without it")
        with outputs.writing("--run", self.run_dir):
            print(f"\nwritten to {write_calibration(self.run_dir, calibration)}")
        return 0


@dataclass(frozen=True, kw_only=True)
class ScoreCommand:
    """Rank requests without outcomes by the policy score; adapters are merged."""

    run_dir: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """Run directory; this or --export."""
    export: Path | None = None
    """Directory of packages that easq-rec export wrote: its current one scores."""
    input: str
    """Directory or URL with the requests' Parquet files (or with requests/ in it)."""
    output: Path
    """Parquet file to write: request_id, the item's id, score, rank, and with --outcomes one column per outcome."""
    fuse: float | None = None
    """Weight of the satisfaction score in the served score, in place of the run's model.satisfaction_weight; None: that
    weight."""
    best: bool = False
    """Use the checkpoint with the best evaluation during training, not the newest."""
    outcomes: bool = False
    """Also write the predicted outcomes, in columns of their names: the probability, or the expectation of an
    amount."""
    calibrated: bool = False
    """Apply the maps of easq-rec calibrate to the predicted outcomes; score and rank stay as they are."""
    counts: Path | None = None
    """Folder of published counts, for requests without the columns of the counts: DIR/counts of easq-rec data counts.
    None: the one in the run directory, which training copied from beside its data."""
    top: int | None = None
    """Write only so many candidates of each request, the best. None: all."""
    processes: int = 1
    """Processes that share the files, with --export."""

    def run(self) -> int:
        doctor.require_compatible()
        from easq_rec.serving import preflight

        require(self.top is None or self.top >= 1, "--top", self.top, "at least 1")
        require(1 <= self.processes <= 256, "--processes", self.processes, "1 to 256")
        require(self.processes == 1 or self.export is not None, "--processes", self.processes, "given with --export")

        if (self.run_dir is None) == (self.export is None):
            raise UserError("give --run RUN or --export DIR, one of them: what is it that ranks?")
        require_folder("--input", self.input)
        if self.counts is not None:
            require_folder("--counts", self.counts)
        outputs.check_file("--output", self.output)
        if self.run_dir is None:
            assert self.export is not None
            return self._score_exported(self.export)
        config = preflight.check_run(self.run_dir, best=self.best, fuse=self.fuse, calibrated=self.calibrated)
        preflight.check_outcomes(config, self.run_dir, outcomes=self.outcomes, calibrated=self.calibrated)
        from easq_rec.serving.score import score

        with outputs.writing("--output", self.output):
            requests = score(
                config,
                self.run_dir,
                self.input,
                self.output,
                fuse=self.fuse,
                best=self.best,
                outcomes=self.outcomes,
                calibrated=self.calibrated,
                counts=self.counts,
                top=self.top,
            )
        print(f"{requests:,} requests ranked in {self.output}")
        return 0

    def _score_exported(self, directory: Path) -> int:
        require_folder("--export", directory)
        for name in ("fuse", "best", "outcomes", "calibrated"):
            value = getattr(self, name)
            require(value in (None, False), f"--{name}", value, "omitted with --export: a package scores in one way")
        from easq_rec.serving.score_exported import score_exported

        with outputs.writing("--output", self.output):
            requests = score_exported(
                directory, self.input, self.output, counts=self.counts, top=self.top, processes=self.processes
            )
        print(f"{requests:,} requests ranked in {self.output}")
        return 0


def _check_run(run_dir: Path) -> None:
    """Raises UserError if nothing can be written into a run directory. A missing one is left to who reads it."""
    if run_dir.is_dir():
        outputs.check_folder("--run", run_dir)


def _require_resamples(resamples: int) -> None:
    require(resamples >= 1, "--resamples", resamples, "at least 1")
