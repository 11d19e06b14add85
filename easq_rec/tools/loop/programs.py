"""The programs of the closed loop: real processes of the console command, with their output in files."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from easq_rec.errors import UserError

ADDRESS = re.compile(r"http://[\w.]+:\d+")
START_S, STOP_S = 240.0, 180.0
"""Seconds that a server may take until it answers, and that a program may take to end."""


def call(words: list[str], log: Path) -> None:
    """Runs a command of the console to its end.

    Raises:
        UserError: it failed.
    """
    with log.open("wb") as output:
        code = subprocess.run(_command(words), stdout=output, stderr=output, env=_environment(), check=False).returncode
    if code:
        raise UserError(f"easq-rec {' '.join(words[:2])} ended with exit code {code}:\n{_end_of(log)}")


@contextlib.contextmanager
def running_program(words: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command of the console that runs during the block, and ends by SIGTERM after it.

    Raises:
        UserError: it ended with an error.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(_command(words), stdout=output, stderr=output, env=_environment())
    try:
        yield process
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    code = process.wait(STOP_S)
    if code not in (0, -signal.SIGTERM):
        raise UserError(f"easq-rec {words[0]} ended with exit code {code}:\n{_end_of(log)}")


def address_of(process: subprocess.Popen[bytes], log: Path) -> str:
    """The address that a server prints once it answers.

    Raises:
        UserError: it ended, or did not say it in time.
    """
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        found = ADDRESS.search(log.read_text(errors="replace"))
        if found:
            return found[0]
        time.sleep(0.05)
    raise UserError(f"the server did not start:\n{_end_of(log)}")


def _command(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "easq_rec.cli", *words]


def _environment() -> dict[str, str]:
    # Several processes share the cores of one machine.
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2_000:]
