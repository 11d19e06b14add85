"""Keeps a second job from writing to the run directory of a job that trains."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from easq_rec.errors import UserError
from easq_rec.run_directory.writer_lock import PATIENCE_S, TAKEN, UNCLEAR, WriterLock
from easq_rec.training.process import Runtime

POLL_S = 1.0
"""Seconds between two looks at a holder that may have ended."""


@contextlib.contextmanager
def only_writer(run_dir: Path, runtime: Runtime) -> Iterator[None]:
    """Within the block this job is the only one that writes to the run directory. All ranks call it; rank 0 decides.

    Raises:
        UserError: another job writes to it. On all ranks.
    """
    lock = WriterLock(run_dir) if runtime.leads else None
    waited = 0
    # Each round is a collective of its own: none takes as long as it may take to find out that a holder has ended.
    while (said := runtime.share("" if lock is None else lock.attempt())) == UNCLEAR:
        if waited == 1 and runtime.leads:
            runtime.lost.say(
                f"easq-rec: another process, on another host or in another container, may write to {run_dir}: "
                f"waiting for a sign of life, for {PATIENCE_S:.0f} s at most",
                error=True,
            )
        waited += 1
        time.sleep(POLL_S)
    if said != TAKEN:
        raise UserError(said)
    with contextlib.nullcontext() if lock is None else lock.held():
        yield
