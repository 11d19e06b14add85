"""Copies of a run's checkpoints in an object store, from which it goes on when its disk is gone.

Training never waits for the store: checkpoints are written to the run directory, and a thread of rank 0 copies the
newest one. A copy is complete or absent (`easq_rec.data.stored_folders`). A store that fails costs copies, and never
the run.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from easq_rec.config import Config
from easq_rec.data import files
from easq_rec.data.stored_folders import StoredFolders
from easq_rec.disk_failures import LostWrites
from easq_rec.errors import UserError
from easq_rec.run_directory.checksums import damage
from easq_rec.run_directory.config_file import require_same
from easq_rec.run_directory.paths import CHECKSUMS, CheckpointDirectory, RunDirectory, published, step_name


class CheckpointCopies:
    """Copies checkpoints in the order in which they are written, and leaves out those that a newer one overtakes.

    Args:
        location: URL of the copies of this run.
        run_dir: of the run.
        keep: number of newest copies to keep. Copies of checkpoints that the run directory still has stay, too.
    """

    def __init__(self, location: str, run_dir: Path, *, keep: int, lost: LostWrites) -> None:
        self._location = location
        self._store = StoredFolders(location, CHECKSUMS)
        self._paths = RunDirectory(run_dir)
        self._keep = keep
        self._lost = lost
        self._changed = threading.Condition()
        self._next: CheckpointDirectory | None = None
        self._busy = False
        self._thread: threading.Thread | None = None

    def add(self, checkpoint: CheckpointDirectory) -> None:
        """Copies a complete checkpoint in the background, in place of one that still waits. From any thread."""
        with self._changed:
            self._next = checkpoint
            if self._thread is None:
                # A daemon: a process that fails does not wait for the store.
                self._thread = threading.Thread(target=self._work, name="copies of checkpoints", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def finish(self) -> None:
        """Waits until the newest checkpoint is copied, or could not be."""
        with self._changed:
            self._changed.wait_for(lambda: self._next is None and not self._busy)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next is not None)
                checkpoint, self._next, self._busy = self._next, None, True
            assert checkpoint is not None
            try:
                self._copy(checkpoint)
            except Exception as error:
                # Whatever fails costs a copy: a thread that ended would let `finish` wait for ever. A checkpoint that
                # is gone was overtaken, and a newer one waits.
                if checkpoint.path.exists():
                    self._lost.add("copies", files.display_name(self._location), str(error))
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _copy(self, checkpoint: CheckpointDirectory) -> None:
        files.write(files.join(self._location, self._paths.config.name), self._paths.config)
        self._store.upload(checkpoint.path)
        kept = {one.path.name for one in published(self._paths.checkpoints)}
        self._store.keep(kept | set(self._store.names()[-self._keep :]))


def restore(config: Config, run_dir: Path, say: Callable[[str], None]) -> None:
    """Fetches the newest undamaged copy of a checkpoint that is newer than those of the run directory, if there is one.

    Args:
        say: prints a line.

    Raises:
        UserError: the store cannot be read, or has copies of a run with another configuration.
    """
    location = config.checkpoint.copy_to
    if location is None:
        return
    shown, store, paths = files.display_name(location), StoredFolders(location, CHECKSUMS), RunDirectory(run_dir)
    try:
        found = store.names()
        here = published(paths.checkpoints)
        newer = [name for name in found if not here or name > step_name(here[-1].step)]
        if newer:
            content = files.read(files.join(location, paths.config.name))
            require_same(json.loads(content), config, shown)
        for name in reversed(newer):
            checkpoint = CheckpointDirectory(paths.checkpoints / name)
            checkpoint.path.parent.mkdir(parents=True, exist_ok=True)
            store.download(name, checkpoint.path)
            problem = damage(checkpoint)
            if problem is None:
                say(f"checkpoint {name} was fetched from {shown}")
                return
            shutil.rmtree(checkpoint.path)
            say(f"the copy of checkpoint {name} in {shown} is damaged ({problem}) and is left out")
    except (OSError, ValueError) as error:
        raise UserError(f"checkpoint.copy_to={shown}: copies of checkpoints cannot be read: {error}") from error
