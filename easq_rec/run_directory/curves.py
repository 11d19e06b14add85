"""Curves for TensorBoard, in its own format.

torch's SummaryWriter writes in a thread. On a full disk that thread dies with a traceback, and the error arrives at
some later call. Here every call writes, and raises the error of its own write.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event as BoardEvent
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from easq_rec.run_directory.append_file import AppendFile

FILES = itertools.count()


class Curves:
    """A new file of TensorBoard events.

    Args:
        folder: of the files of all starts of a run.
        first_step: TensorBoard hides the points of earlier starts from this step on.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(FILES)}"
        self._file = AppendFile(folder / name, separator=b"")
        self._first_step = first_step
        self._begun = False

    @property
    def path(self) -> Path:
        return self._file.path

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one point to each curve.

        Args:
            values: by the name of the curve.

        Raises:
            OSError: the points could not be written; the file is as before.
        """
        # Other characters are not allowed in the name of a curve.
        names = {name: re.sub(r"[^-/\w.]", "_", name) for name in values}
        points = [Summary.Value(tag=names[name], simple_value=value) for name, value in values.items()]
        record = self._record(BoardEvent(step=step, summary=Summary(value=points)))
        if self._begun:
            self._file.append(record)
            return
        head = BoardEvent(file_version="brain.Event:2")
        begin = BoardEvent(step=self._first_step, session_log=SessionLog(status=SessionLog.START))
        self._file.append(self._record(head) + self._record(begin) + record)
        self._begun = True

    def close(self) -> None:
        self._file.close()

    @staticmethod
    def _record(event: BoardEvent) -> bytes:
        """Length, event, and the checksums of both."""
        event.wall_time = time.time()
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        return record.getvalue()
