"""The versions in a directory of packages, and the one that is served. Loads without torch.

`DIR/VERSION` is a package. It appears by a rename when it is complete, and its name sorts by time. `DIR/current.json`
names the version that is served.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from easq_rec import json_file
from easq_rec.errors import UserError

MANIFEST, CURRENT = "manifest.json", "current.json"


def current_of(directory: Path) -> Path:
    """The package that `current.json` names; a package itself is its own.

    Raises UserError: there is none.
    """
    if (directory / MANIFEST).is_file():
        return directory
    try:
        return directory / str(json.loads((directory / CURRENT).read_text())["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{directory}: holds no package: {CURRENT} is missing or torn: give the --output of `easq-rec export`"
        ) from error


def set_current(directory: Path, version: str) -> None:
    """Names the version that is served. The file is replaced as a whole."""
    json_file.write(directory / CURRENT, {"version": version})


def versions_of(directory: Path) -> list[str]:
    """The complete versions, oldest first."""
    return sorted(path.parent.name for path in directory.glob(f"*/{MANIFEST}") if not path.parent.name.startswith("."))


def roll_back(directory: Path, to: str | None = None) -> tuple[str, str]:
    """Names an earlier version; returns (the version before, the version now).

    Args:
        to: a version; None: the one before the current one.

    Raises:
        UserError: there is no such version.
    """
    before = current_of(directory).name
    now = roll_back_from(str(directory), before, versions_of(directory), to)
    set_current(directory, now)
    return before, now


def roll_back_from(where: str, before: str, found: Sequence[str], to: str | None) -> str:
    """The version to go back to.

    Args:
        where: place of the packages, for messages.
        before: the version that is served.
        found: the complete versions, oldest first.
        to: as of `roll_back`.

    Raises:
        UserError: there is no such version.
    """
    if to is None:
        earlier = [version for version in found if version < before]
        if not earlier:
            raise UserError(f"{where}: no version is older than {before}, which is served")
        return earlier[-1]
    if to not in found:
        raise UserError(f"--to {to}: no such version in {where}; there are {', '.join(found)}")
    return to


def remove_old(directory: Path, keep: int) -> None:
    """Removes all but the newest packages and the one that is served."""
    served = current_of(directory).name
    for version in versions_of(directory)[:-keep]:
        if version != served:
            # A package without a manifest is none, so a half-removed one is never served.
            shutil.rmtree(directory / version, ignore_errors=True)
