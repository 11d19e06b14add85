"""The log of committed files that Spark Structured Streaming keeps beside what it writes.

A task that fails leaves files that no batch has committed. `_spark_metadata/N` names the files of batch N, one JSON
object per line after a first line with the version; `N.compact` holds those of all batches up to N.
"""

from __future__ import annotations

import json
import re
from urllib.parse import unquote, urlparse

from easq_rec.data import files
from easq_rec.errors import UserError

METADATA = "_spark_metadata"
BATCH = re.compile(r"(\d+)(\.compact)?")
VERSION = "v1"


def committed_files(directory: files.Location) -> list[str]:
    """Names of the committed files relative to a folder, batch by batch, in the order of their names within a batch.

    Raises:
        UserError: a batch cannot be read, or lies in another folder.
    """
    folder = files.join(directory, METADATA)
    batches: dict[int, str] = {}
    compact = -1
    for name in files.all_files(folder):
        if (found := BATCH.fullmatch(name)) is not None:
            number = int(found[1])
            if found[2] and number > compact:
                compact = number
            if found[2] or number not in batches:
                batches[number] = name
    added: dict[str, None] = {}
    for number in sorted(number for number in batches if number >= compact):
        actions = _actions(files.join(folder, batches[number]))
        for path in sorted(path for path, action in actions if action == "add"):
            added[_relative(path, directory)] = None
        for path in (path for path, action in actions if action == "delete"):
            added.pop(_relative(path, directory), None)
    return list(added)


def _actions(location: str) -> list[tuple[str, str]]:
    """(path, action) of every line."""
    shown = files.display_name(location)
    try:
        with files.open_file(location) as file:
            version, *lines = file.read().decode().splitlines()
        if version != VERSION:
            raise UserError(f"{shown}: is of version {version!r}, and {VERSION!r} can be read")
        return [(entry["path"], entry["action"]) for entry in map(json.loads, filter(None, lines))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{shown}: is no batch of Spark's file log: {error}") from error


def _relative(path: str, directory: files.Location) -> str:
    """The name of a file in a folder, by the last folders that both have: the log holds absolute URLs."""
    folder = files.display_name(directory).rstrip("/").rpartition("/")[2]
    inside = unquote(urlparse(path).path)
    _, mark, name = inside.rpartition(f"/{folder}/")
    if not mark:
        raise UserError(
            f"{files.display_name(directory)}: Spark's file log names {path}, which is not in this folder: follow the "
            "folder under the name with which Spark has written it"
        )
    return name
