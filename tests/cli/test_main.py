"""The console command: every subcommand has complete and fast help, and its options set their fields."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from easq_rec import __version__
from easq_rec.cli import main as cli
from easq_rec.cli.data import BuildCommand, InspectCommand, WorldCommand
from easq_rec.cli.evaluation import CompareCommand, EvaluateCommand, ScoreCommand
from easq_rec.cli.report import ReportCommand
from easq_rec.cli.runs import RunsListCommand, RunsShowCommand
from easq_rec.cli.study import StudyCommand
from easq_rec.config import World, command_line
from easq_rec.tools.studies.command import STUDIES
from easq_rec.tools.studies.options import StudyName

COMMANDS = (
    ("train", "quickstart"), ("evaluate",), ("compare",), ("score",), ("data", "world"), ("data", "build"),
    ("data", "inspect"), ("data", "counts"), ("study",), ("report",), ("runs", "list"), ("runs", "show"), ("doctor",),
)  # fmt: skip
HEAVY = {"torch", "torchrec", "pyarrow", "numpy", "duckdb", "matplotlib"}


def parsed(*argv: str) -> object:
    command = command_line.parse(cli.Command, argv, prog="easq-rec", markers=cli.MARKERS)
    return getattr(command, "command", command)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (
            ("evaluate", "--run", "r", "--data", "d", "--fuse", "0.5", "--best", "--name", "n", "--resamples", "9",
             "--seed", "1", "--out", "o"),
            EvaluateCommand(run_dir=Path("r"), data="d", fuse=0.5, best=True, name="n", resamples=9, seed=1,
                            out=Path("o")),
        ),
        (("evaluate", "--run=r"), EvaluateCommand(run_dir=Path("r"))),
        (
            ("compare", "a", "b", "--resamples", "9", "--seed", "1", "--json", "j"),
            CompareCommand(run_dir=Path("a"), base=Path("b"), resamples=9, seed=1, json=Path("j")),
        ),
        (
            ("score", "--run", "r", "--input", "i", "--output", "o", "--fuse", "-1", "--best"),
            ScoreCommand(run_dir=Path("r"), input="i", output=Path("o"), fuse=-1.0, best=True),
        ),
        (
            ("data", "world", "--out", "o", "--requests", "10", "--rho", "0.1", "--trigger-watch-s", "3"),
            WorldCommand(out=Path("o"), world=World(requests=10, rho=0.1, trigger_watch_s=3.0)),
        ),
        (
            ("data", "build", "--config", "c", "--out", "o", "--engine", "spark", "--shared", "--memory-mb", "99",
             "--threads", "3", "--temp", "t"),
            BuildCommand(config=Path("c"), out=Path("o"), engine="spark", shared=True, memory_mb=99, threads=3,
                         temp=Path("t")),
        ),
        (
            ("data", "inspect", "d", "--out", "o", "--schema", "s"),
            InspectCommand(directory="d", out=Path("o"), schema=Path("s")),
        ),
        (
            ("study", "rank", "--seeds", "3", "--budget", "small", "--out", "o", "--ray", "local", "--gpus", "0.5",
             "--jobs", "2", "--data", "d", "--recipe", "movielens", "--first-seed", "20"),
            StudyCommand(name="rank", seeds=3, first_seed=20, budget="small", out=Path("o"), ray="local", gpus=0.5,
                         jobs=2, data="d", recipe="movielens"),
        ),
        (("study", "--resume", "ab"), StudyCommand(name="ab", resume=True)),
        (("report", "a", "b", "--out", "o"), ReportCommand(directories=(Path("a"), Path("b")), out=Path("o"))),
        (("runs", "list"), RunsListCommand()),
        (("runs", "list", "a", "b", "--json"), RunsListCommand(directories=(Path("a"), Path("b")), json=True)),
        (("runs", "show", "r", "--verify"), RunsShowCommand(run_dir=Path("r"), verify=True)),
        (("doctor",), cli.DoctorCommand()),
    ],
)  # fmt: skip
def test_every_option_sets_its_field(argv: tuple[str, ...], expected: object) -> None:
    """Option names must not change, because scripts depend on them."""
    assert parsed(*argv) == expected


@pytest.mark.parametrize("argv", [(), ("--help",), ("-h",), ("help",)])
def test_the_help_lists_all_commands(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        cli.main(argv)
    assert not leaving.value.code
    said = capsys.readouterr().out
    assert all(re.search(rf"• {command}\b", said) for command in {words[0] for words in COMMANDS})


@pytest.mark.parametrize("words", COMMANDS)
def test_every_option_has_a_description_and_a_default(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        cli.main([*words, "--help"])
    assert not leaving.value.code
    text = re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out)
    # Each part runs from one flag to the next. A description ends with the default.
    for option in re.split(r"\n +(?=--[a-z])", text)[1:]:
        said, end = re.split(r"\(default:|\(required\)", option, maxsplit=1)
        assert len(said.split()) > 3 and end, option


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_the_study_command_accepts_every_study() -> None:
    assert set(typing.get_args(StudyName)) == {"signal", "worth", *STUDIES}


def test_help_and_usage_errors_import_no_heavy_packages() -> None:
    """Importing these packages would make help and usage errors slow."""
    program = (
        "import sys, contextlib\n"
        "from easq_rec.cli import main\n"
        f"for words in {[*map(list, COMMANDS), []]!r}:\n"
        "    for more in ('--help', '--no-such-option'):\n"
        "        with contextlib.suppress(SystemExit):\n"
        "            main.main([*words, more])\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stderr.count("(--help lists all fields)") == len(COMMANDS) + 1


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_usage_error_is_one_line_on_any_terminal(encoding: str) -> None:
    """tyro draws its box with other characters if the encoding of the output has no box characters."""
    command = [sys.executable, "-m", "easq_rec.cli", "data", "biuld"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    offer = "(Available subcommands: world, build, inspect, counts, convert, join) (--help lists all fields)"
    assert (done.returncode, done.stderr) == (2, f"easq-rec: Unrecognized options: biuld {offer}\n")
