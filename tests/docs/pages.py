"""Extracts the files and the commands that a documentation page shows, and runs the commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.conftest import Warm

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"


def shown_files(text: str) -> dict[str, str]:
    """Returns file contents by name. A page shows a file as a line with its name in backticks and a fenced block."""
    found = re.findall(r"^`([\w.]+)`\n\n```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return dict(found)


def shown_commands(text: str) -> list[str]:
    """Returns the lines of all `sh` blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def run_command(command: str, directory: Path, warm: Warm) -> str:
    """Runs one command of a page and returns its output."""
    words = shlex.split(command)
    if words[0] == "easq-rec":
        words[:1] = [warm.python, "-m", "easq_rec.cli"]
    elif words[0] == "python":
        words[0] = warm.python
    done = warm.run(*words, directory=directory)
    # Neither Python nor torch's C++ code may warn. Warnings of the latter begin with W and the date.
    assert "Warning" not in done.stderr and not re.search(r"^\[?W\d{4} ", done.stderr, re.MULTILINE), done.stderr
    return done.stdout
