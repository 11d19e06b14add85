"""docs/reference/commands.md lists exactly the options that the commands have."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.docs.pages import DOCS, REPOSITORY

SECTIONS = re.split(r"^## ", (DOCS / "reference" / "commands.md").read_text(), flags=re.MULTILINE)[1:]
LISTED = {
    section.splitlines()[0]: set(re.findall(r"^\| `(--[a-z-]+)", section, flags=re.MULTILINE)) for section in SECTIONS
}


def offered(command: str) -> set[str]:
    """Returns the options in the help of a command, without --help itself."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    words = [sys.executable, "-m", "easq_rec.cli", *command.split(), "--help"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", "\n".join(_definitions(done.stdout)))) - {"--help"}


def _definitions(text: str) -> list[str]:
    """Returns the start of each line that defines an option. tyro draws a frame around these lines."""
    return [found[1] for line in text.splitlines() if (found := re.match(r"│ ((?:-h, )?--\S+)", line))]


@pytest.mark.parametrize("command", [name for name in LISTED if name not in ("train", "doctor")])
def test_listed_options_are_those_of_the_command(command: str) -> None:
    assert LISTED[command] == offered(command)


def subcommands(words: list[str]) -> list[str]:
    """Returns the names of the subcommands of a command."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    command = [sys.executable, "-m", "easq_rec.cli", *words, "--help"]
    text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return re.findall(r"^│   • (\w+)", text, flags=re.MULTILINE)


def test_every_command_has_a_section() -> None:
    nested = {name: subcommands([name]) for name in ("data", "runs")}
    offered = [[f"{name} {sub}" for sub in nested[name]] if name in nested else [name] for name in subcommands([])]
    assert sorted(LISTED) == sorted(name for names in offered for name in names)
