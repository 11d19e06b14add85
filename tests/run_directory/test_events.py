"""The log of a rank has whole lines, also with concurrent writers and after a full disk."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from easq_rec.disk_failures import Lost, LostWrites
from easq_rec.run_directory.event_file import read_events
from easq_rec.run_directory.events import event, recorded
from easq_rec.training.process import Runtime
from tests.full_disk import files_of_at_most

RUNTIME = Runtime(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"))


def lines(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "logs" / "rank_0.jsonl").read_text().splitlines()]


def test_every_line_has_the_step(tmp_path: Path) -> None:
    """A line has the step that the event names, or else the current step. An exception names no step."""

    def fails() -> None:
        with recorded(tmp_path, RUNTIME) as recorder:
            event("start")
            recorder.step = lambda: 7
            event("checkpoint", step=6)
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError):
        fails()
    event("after the log was closed")
    assert [(line["event"], line["step"]) for line in lines(tmp_path)] == [
        ("start", None),
        ("checkpoint", 6),
        ("exception", 7),
    ]


def test_threads_and_signal_handlers_write_whole_lines(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGALRM, lambda number, frame: event("signal"))
    try:
        with recorded(tmp_path, RUNTIME):
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            threads = [threading.Thread(target=lambda: [event("thread") for _ in range(200)]) for _ in range(2)]
            for thread in threads:
                thread.start()
            for _ in range(400):
                event("main")
            for thread in threads:
                thread.join()
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    names = [line["event"] for line in lines(tmp_path)]
    assert names.count("main") == 400 and names.count("thread") == 400 and names.count("signal") > 0


def test_a_full_disk_does_not_end_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An error when the log is written or closed does not end the run. It is reported once, and counted.

    What is written of such a line is taken back. New events follow when there is space again.
    """
    log = tmp_path / "logs" / "rank_0.jsonl"
    with recorded(tmp_path, RUNTIME):
        event("start")
        room = log.stat().st_size + 10
    runtime = dataclasses.replace(RUNTIME, lost=LostWrites(speaks=True))
    with files_of_at_most(room), recorded(tmp_path, runtime):
        event("lost")
        event("lost")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"not written to {log}: File too large (EFBIG). The run goes on" in said
    with recorded(tmp_path, RUNTIME):
        event("finished")
    assert [line["event"] for line in lines(tmp_path)] == ["start", "finished"]
    assert runtime.lost.all() == [Lost(kind="events", reason="File too large (EFBIG)", count=2)]


def test_a_line_that_a_killed_process_left_incomplete_is_skipped_and_counted(tmp_path: Path) -> None:
    """The next event starts on a new line."""
    log = tmp_path / "logs" / "rank_0.jsonl"
    with recorded(tmp_path, RUNTIME):
        event("start")
    with log.open("a") as file:
        file.write('{"time": "2026-')
    with recorded(tmp_path, RUNTIME):
        event("finished")
    found = read_events(log)
    assert [one.name for one in found.events] == ["start", "finished"] and found.torn == 1
