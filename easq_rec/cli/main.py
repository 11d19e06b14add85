"""The console command `easq-rec`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from easq_rec import __version__, disk_failures, doctor, train
from easq_rec.cli.data import DataCommands
from easq_rec.cli.evaluation import CalibrateCommand, CompareCommand, EvaluateCommand, ScoreCommand
from easq_rec.cli.export import ExportCommand
from easq_rec.cli.report import ReportCommand
from easq_rec.cli.runs import RunsCommands
from easq_rec.cli.serve import RollbackCommand, ServeCommand
from easq_rec.cli.study import StudyCommand
from easq_rec.config import command_line
from easq_rec.errors import UserError, exit_code


@dataclass(frozen=True)
class TrainCommand:
    """Train, evaluate and write checkpoints; an existing run directory is resumed.

    easq-rec train [RECIPE] [--data DIR] [--run-dir DIR] [--schema FILE.toml] [--overrides]. The recipe decides which
    overrides there are: easq-rec train RECIPE --help lists them."""


@dataclass(frozen=True)
class DoctorCommand:
    """Check whether this environment can train, and say what to install."""

    def run(self) -> int:
        return doctor.main()


Command = (
    Annotated[TrainCommand, tyro.conf.subcommand("train")]
    | Annotated[EvaluateCommand, tyro.conf.subcommand("evaluate")]
    | Annotated[CompareCommand, tyro.conf.subcommand("compare")]
    | Annotated[CalibrateCommand, tyro.conf.subcommand("calibrate")]
    | Annotated[ScoreCommand, tyro.conf.subcommand("score")]
    | Annotated[ExportCommand, tyro.conf.subcommand("export")]
    | Annotated[ServeCommand, tyro.conf.subcommand("serve")]
    | Annotated[RollbackCommand, tyro.conf.subcommand("rollback")]
    | Annotated[DataCommands, tyro.conf.subcommand("data")]
    | Annotated[StudyCommand, tyro.conf.subcommand("study")]
    | Annotated[ReportCommand, tyro.conf.subcommand("report")]
    | Annotated[RunsCommands, tyro.conf.subcommand("runs")]
    | Annotated[DoctorCommand, tyro.conf.subcommand("doctor")]
)
# A flag has no value and no opposite: --best, not --best True or --no-best.
MARKERS = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
DESCRIPTION = (
    "Trains, evaluates and studies rankers that questionnaires steer. easq-rec COMMAND --help lists the options."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code. A UserError is one readable message and exit code 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_code(lambda: _run(words))


def _run(words: list[str]) -> int:
    match words:
        case ["train", *rest]:
            # Parsed by itself: the options and their defaults depend on the recipe.
            return train.main(rest, prog="easq-rec train")
        case ["--version"]:
            print(__version__)
            return 0
        case [] | ["help"]:
            words = ["--help"]
    command = command_line.parse(Command, words, prog="easq-rec", markers=MARKERS, description=DESCRIPTION)
    try:
        code: int = command.run()
    except OSError as error:
        if not disk_failures.is_disk_failure(error):
            raise
        place = f"{error.filename}: " if error.filename else ""
        raise UserError(f"{' '.join(words[:2])}: {place}{error.strerror or error}") from error
    return code


if __name__ == "__main__":
    sys.exit(main())
