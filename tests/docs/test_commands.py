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
    """Options in the help of a command, without --help itself."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    words = [sys.executable, "-m", "easq_rec.cli", *command.split(), "--help"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", "\n".join(_definitions(done.stdout)))) - {"--help"}


def _definitions(text: str) -> list[str]:
    """The beginning of the lines that define an option: tyro draws a frame around them."""
    return [found[1] for line in text.splitlines() if (found := re.match(r"│ ((?:-h, )?--\S+)", line))]


@pytest.mark.parametrize("command", [name for name in LISTED if name not in ("train", "doctor")])
def test_options(command: str) -> None:
    assert LISTED[command] == offered(command)


def test_every_command_has_its_section() -> None:
    words = [sys.executable, "-m", "easq_rec.cli", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    text = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    for name in LISTED:
        assert name in text, name
