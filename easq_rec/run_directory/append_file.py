"""A file to which whole records are appended, on a disk that may be full for a while."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class AppendFile:
    """Appends records, each by one unbuffered write.

    A record that cannot be written whole is taken back. Where even that fails, or where a killed process left half a
    record, the next record begins with `separator`. The file is opened by the first record that can be written.

    Args:
        separator: the end of every record, such as the line break of a line; empty: records need none.
    """

    def __init__(self, path: Path, *, separator: bytes = b"\n") -> None:
        self.path = path
        self._separator = separator
        self._handle: int | None = None
        self._torn = False

    def append(self, record: bytes) -> None:
        """Writes a record.

        Nothing is kept to be written later, and a signal handler may interrupt this method to write another record.

        Raises:
            OSError: the record could not be written whole.
        """
        handle = self._open()
        rest = self._separator + record if self._torn else record
        length = os.fstat(handle).st_size
        try:
            while rest:
                # Of a write that is too long for the disk, the system writes a part; the next one has the error.
                rest = rest[os.write(handle, rest) :]
        except OSError:
            try:
                os.ftruncate(handle, length)
            except OSError:
                self._torn |= bool(self._separator) and os.fstat(handle).st_size != length
            raise
        self._torn = False

    def close(self) -> None:
        if self._handle is not None:
            handle, self._handle = self._handle, None
            # Some network file systems report a failed write here; the records were counted as written.
            with contextlib.suppress(OSError):
                os.close(handle)

    def _open(self) -> int:
        if self._handle is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            length = os.fstat(self._handle).st_size
            if self._separator and length:
                self._torn = os.pread(self._handle, 1, length - 1) != self._separator[-1:]
        return self._handle
