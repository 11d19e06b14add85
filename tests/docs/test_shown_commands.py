"""Programs accept every command line that a page or a docstring shows, and every setting on a page exists."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from easq_rec.cli.main import MARKERS, Command
from easq_rec.config import Config
from easq_rec.config.command_line import parse, parse_config
from easq_rec.config.parse import dataclasses_of, field_hints
from easq_rec.errors import UserError
from tests.docs.pages import DOCS, REPOSITORY, shown_commands

PAGES = sorted(
    file
    for file in (*REPOSITORY.glob("*.md"), *(REPOSITORY / "datasets").rglob("*.md"), *DOCS.rglob("*.md"))
    if not file.is_relative_to(DOCS / "results")
)
SOURCES = sorted(
    file
    for folder in ("benchmarks", "datasets", "examples", "easq_rec/config", "easq_rec/train.py")
    for file in ([REPOSITORY / folder] if folder.endswith(".py") else (REPOSITORY / folder).rglob("*.py"))
)
PROGRAMS = (
    "easq-rec ",
    "make train ARGS=",
    "python -m benchmarks.",
    "python datasets/",
    "python examples/",
    "python easq_rec/train.py",
    "torchrun ",
)
PLACEHOLDERS = {"RECIPE": "quickstart", "NAME": "frontier", "STUDY": "frontier", "RUN_OR_STUDY...": "runs/one"}
"""Placeholders in a synopsis, each with one of its possible values."""
OMITTED = {"--overrides", "...", "COMMAND", "OPTIONS"}


def shown_lines(text: str) -> Iterator[str]:
    """Yields the command lines in fenced blocks, in indented lines and between backticks."""
    text = text.replace("\\\n", " ")
    fenced = shown_commands(text)
    indented = [line.strip().removeprefix("$ ") for line in text.splitlines() if line.startswith("    ")]
    quoted = re.findall(r"`([^`\n]+)`", text)
    for line in (*fenced, *indented, *quoted):
        if line.removeprefix(".venv/bin/").startswith(PROGRAMS):
            yield line.removeprefix(".venv/bin/")


def words_of(command: str) -> list[str]:
    """Returns the words of a command without its comment. The optional parts of a synopsis are kept."""
    found = shlex.split(command.replace("[", "").replace("]", ""), comments=True)
    return [PLACEHOLDERS.get(word, word) for word in found if word not in OMITTED]


COMMANDS = sorted({line for file in PAGES for line in shown_lines(file.read_text())})
IN_SOURCES = sorted(
    {
        line
        for file in SOURCES
        for line in map(str.strip, file.read_text().splitlines())
        if line.startswith(PROGRAMS) and " is " not in line
    }
)


class ParsedError(Exception):
    """Raised in place of running a program whose command line was accepted."""


def accepts(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parses a command line as its program does. Raises UserError or SystemExit(2) if the program refuses it."""
    match words_of(command):
        case ["easq-rec", "train", *rest] | ["python", "easq_rec/train.py", *rest]:
            _accept_training(rest)
        case ["make", "train", arguments]:
            _accept_training(shlex.split(arguments.removeprefix("ARGS=")))
        case ["torchrun", *rest] if "easq_rec/train.py" in rest:
            _accept_training(rest[rest.index("easq_rec/train.py") + 1 :])
        case ["torchrun", "--nproc_per_node", _, "-m", module, *rest] if not module.endswith(".worker"):
            _accept_argparse(module, rest, monkeypatch)
        case ["easq-rec", *rest]:
            _accept_options(rest)
        case ["python", "-m", module, *rest]:
            _accept_argparse(module, rest, monkeypatch)
        case ["python", file, *rest]:
            _accept_argparse(file, rest, monkeypatch)


def _accept_training(words: list[str]) -> None:
    words = list(words)
    if "--schema" in words:
        # The file of the example does not exist here.
        del words[words.index("--schema") : words.index("--schema") + 2]
    if words and words[0].endswith(".json"):
        words[0] = "easq"
    with _help():
        parse_config(words, prog="easq-rec train")


