"""Folders in an object store, or on another disk: each is complete or absent.

An object store has no rename, but an object appears when it is whole. So a folder is complete once its marker is there,
a file that names the others with their sizes and checksums: `checksums.json` of a checkpoint, `manifest.json` of a
package. It is written last and removed first.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from easq_rec.data import files


class StoredFolders:
    """The folders below a location that have a marker. All methods raise OSError if the store fails.

    Args:
        location: a URL such as `s3://bucket/runs/a`. It is created by the first write.
    """

    def __init__(self, location: str, marker: str) -> None:
        self._location, self._marker = location, marker

    def names(self) -> list[str]:
        """Names of the complete folders, sorted."""
        return sorted(name for name, held in self._held().items() if self._marker in held)

    def upload(self, folder: Path) -> None:
        """Copies a folder of this machine, under its name. Files of an earlier attempt are replaced."""
        target = files.join(self._location, folder.name)
        names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
        for name in sorted(names, key=lambda name: name == self._marker):
            files.write(files.join(target, name), folder / name)

    def download(self, name: str, target: Path) -> None:
        """Copies a folder to this machine. `target` appears by a rename when it is complete."""
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        source = files.join(self._location, name)
        for file in files.sizes(source):
            place = partial / file
            place.parent.mkdir(parents=True, exist_ok=True)
            files.copy_file(files.join(source, file), place)
        os.rename(partial, target)

    def keep(self, names: set[str]) -> None:
        """Removes the folders that are not among the names, also incomplete ones."""
        for name, held in self._held().items():
            if name in names:
                continue
            source = files.join(self._location, name)
            for file in sorted(held, key=lambda file: file != self._marker):
                files.remove(files.join(source, file))

    def _held(self) -> dict[str, list[str]]:
        """The files of each folder."""
        found: dict[str, list[str]] = {}
        for path in files.sizes(self._location):
            folder, _, name = path.partition("/")
            if name:
                found.setdefault(folder, []).append(name)
        return found
