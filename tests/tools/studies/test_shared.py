"""Several processes share one directory: every cell is run once, and others run the cells of a killed process."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tools.studies.builders import is_running, started, study, wait_for

REPOSITORY = Path(__file__).parents[3]
PROGRAM = """
import json, sys
from pathlib import Path
from tests.tools.studies.builders import study
runs, failed = study(Path(sys.argv[1]), Path(sys.argv[2]), *map(float, sys.argv[3:]), shared=True)
print(json.dumps([[run.cell.name for run in runs], failed]))
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def start(tmp_path: Path, data: Path) -> Iterator[Start]:
    """A function start(*weights), which starts a process that runs these cells, two at a time, in tmp_path/out."""
    processes = []

    def call(*weights: float) -> subprocess.Popen[str]:
        arguments = [str(tmp_path / "out"), str(data), *map(str, weights)]
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process

    yield call
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def result(process: subprocess.Popen[str]) -> list[list[str]]:
    """Names of the cells of which the process has results, and of those that failed."""
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return list(json.loads(output.splitlines()[-1]))


def test_every_cell_is_run_once_and_all_processes_have_its_result(data: Path, start: Start) -> None:
    weights = (1.0, 2.0, 3.0, 4.0, 5.0)
    both = [start(*weights), start(*weights)]
    # Each of the two processes runs two cells at a time, and main_only has already ended.
    wait_for(lambda: len(started(data)) == 5 if (data / "started").exists() else False)
    (data / "go").touch()
    names = ["main_only--seed_0", *(f"dense_{weight:g}--seed_0" for weight in weights)]
    assert [result(process) for process in both] == [[names, []]] * 2
    assert {name: len(pids) for name, pids in started(data).items()} == dict.fromkeys(names, 1)


def test_cells_of_a_killed_process_are_run_by_another(tmp_path: Path, data: Path, start: Start) -> None:
    killed = start(1.0, 2.0)
    kept = tmp_path / "out" / "cells" / "main_only--seed_0.json"
    wait_for(lambda: kept.exists() and len(started(data)) == 3)
    other = start(1.0, 2.0)
    before = kept.stat().st_mtime_ns
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    # The cells are run again after the processes of the first run have exited.
    wait_for(lambda: [len(pids) for _, pids in sorted(started(data).items())] == [2, 2, 1])
    assert not any(is_running(pids[0]) for pids in started(data).values())
    (data / "go").touch()
    assert result(other) == [["main_only--seed_0", "dense_1--seed_0", "dense_2--seed_0"], []]
    assert kept.stat().st_mtime_ns == before

    again = start(1.0, 2.0)
    assert len(result(again)[0]) == 3 and [len(pids) for _, pids in sorted(started(data).items())] == [2, 2, 1]


def test_a_cell_is_not_run_again_while_its_process_exists(tmp_path: Path, data: Path, start: Start) -> None:
    """SIGSTOP keeps the process of the cell from noticing that its study was killed."""
    killed = start(1.0)
    kept = tmp_path / "out" / "cells" / "main_only--seed_0.json"
    wait_for(lambda: kept.exists() and len(started(data)) == 2)
    (orphan,) = started(data)["dense_1--seed_0"]
    subprocess.run(["kill", "-STOP", str(orphan)], check=True)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    other = start(1.0)
    with pytest.raises(subprocess.TimeoutExpired):
        other.wait(timeout=6)
    assert len(started(data)["dense_1--seed_0"]) == 1
    subprocess.run(["kill", "-CONT", str(orphan)], check=True)
    (data / "go").touch()
    assert len(result(other)[0]) == 2


def test_a_cell_that_fails_is_tried_once_by_each_process(data: Path, start: Start) -> None:
    (data / "go").touch()
    both = [start(13.0, 1.0), start(13.0, 1.0)]
    expected = [["main_only--seed_0", "dense_1--seed_0"], ["dense_13--seed_0"]]
    assert [result(process) for process in both] == [expected] * 2
    assert [len(pids) for _, pids in sorted(started(data).items())] == [1, 2, 1]


def test_a_file_system_without_locks_is_refused(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ValueError, match=r"out: its file system has no locks \(No locks available\)"):
        study(tmp_path / "out", data, 1.0, shared=True)


def test_a_directory_is_shared_only_if_requested(tmp_path: Path, data: Path, start: Start) -> None:
    sharing = start(1.0)
    wait_for(lambda: (tmp_path / "out" / "study.json").exists())
    with pytest.raises(ValueError, match="another process is using it"):
        study(tmp_path / "out", data, 1.0, resume=True)
    (data / "go").touch()
    assert len(result(sharing)[0]) == 2
    runs, _ = study(tmp_path / "out", data, 1.0, resume=True)
    assert len(runs) == 2
