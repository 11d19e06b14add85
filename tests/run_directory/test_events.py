"""The log of a rank has whole lines, also with concurrent writers and after a full disk."""

from __future__ import annotations

import json
import resource
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from easq_rec.run_directory.events import event, recorded
from easq_rec.training.process import Runtime

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
    """An error when the log is written or closed does not end the run. It is reported once.

    When there is space again, new events start on a new line.
    """
    log, before = tmp_path / "logs" / "rank_0.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    with recorded(tmp_path, RUNTIME):
        event("start")
        room = log.stat().st_size + 10
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        with recorded(tmp_path, RUNTIME):
            event("lost")
            event("lost")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{log} cannot be written" in said
    with recorded(tmp_path, RUNTIME):
        event("finished")
    first, torn, last = log.read_text().splitlines()
    assert json.loads(first)["event"] == "start" and json.loads(last)["event"] == "finished" and len(torn) == 10
