"""Examples in documentation pages: the files that a page shows, and the commands that it asks for."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"


def shown_files(text: str) -> dict[str, str]:
    """Content by file name: a line with the name in backticks, followed by a fenced block."""
    found = re.findall(r"^`([\w.]+)`\n\n```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return dict(found)


def shown_commands(text: str) -> list[str]:
    """The lines of all `sh` blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def run_command(command: str, directory: Path) -> str:
    """Runs one command of a page with this interpreter; returns what it printed."""
    words = shlex.split(command)
    if words[0] == "easq-rec":
        words[:1] = [sys.executable, "-m", "easq_rec.cli"]
    elif words[0] == "python":
        words[0] = sys.executable
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words, cwd=directory, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    # A warning of Python, or of torch's C++ code, which begins with W and the date.
    assert "Warning" not in done.stderr and not re.search(r"^\[?W\d{4} ", done.stderr, re.MULTILINE), done.stderr
    return done.stdout
