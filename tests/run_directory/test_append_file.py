"""Records are whole, whatever the disk does."""

from __future__ import annotations

from pathlib import Path

import pytest

from easq_rec.run_directory.append_file import AppendFile
from tests.full_disk import files_of_at_most


def test_a_record_that_does_not_fit_is_taken_back(tmp_path: Path) -> None:
    file = AppendFile(tmp_path / "folder" / "file")
    file.append(b"one\n")
    with files_of_at_most(6), pytest.raises(OSError, match="File too large"):
        file.append(b"two\n")
    assert file.path.read_bytes() == b"one\n"
    file.append(b"three\n")
    file.close()
    assert file.path.read_bytes() == b"one\nthree\n"


def test_half_a_record_of_a_killed_process_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one\ntw")
    file = AppendFile(path)
    with files_of_at_most(8), pytest.raises(OSError, match="File too large"):
        file.append(b"two\n")
    file.append(b"three\n")
    file.append(b"four\n")
    file.close()
    assert path.read_bytes() == b"one\ntw\nthree\nfour\n"


def test_a_file_that_cannot_be_made_is_made_later(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file in the place of the folder")
    file = AppendFile(tmp_path / "folder" / "file")
    with pytest.raises(OSError, match="exists"):
        file.append(b"one\n")
    (tmp_path / "folder").unlink()
    file.append(b"two\n")
    file.close()
    assert file.path.read_bytes() == b"two\n"


def test_an_unused_file_is_not_made(tmp_path: Path) -> None:
    AppendFile(tmp_path / "file").close()
    assert not list(tmp_path.iterdir())


def test_a_full_device_is_an_error() -> None:
    file = AppendFile(Path("/dev/full"), separator=b"")
    with pytest.raises(OSError, match="No space left on device"):
        file.append(b"one")
    file.close()
