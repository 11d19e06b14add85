"""What a failing disk refuses is reported once per kind, counted, and summed up."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from easq_rec.disk_failures import Lost, LostWrites, is_disk_failure, merged, reason_of, summary, why_full
from tests.full_disk import files_of_at_most, small_disk

FULL = "No space left on device (ENOSPC)"


def test_the_first_of_a_kind_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    lost = LostWrites(speaks=True)
    for _ in range(3):
        with lost.tolerated("metrics", Path("run/metrics.jsonl")), open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")
    lost.add("checkpoints", "run/checkpoints/step_00000002", FULL)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(
        f"easq-rec: a line of metrics was not written to run/metrics.jsonl: {FULL}. The run goes on"
    )
    assert second.startswith(f"easq-rec: a checkpoint was not written to run/checkpoints/step_00000002: {FULL}.")
    assert summary(lost.all()) == f"not written: metrics (3x), checkpoints (1x): {FULL}"


def test_other_errors_are_not_tolerated() -> None:
    lost = LostWrites(speaks=True)
    with pytest.raises(PermissionError), lost.tolerated("metrics", "file"):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    assert not lost.all() and not is_disk_failure(ValueError("no error of a disk"))


def test_ranks_are_summed_up() -> None:
    one = [Lost(kind="events", reason=FULL, count=2), Lost(kind="metrics", reason=FULL, count=5)]
    two = [Lost(kind="events", reason="Input/output error (EIO)", count=3)]
    found = merged([one, [], two])
    assert found == [Lost(kind="events", reason=FULL, count=5), Lost(kind="metrics", reason=FULL, count=5)]
    found.append(Lost(kind="batches", reason="Read-only file system (EROFS)", count=1))
    assert summary(found) == (
        f"not written: events (5x), metrics (5x): {FULL}; batches (1x): Read-only file system (EROFS)"
    )


def test_an_output_on_the_full_disk_does_not_end_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = LostWrites(speaks=True)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        lost.say("step 1")
        lost.say("step 2")
    assert lost.all() == [Lost(kind="output", reason=FULL, count=2)]
    assert "a line of output was not written to the standard output" in capsys.readouterr().err


def test_why_a_folder_takes_no_file(tmp_path: Path) -> None:
    assert why_full(tmp_path) is None
    with files_of_at_most(1_000):
        assert why_full(tmp_path) == "File too large (EFBIG)"
    program = "import sys, pathlib, easq_rec.disk_failures as d; print(d.why_full(pathlib.Path(sys.argv[1])))"
    command = [*small_disk(str(tmp_path), 512), sys.executable, "-c", program, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{FULL}\n"
    assert not list(tmp_path.iterdir())


def test_an_error_without_a_number_is_shown_as_it_is() -> None:
    assert reason_of(OSError("out of luck")) == "out of luck"
