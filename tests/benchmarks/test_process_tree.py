"""CPU time and memory of processes that outlive their parents, and of those that no parent waits for."""

from __future__ import annotations

import sys

import pytest

from benchmarks import process_tree

BUSY = """
import time
held = bytearray(64 * 2**20)
while time.process_time() < 1:
    pass
time.sleep(3 * {pause})
"""
"""Takes a second of CPU time and 64 MiB."""
PARENT = """
import signal, subprocess, sys, time
signal.signal(signal.SIGCHLD, signal.{handler})
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
if {waits}:
    child.wait()
"""


@pytest.mark.parametrize(("handler", "waits"), [("SIG_DFL", True), ("SIG_DFL", False), ("SIG_IGN", True)])
def test_all_descendants_count(handler: str, waits: bool) -> None:
    busy = BUSY.format(pause=process_tree.PAUSE_S)
    used = process_tree.run([[sys.executable, "-c", PARENT.format(handler=handler, waits=waits), busy]])
    assert 1 <= used.cpu_s + 2 / 100 < 2, "clock ticks are 10 ms"
    assert 64 <= used.peak_mib < 164


def test_a_command_that_fails_is_an_error() -> None:
    with pytest.raises(process_tree.subprocess.CalledProcessError, match="exit status 3"):
        process_tree.run([[sys.executable, "-c", "raise SystemExit(3)"]])
