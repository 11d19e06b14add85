"""How watchdogs find the ranks that hang from the positions of all ranks."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from easq_rec.training.health.watchdog import Board, Position, Watchdog, find_suspects, kill, report, watched
from easq_rec.training.phases import WAITING
from easq_rec.training.process import Runtime


def position(rank: int, step: int | None, phase: str = "data", entered: int = 2, *, beat: int = 1) -> Position:
    return Position(
        job="a", rank=rank, host="a", pid=100 + rank, parent=99, beat=beat, step=step, entered=entered, phase=phase,
        waits=phase == WAITING, age_s=9,
    )  # fmt: skip


def runtime(rank: int = 0, ranks: int = 2) -> Runtime:
    return Runtime(rank=rank, local_rank=rank, world_size=ranks, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("positions", "gone", "suspects"),
    [
        # One rank waits for the other, whatever their steps are.
        ([position(0, 4, WAITING), position(1, 5)], set(), [1]),
        # Both ranks wait: the one that is behind hangs.
        ([position(0, 5, WAITING), position(1, 4, WAITING)], set(), [1]),
        ([position(0, None, WAITING), position(1, 0, WAITING)], set(), [0]),
        # No rank waits: the one that is behind hangs.
        ([position(0, 5), position(1, 4)], set(), [1]),
        # In the same step, the rank that has entered fewer phases hangs: the other waits inside TorchRec.
        ([position(0, 5, "forward", 4), position(1, 5, "data", 3)], set(), [1]),
        # Nothing distinguishes the ranks, so both are suspects.
        ([position(0, 5, "backward"), position(1, 5, "backward")], set(), [0, 1]),
        # A process whose file does not change hangs, whatever its last position is.
        ([position(0, 5), position(1, 5, WAITING)], {1}, [1]),
        # A rank that has written no position hangs.
        ([position(0, 0)], set(), [1]),
    ],
)
def test_suspects_are_found_and_reported(positions: list[Position], gone: set[int], suspects: list[int]) -> None:
    assert find_suspects(positions, gone, 2) == suspects
    text = report(positions, suspects, gone, 8.0)
    names = f"rank {suspects[0]} hangs" if len(suspects) == 1 else "one of ranks 0, 1 hangs"
    assert text.startswith(f"no progress for 8 s (trainer.timeout_s): {names}.")
    assert "\n  rank 0 " in text and "\n  rank 1 " in text


def test_a_report_names_the_phase_of_every_rank() -> None:
    text = report([position(0, 5, "forward"), position(1, None)], [1], {1}, 8.0)
    assert "  rank 0 after step 5, for 9 s in phase forward\n" in text
    assert "rank 1 gives no sign of life: its process (pid 101 on a) is stopped, gone, or held" in text
    assert text.endswith("last seen starting, for 9 s in phase data")


def test_a_rank_is_silent_if_its_file_does_not_change(tmp_path: Path) -> None:
    """Clocks are not compared, because those of two hosts may differ by minutes."""
    mine, other = Board(tmp_path / "run" / "logs", "a", 3), Board(tmp_path / "run" / "logs", "a", 3)
    for rank in (0, 1):
        other.write(position(rank, 1))
    # A position of an earlier start of the run is ignored.
    other.write(dataclasses.replace(position(2, 7), job="before"))
    mine.read()
    assert set(mine.positions) == {0, 1}
    other.write(position(0, 1, beat=2))
    (tmp_path / "run" / "logs" / "position_1.json").write_text('{"half')
    mine.read()
    assert mine.silent() == {1} and mine.positions[0].beat == 2
    mine.forget()
    mine.read()
    assert mine.silent() == {0}, "after forget, a change of its file has not been seen yet"


def test_remove_deletes_the_position_and_empty_directories(tmp_path: Path) -> None:
    board = Board(tmp_path / "run" / "logs", "a", 2)
    board.write(position(0, 1))
    (tmp_path / "kept").touch()
    board.remove(0)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_one_rank_prints_the_whole_report(tmp_path: Path) -> None:
    boards = [Board(tmp_path, job, 2) for job in ("a", "a", "b")]
    assert [board.claim(f"report {number}") for number, board in enumerate(boards)] == [True, False, True]
    assert (tmp_path / "hang_a.txt").read_text() == "report 0\n"
    assert Board(tmp_path / "none", "a", 2).claim("report"), "without a directory every rank prints it"


@pytest.mark.parametrize("field", ["host", "parent", "pid"])
def test_a_process_that_is_not_a_rank_is_never_killed(field: str) -> None:
    """The process has the pid of a rank, but on another host, with another launcher, or because the pid was reused."""
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
def test_a_rank_that_continues_in_time_is_not_reported(
    recovers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A rank may enter its next phase while the ranks compare their positions."""
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    rank = runtime()
    watchdog = Watchdog(tmp_path, rank, "a", 6.0)

    class Comparing:
        """Stand-in for the event that the watchdog waits for while the ranks write their positions."""

        def wait(self, seconds: float) -> bool:
            if recovers:
                with rank.phases("data"):
                    pass
            return False

    monkeypatch.setattr(watchdog, "_over", Comparing())
    watchdog._end_job()
    assert bool(exits) != recovers
    assert ("rank 1 has not started" in capfd.readouterr().err) != recovers
    assert (tmp_path / "stacks_0.txt").exists() != recovers


def test_the_stacks_of_a_suspect_are_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    watchdog = Watchdog(tmp_path, runtime(), "a", 6.0)
    watchdog._dump_stacks(shown=False)
    assert "test_the_stacks_of_a_suspect_are_shown" in (tmp_path / "stacks_0.txt").read_text()
    assert not capfd.readouterr().err
    watchdog._dump_stacks(shown=True)
    err = capfd.readouterr().err
    assert err.startswith("stacks of rank 0\n")


def test_one_rank_is_not_watched(tmp_path: Path) -> None:
    before = threading.active_count()
    with watched(tmp_path, runtime(ranks=1), 0.1):
        assert threading.active_count() == before
        time.sleep(0.3)
    assert not list(tmp_path.iterdir())
