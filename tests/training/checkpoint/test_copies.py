"""Copies of checkpoints: whatever fails in the thread that copies, the run ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from easq_rec.data import files
from easq_rec.disk_failures import LostWrites
from easq_rec.run_directory.paths import RunDirectory
from easq_rec.training.checkpoint.copies import CheckpointCopies


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("invalid"), RuntimeError("unexpected")])
def test_every_failure_is_counted_and_the_next_copy_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    lost, run = LostWrites(speaks=False), tmp_path / "run"
    copies = CheckpointCopies(f"file://{tmp_path}/store", run, keep=2, lost=lost)
    paths = RunDirectory(run)
    for step in (1, 2, 3):
        folder = paths.checkpoint(step).path
        folder.mkdir(parents=True)
        (folder / "checksums.json").write_text("{}")
    paths.config.write_text("{}")

    def failing(location: str, source: Path | bytes) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(files, "write", failing)
        for step in (1, 2):
            copies.add(paths.checkpoint(step))
            copies.finish()
    assert [(one.kind, one.count) for one in lost.all()] == [("copies", 2)]
    copies.add(paths.checkpoint(3))
    copies.finish()
    assert (tmp_path / "store" / "step_00000003" / "checksums.json").exists()
