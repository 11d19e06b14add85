"""One process at a time writes to a run directory; a holder that has ended does not block the next one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from easq_rec.errors import UserError
from easq_rec.run_directory import writer_lock
from easq_rec.run_directory.paths import RunDirectory
from easq_rec.run_directory.writer_lock import TAKEN, UNCLEAR, WriterLock, attempts_of_jobs, succeeds

REPOSITORY = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from easq_rec.run_directory.writer_lock import WriterLock
lock = WriterLock(Path(sys.argv[1]), beat_s=0.1)
while (said := lock.attempt()) == "unclear": time.sleep(0.1)
print(said, flush=True)
if said == "taken":
    with lock.held():
        sys.stdin.read()
"""
ELSEWHERE = ("unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child")
"""Starts a command with its own host name and its own process ids, as in a container or on another host."""


class Other:
    """Another process that wants a directory."""

    def __init__(self, run_dir: Path, *launcher: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [*launcher, sys.executable, "-c", HOLD, str(run_dir)],
            env={**outside(), "PYTHONPATH": str(REPOSITORY), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline().strip()

    def end(self) -> int:
        self.process.communicate(timeout=30)
        return self.process.returncode

    def kill(self) -> None:
        self.process.kill()
        # `communicate` closes the input, at which a process that is still alive gives the directory back.
        self.process.wait(timeout=30)
        self.process.communicate(timeout=30)


def outside() -> dict[str, str]:
    names = {*writer_lock.COUNTED_JOBS, *writer_lock.COUNTED_JOBS.values(), writer_lock.UNCOUNTED_JOB}
    return {name: value for name, value in os.environ.items() if name not in names}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "one"


@pytest.fixture
def elsewhere() -> tuple[str, ...]:
    """A launcher of processes that this one cannot see."""
    done = subprocess.run([*ELSEWHERE, "true"], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no namespaces here: {done.stderr.decode().strip()}")
    return (*ELSEWHERE, "sh", "-c", 'hostname elsewhere && exec "$@"', "sh")


@pytest.fixture
def lock(run_dir: Path) -> WriterLock:
    return WriterLock(run_dir, environment={}, beat_s=0.1, patience_s=2.0)


def taken(lock: WriterLock, seconds: float = 20.0) -> str:
    """What the attempts end with."""
    until = time.monotonic() + seconds
    while (said := lock.attempt()) == UNCLEAR:
        assert time.monotonic() < until
        time.sleep(0.05)
    return said


def files(run_dir: Path) -> list[str]:
    return sorted(path.name for path in RunDirectory(run_dir).writer.iterdir())


def test_a_directory_is_given_back_without_a_trace(run_dir: Path, lock: WriterLock) -> None:
    assert lock.attempt() == TAKEN
    with lock.held():
        assert files(run_dir) == ["1.json"]
    assert not run_dir.exists()


def test_a_second_process_is_refused_and_told_who_holds_the_directory(run_dir: Path, lock: WriterLock) -> None:
    other = Other(run_dir)
    assert other.said == TAKEN
    begin = time.monotonic()
    said = lock.attempt()
    assert time.monotonic() - begin < 1
    assert str(run_dir) in said and f"process {other.process.pid} on {os.uname().nodename} since 20" in said
    assert f"kill {other.process.pid} on" in said and "another --run-dir" in said
    with pytest.raises(UserError, match=re.escape(said)):
        lock.refuse()
    assert other.end() == 0
    lock.refuse()
    assert lock.attempt() == TAKEN
    lock.release()


def test_a_process_that_was_killed_does_not_block(run_dir: Path, lock: WriterLock) -> None:
    other = Other(run_dir)
    other.kill()
    assert files(run_dir) == ["1.json"]
    assert lock.attempt() == TAKEN
    assert files(run_dir) == ["2.json"], "its file is removed"
    lock.release()


def test_a_stopped_process_is_alive(run_dir: Path, lock: WriterLock) -> None:
    other = Other(run_dir)
    os.kill(other.process.pid, signal.SIGSTOP)
    assert "is in use by" in lock.attempt()
    os.kill(other.process.pid, signal.SIGCONT)
    other.end()


def test_a_process_id_that_was_given_again_is_not_the_holder(run_dir: Path, lock: WriterLock) -> None:
    """The holder has ended, and this test's process has its id."""
    other = Other(run_dir)
    other.kill()
    file = RunDirectory(run_dir).writer / "1.json"
    file.write_text(file.read_text().replace(f'"pid": {other.process.pid}', f'"pid": {os.getpid()}'))
    assert lock.attempt() == TAKEN
    lock.release()


def test_of_many_processes_one_gets_the_directory_of_a_dead_one(run_dir: Path) -> None:
    Other(run_dir).kill()
    wait = "import sys, time; time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
    start = str(time.time() + 2)
    command = [sys.executable, "-c", wait + HOLD, str(run_dir), start]
    environment = {**outside(), "PYTHONPATH": str(REPOSITORY)}
    others = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    said = [one.stdout.readline().strip() for one in others if one.stdout is not None]
    assert sorted(line == TAKEN for line in said) == [False] * 7 + [True]
    assert all("is in use by process" in line for line in said if line != TAKEN)
    for one in others:
        one.communicate(timeout=30)


def test_a_process_on_another_host_is_refused_while_the_holder_lives(
    run_dir: Path, lock: WriterLock, elsewhere: tuple[str, ...]
) -> None:
    other = Other(run_dir, *elsewhere)
    assert other.said == TAKEN
    lock.refuse()  # What is not certain is no reason.
    said = taken(lock)
    assert re.search(r"in use by process \d+ on elsewhere since", said)
    assert other.end() == 0


def test_a_holder_on_another_host_that_was_killed_does_not_block(
    run_dir: Path, lock: WriterLock, elsewhere: tuple[str, ...]
) -> None:
    other = Other(run_dir, *elsewhere)
    other.kill()
    begin = time.monotonic()
    assert taken(lock) == TAKEN
    assert time.monotonic() - begin >= 2, "not before its silence has lasted for the whole patience"
    lock.release()


@pytest.mark.parametrize(
    ("theirs", "mine", "waits"),
    [
        ({"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}, False),
        ({"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "8", "SLURM_RESTART_COUNT": "1"}, True),
        ({"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "7"}, True),
        ({"TORCHX_JOB_ID": "k8s://a/b"}, {"TORCHX_JOB_ID": "k8s://a/b"}, False),
        ({"TORCHX_JOB_ID": "k8s://a/b"}, {"TORCHX_JOB_ID": "k8s://a/c"}, True),
        ({"TORCHELASTIC_RUN_ID": "none"}, {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "1"}, True),
        ({"TORCHELASTIC_RUN_ID": "x"}, {"TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": "1"}, False),
    ],
)
def test_a_job_that_was_started_again_does_not_wait_for_its_earlier_attempt(
    run_dir: Path, elsewhere: tuple[str, ...], theirs: dict[str, str], mine: dict[str, str], waits: bool
) -> None:
    """The earlier attempt was on a host that is gone."""
    Other(run_dir, *elsewhere, **theirs).kill()
    lock = WriterLock(run_dir, environment=mine, patience_s=60.0)
    assert lock.attempt() == (UNCLEAR if waits else TAKEN)
    if not waits:
        lock.release()


def test_a_second_process_of_the_same_job_is_refused(run_dir: Path) -> None:
    """Steps of one Slurm job, or a shell in the container of a TorchX job, see the holder's process."""
    job = {"SLURM_JOB_ID": "7", "TORCHX_JOB_ID": "slurm://a/7"}
    other = Other(run_dir, **job)
    assert "in use" in WriterLock(run_dir, environment=job).attempt()
    other.end()


def test_an_earlier_attempt_that_still_lives_notices_that_it_was_replaced(run_dir: Path) -> None:
    said: list[str] = []
    first = WriterLock(run_dir, environment={"SLURM_JOB_ID": "7"}, on_loss=said.append, beat_s=0.05)
    assert first.attempt() == TAKEN
    with first.held():
        second = WriterLock(run_dir, environment={"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"})
        assert second.attempt() == TAKEN
        until = time.monotonic() + 20
        while not said:
            assert time.monotonic() < until
            time.sleep(0.02)
    assert f"taken over by process {os.getpid()} on" in said[0]
    assert files(run_dir) == ["2.json"], "it does not remove the file of the other"
    second.release()


def test_a_holder_whose_name_did_not_fit_on_the_disk_is_still_a_holder(run_dir: Path, lock: WriterLock) -> None:
    """On a full disk its file is empty. It changes all the same, and gets its content once there is room."""
    other = Other(run_dir)
    os.kill(other.process.pid, signal.SIGSTOP)
    file = RunDirectory(run_dir).writer / "1.json"
    file.write_text("")
    assert lock.attempt() == UNCLEAR
    os.utime(file)
    assert "a process that could not write its name there" in lock.attempt()
    os.kill(other.process.pid, signal.SIGCONT)
    until = time.monotonic() + 20
    while f"in use by process {other.process.pid}" not in lock.attempt():
        assert time.monotonic() < until
        time.sleep(0.05)
    other.end()


def test_a_file_system_without_links(run_dir: Path, lock: WriterLock, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    assert lock.attempt() == TAKEN
    with lock.held():
        assert "is in use by" in WriterLock(run_dir, environment={}).attempt()
        assert files(run_dir) == ["1.json"]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    said = WriterLock(tmp_path / place, environment={}).attempt()
    assert said.startswith(f"--run-dir {tmp_path / place}: nothing can be written there: ") and "ENOTDIR" in said


def test_jobs_without_a_count_are_at_their_first_attempt() -> None:
    first = attempts_of_jobs({"AWS_BATCH_JOB_ID": "j", "TORCHELASTIC_RUN_ID": "none"})
    assert first == {"AWS_BATCH_JOB_ID": ("j", 0)}
    later = attempts_of_jobs({"AWS_BATCH_JOB_ID": "j", "AWS_BATCH_JOB_ATTEMPT": "2"})
    assert succeeds(later, first) and not succeeds(first, later) and not succeeds(first, first)
