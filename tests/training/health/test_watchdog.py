"""What watchdogs make of what the ranks have written down."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from easq_rec.training.health.watchdog import Board, Position, Watchdog, kill, report, watched
from easq_rec.training.process import Runtime

WAITING = "waits in all_reduce at training/runtime.py:50 (agree)"
READING = "reading a batch: is at data/reader.py:9 (read)"


def position(rank: int, step: int | None, doing: str = READING, *, beat: int = 1, job: str = "a") -> Position:
    return Position(
        job=job, rank=rank, host="a", pid=100 + rank, parent=99, beat=beat, step=step, age_s=9, doing=doing,
        waits=doing == WAITING, stack=f"the main thread:\nframes of {rank}",
    )  # fmt: skip


def runtime(rank: int = 0, ranks: int = 2) -> Runtime:
    return Runtime(rank=rank, local_rank=rank, world_size=ranks, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("positions", "gone", "blamed"),
    [
        # One is busy with something else while the others wait for it, whoever is behind.
        ([position(0, 4, WAITING), position(1, 5)], set(), [1]),
        # All wait: who is behind is to blame.
        ([position(0, 5, WAITING), position(1, 4, WAITING)], set(), [1]),
        ([position(0, None, WAITING), position(1, 0, WAITING)], set(), [0]),
        # None waits: likewise.
        ([position(0, 5), position(1, 4)], set(), [1]),
        # Nothing tells them apart.
        ([position(0, 5, WAITING), position(1, 5, WAITING)], set(), [0, 1]),
        # A process that says nothing is to blame, wherever it was seen.
        ([position(0, 5), position(1, 5, WAITING)], {1}, [1]),
        # One has never been heard of.
        ([position(0, 0)], set(), [1]),
    ],
)
def test_who_is_blamed(positions: list[Position], gone: set[int], blamed: list[int]) -> None:
    told = report(positions, gone, 2, 8.0)
    names = f"rank {blamed[0]} hangs" if len(blamed) == 1 else f"one of ranks {', '.join(map(str, blamed))} hangs"
    assert told.startswith(f"no step came to its end for 8 s (trainer.timeout_s): {names}.")
    assert "\n  rank 0, " in told and "\n  rank 1, " in told
    stacks = {one.rank for one in positions if f"stacks of rank {one.rank}, the main thread:" in told}
    assert stacks == {one.rank for one in positions} & set(blamed)


def test_a_report_says_how_far_each_has_come() -> None:
    told = report([position(0, 5, WAITING), position(1, None)], {1}, 2, 8.0)
    assert f"  rank 0, 9 s after step 5, {WAITING}\n" in told
    assert "rank 1, which gives no sign of life: its process (pid 101 on a) is stopped, gone, or held" in told
    assert f"last seen 9 s into start-up, {READING}\n" in told


def test_silence_is_what_does_not_change(tmp_path: Path) -> None:
    """No clock is compared: those of two hosts may differ by minutes."""
    mine, other = Board(tmp_path / "run" / "logs", "a", 3), Board(tmp_path / "run" / "logs", "a", 3)
    for rank in (0, 1):
        other.write(position(rank, 1))
    # From an earlier start of the run, whose processes are gone.
    other.write(position(2, 7, job="before"))
    mine.read()
    assert set(mine.positions) == {0, 1}
    other.write(position(0, 1, beat=2))
    (tmp_path / "run" / "logs" / "position_1.json").write_text('{"half')
    mine.read()
    assert mine.silent() == {1} and mine.positions[0].beat == 2
    mine.forget()
    mine.read()
    assert mine.silent() == {0}, "what is known of it begins anew"


def test_nothing_is_left_of_a_run_that_came_to_nothing(tmp_path: Path) -> None:
    board = Board(tmp_path / "run" / "logs", "a", 2)
    board.write(position(0, 1))
    (tmp_path / "kept").touch()
    board.remove(0)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_the_first_to_report_says_it_all(tmp_path: Path) -> None:
    boards = [Board(tmp_path, job, 2) for job in ("a", "a", "b")]
    assert [board.claim(f"said {number}") for number, board in enumerate(boards)] == [True, False, True]
    assert (tmp_path / "hang_a.txt").read_text() == "said 0\n"
    assert Board(tmp_path / "none", "a", 2).claim("said"), "where nothing can be written, all of them do"


@pytest.mark.parametrize("field", ["host", "parent", "pid"])
def test_a_process_of_somebody_else_is_never_killed(field: str) -> None:
    """It bears the number that a rank had: on another host, of another launcher, or because that was given out anew."""
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        rank = dataclasses.replace(position(1, 1), host=socket.gethostname(), pid=bystander.pid, parent=os.getppid())
        others = {"host": {"host": "b"}, "parent": {"parent": 1}, "pid": {}}
        kill(dataclasses.replace(rank, **others[field]))
        with pytest.raises(subprocess.TimeoutExpired):
            bystander.wait(0.2)
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize("recovers", [True, False])
def test_a_step_that_ends_after_all_is_no_hang(
    recovers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """While the ranks exchange where they are; the process is not ended for a step that was just too slow."""
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    watchdog = Watchdog(tmp_path, runtime(), "a", 6.0)

    class Exchanging:
        """What the watchdog waits for while the ranks write down where they are."""

        def wait(self, seconds: float) -> bool:
            if recovers:
                watchdog.progress(1)
            return False

    monkeypatch.setattr(watchdog, "_over", Exchanging())
    watchdog._end()
    assert bool(ended) != recovers
    assert ("rank 1, which has not come to life" in capfd.readouterr().err) != recovers


def test_one_rank_is_not_watched(tmp_path: Path) -> None:
    with watched(tmp_path, runtime(ranks=1), 0.1) as watchdog:
        assert isinstance(watchdog, Watchdog) and not list(tmp_path.iterdir())
        time.sleep(0.3)
