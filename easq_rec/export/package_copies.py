"""Packages in an object store: `URL/VERSION`, complete or absent, and `URL/current.json` with the version to serve.

A trainer uploads what it has exported. A server keeps a copy on its own disk, from which it maps the tables. Loads
without torch.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from easq_rec import json_file
from easq_rec.data import files
from easq_rec.data.stored_folders import StoredFolders
from easq_rec.errors import UserError
from easq_rec.export.versions import CURRENT, MANIFEST, current_of, remove_old, roll_back_from, set_current

KEPT_HERE = 2
"""Newest packages that a server keeps on its disk, with the one that it serves."""


class PackageCopies:
    """The packages at a URL.

    Raises:
        UserError: the store cannot be reached, or what it has is no package.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self._store = StoredFolders(location, MANIFEST)
        self._current = files.join(location, CURRENT)

    def upload(self, directory: Path, *, keep: int | None = None) -> str:
        """Copies the current package of a directory, and names it as the version to serve; returns it.

        Args:
            keep: number of newest packages to keep, with the one that is served; None: all.
        """
        folder = current_of(directory)
        with self._named():
            self._store.upload(folder)
            self._name(folder.name)
            if keep is not None:
                self._store.keep({folder.name, *self._store.names()[-keep:]})
        return folder.name

    def current(self) -> str:
        """The version to serve."""
        with self._named():
            try:
                return str(json.loads(files.read(self._current))["version"])
            except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"{self}: holds no package: {CURRENT} is missing or torn") from error

    def fetch(self, directory: Path) -> str:
        """Makes the version to serve the current package of a directory, and copies it if the directory lacks it."""
        version = self.current()
        if not (directory / version / MANIFEST).is_file():
            directory.mkdir(parents=True, exist_ok=True)
            with self._named():
                # What was left by a process that was killed.
                shutil.rmtree(directory / version, ignore_errors=True)
                self._store.download(version, directory / version)
        if not (directory / CURRENT).is_file() or current_of(directory).name != version:
            set_current(directory, version)
            remove_old(directory, KEPT_HERE)
        return version

    def roll_back(self, to: str | None = None) -> tuple[str, str]:
        """As `easq_rec.export.versions.roll_back`."""
        before = self.current()
        with self._named():
            now = roll_back_from(str(self), before, self._store.names(), to)
            self._name(now)
        return before, now

    def _name(self, version: str) -> None:
        files.write(self._current, json_file.text({"version": version}).encode())

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Errors of the store name it."""
        try:
            yield
        except OSError as error:
            raise UserError(f"{self}: {error}") from error

    def __str__(self) -> str:
        return files.display_name(self.location)


@contextlib.contextmanager
def mirrored(location: str, directory: Path, interval_s: float, say: Callable[[str], None]) -> Iterator[None]:
    """Within the block a thread keeps the current package of a directory that of a URL.

    It is there when the block begins. Later failures are said once each, and tried again.

    Raises:
        UserError: it cannot be copied at first.
    """
    copies, over, said = PackageCopies(location), threading.Event(), ""
    copies.fetch(directory)

    def watch() -> None:
        nonlocal said
        while not over.wait(interval_s):
            try:
                copies.fetch(directory)
                said = ""
            except Exception as error:
                # Whatever fails: a watch that ended would serve this package for ever.
                if str(error) != said:
                    said = str(error)
                    say(f"{said}; the package on this disk stays")

    thread = threading.Thread(target=watch, name="packages", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
