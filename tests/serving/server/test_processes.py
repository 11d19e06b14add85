"""Processes that end are started again, and all end with the one that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAM = """
import functools, os, signal, sys, threading
from pathlib import Path
from easq_rec.serving.server.processes import BAD, Processes

def target(folder, how):
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set() if how != "stubborn" else None)
    if how == "bad":
        raise SystemExit(BAD)
    (folder / str(os.getpid())).touch()
    ended.wait()
    (folder / f"{os.getpid()}.ended").touch()

if __name__ == "__main__":
    if sys.argv[2] == "loading":
        from loading import target
    folder, how = Path(sys.argv[1]), sys.argv[2]
    of_process = functools.partial(target, folder, how)
    sys.exit(Processes(of_process, 2, drain_s=1).run(served=lambda: any(folder.iterdir())))
"""
LOADING = """
import multiprocessing, os, sys, time
from pathlib import Path

if multiprocessing.parent_process() is not None:
    (Path(sys.argv[1]) / str(os.getpid())).touch()
    time.sleep(600)

def target(folder, how):
    pass
"""
"""A module that takes long to import in a process that needs it."""
WAIT_S = 60


def started(tmp_path: Path, how: str = "well") -> subprocess.Popen[bytes]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    (tmp_path / "loading.py").write_text(LOADING)
    (tmp_path / "pids").mkdir()
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[3]}"}
    return subprocess.Popen([sys.executable, str(program), str(tmp_path / "pids"), how], env=environment)


def pids(tmp_path: Path) -> set[int]:
    """Processes that have started."""
    return {int(file.name) for file in (tmp_path / "pids").iterdir() if not file.suffix}


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_killed_process_is_started_again(tmp_path: Path) -> None:
    with started(tmp_path) as parent:
        wait_for(lambda: len(pids(tmp_path)) == 2)
        first = pids(tmp_path)
        os.kill(min(first), signal.SIGKILL)
        wait_for(lambda: len(pids(tmp_path)) == 3)
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(WAIT_S) == 0
    ended = {int(file.stem) for file in (tmp_path / "pids").glob("*.ended")}
    assert ended == pids(tmp_path) - {min(first)}


def test_a_signal_is_heard_while_a_process_starts(tmp_path: Path) -> None:
    with started(tmp_path) as parent:
        wait_for(lambda: len(pids(tmp_path)) == 2)
        os.kill(min(pids(tmp_path)), signal.SIGKILL)
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(WAIT_S) == 0
    assert not any(map(is_running, pids(tmp_path)))


def test_a_process_that_does_not_end_is_killed(tmp_path: Path) -> None:
    with started(tmp_path, "stubborn") as parent:
        wait_for(lambda: len(pids(tmp_path)) == 2)
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(WAIT_S) == 0
    assert not any(map(is_running, pids(tmp_path)))


def test_what_no_process_can_serve_ends_all(tmp_path: Path) -> None:
    with started(tmp_path, "bad") as parent:
        assert parent.wait(WAIT_S) == 2


@pytest.mark.parametrize(
    ("number", "how"),
    [(signal.SIGKILL, "well"), (signal.SIGKILL, "stubborn"), (signal.SIGKILL, "loading"), (signal.SIGINT, "well")],
)
def test_no_process_outlives_its_parent(tmp_path: Path, number: signal.Signals, how: str) -> None:
    with started(tmp_path, how) as parent:
        wait_for(lambda: len(pids(tmp_path)) == 2)
        parent.send_signal(number)
        parent.wait(WAIT_S)
    wait_for(lambda: not any(map(is_running, pids(tmp_path))))