def _accept_options(words: list[str]) -> None:
    named = all(word.isalpha() and word.islower() for word in words)
    with _help():
        # A sentence may name a command without its arguments.
        parse(Command, [*words, "--help"] if named else words, prog="easq-rec", markers=MARKERS)


def _accept_argparse(program: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the `main` of a module or script until it has parsed its arguments."""
    original = argparse.ArgumentParser.parse_args

    def stop(*args: Any, **options: Any) -> NoReturn:
        original(*args, **options)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    # A sentence may name a program without its arguments.
    named = not any(word.startswith("-") or "." in word for word in words)
    monkeypatch.setattr(sys, "argv", [program, *words, *(["--help"] if named else [])])
    path = REPOSITORY / program
    if path.is_file():
        monkeypatch.syspath_prepend(str(path.parent))
        main = runpy.run_path(str(path), run_name="shown_command")["main"]
    else:
        package = REPOSITORY.joinpath(*program.split(".")).is_dir()
        main = importlib.import_module(f"{program}.__main__" if package else program).main
    with _help(), pytest.raises(ParsedError):
        main(*([] if _reads_argv(main) else [sys.argv[1:]]))


def _reads_argv(main: Callable[..., object]) -> bool:
    """Whether a `main` reads sys.argv itself."""
    parameters = inspect.signature(main).parameters.values()
    return all(parameter.default is not inspect.Parameter.empty for parameter in parameters)


@contextlib.contextmanager
def _help() -> Iterator[None]:
    """Accepts that --help exits with code 0."""
    try:
        yield
    except SystemExit as leaving:
        if leaving.code:
            raise


@pytest.mark.parametrize("command", [*COMMANDS, *IN_SOURCES])
def test_command_is_accepted(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if "benchmarks.data" in command:
        pytest.importorskip("pandas", reason="benchmarks.data compares with pandas, which is installed for it only")
    accepts(command, monkeypatch)
    capsys.readouterr()


@pytest.mark.parametrize(
    "command",
    [
        "easq-rec train easq --losses.dense 0.3",
        "easq-rec evaluate --runs RUN",
        "python -m benchmarks.movielens --data DIR --speed 3",
        "python datasets/movielens/prepare.py --row ml-100k --out movielens",
    ],
)
def test_a_wrong_command_is_found(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((UserError, SystemExit)):
        accepts(command, monkeypatch)
    capsys.readouterr()


def test_commands_of_all_programs_are_found() -> None:
    for program in PROGRAMS:
        assert any(command.startswith(program) for command in COMMANDS), program
    assert len(COMMANDS) > 60


# ---------------------------------------------------------------------------------------------------------------------
# Settings in code spans


def fields(cls: type[Any], prefix: str = "") -> Iterator[str]:
    """Yields the full names of all settings, such as `losses.dense.weight`, and of their sections."""
    for name, hint in field_hints(cls).items():
        yield f"{prefix}{name}"
        for nested in dataclasses_of(hint).values():
            yield from fields(nested, f"{prefix}{name}.")


SECTIONS = [name for name, hint in field_hints(Config).items() if dataclasses_of(hint) and name != "schema"]
KNOWN = set(fields(Config))
FLAGS = {name.replace("_", "-") for name in KNOWN}


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_settings_exist(file: Path) -> None:
    code = "\n".join(re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", file.read_text(), flags=re.M | re.S)))
    if file.name.startswith("014-"):
        # The decision shows a flag of an alternative that was rejected.
        code = code.replace("--losses.2.weight", "")
    flags = {flag.rstrip(".") for flag in re.findall(r"--([a-z]+\.[\w.-]+)", code)}
    assert flags <= FLAGS, "flags that do not exist"
    names = set(re.findall(rf"^((?:{'|'.join(SECTIONS)})\.[a-z_.]+)(?:=.*)?$", code, flags=re.M))
    files = {name for name in names if re.search(r"\.(py|json|md|toml|parquet)$", name)}
    assert names - files <= KNOWN, "settings that do not exist"


def test_a_wrong_setting_is_found() -> None:
    assert "losses.dense.weight" in KNOWN and "losses.dense_weight" not in KNOWN
