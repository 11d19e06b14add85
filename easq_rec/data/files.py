"""Files on the local disk, or on any filesystem that pyarrow or fsspec supports.

A location is a path or a URL: `s3://bucket/logs`, `gs://...`, `hdfs://...`. pyarrow's filesystems are tried first, then
those registered with fsspec. S3 reads its credentials from the usual environment variables, and options from the URL:
`s3://bucket/logs?region=...&endpoint_override=...`.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs

from easq_rec.errors import UserError

Location = Path | str


def is_remote(location: Location) -> bool:
    """Whether a location is a URL."""
    return "://" in str(location)


def join(location: Location, name: str) -> str:
    """The location of `name` in a folder."""
    base, mark, options = str(location).partition("?") if is_remote(location) else (str(location), "", "")
    return f"{base.rstrip('/') if base != '/' else ''}/{name}{mark}{options}"


def parent(location: Location) -> str:
    """The location of the folder that holds a folder or a file."""
    if not is_remote(location):
        return os.path.dirname(os.path.abspath(location))
    base, mark, options = str(location).partition("?")
    return f"{base.rstrip('/').rpartition('/')[0]}{mark}{options}"


def display_name(location: Location) -> str:
    """A location for messages, without the options of its URL."""
    return str(location).partition("?")[0] if is_remote(location) else str(location)


def is_dir(location: Location) -> bool:
    """Whether a folder exists. Raises UserError if the filesystem cannot be reached."""
    filesystem, path = _resolve(str(location))
    try:
        return bool(filesystem.get_file_info(path).type == pafs.FileType.Directory)
    except OSError as error:
        raise UserError(f"{display_name(location)}: cannot be reached: {error}") from error


def all_files(directory: Location) -> list[str]:
    """Names of all files below a folder, sorted, relative to it, without unfinished files.

    Raises UserError if the filesystem cannot be reached.
    """
    filesystem, path = _resolve(str(directory))
    try:
        found = filesystem.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    except OSError as error:
        raise UserError(f"{display_name(directory)}: cannot be reached: {error}") from error
    # Some filesystems return names with an extra leading slash.
    start = len(path.strip("/")) + 1 if path.strip("/") else 0
    names = [info.path.lstrip("/")[start:] for info in found if info.type == pafs.FileType.File]
    return sorted(filter(_committed, names))


def parquet_files(directory: Location) -> list[str]:
    """Names of all Parquet files below a folder, sorted, relative to it, without unfinished files.

    Raises:
        UserError: there are no files, or the filesystem cannot be reached.
    """
    names = [name for name in all_files(directory) if name.endswith(".parquet")]
    if not names:
        raise UserError(
            f"{display_name(directory)} has no Parquet files: --data must be the folder with requests/ and answers/"
        )
    return names


def open_file(location: str) -> pa.NativeFile:
    """Opens a file for random access. Raises OSError."""
    filesystem, path = _resolve(location)
    return filesystem.open_input_file(path)


def copy(source: str, target: Path) -> None:
    """Copies a file to the local disk. Raises UserError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open_file(source) as file:
            file.download(str(target))
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{display_name(source)}: cannot be copied: {error}") from error


def identity(location: str) -> tuple[int, ...]:
    """(time of the last write, size); changes when the file is rewritten. Raises OSError if the file is missing."""
    filesystem, path = _resolve(location)
    info = filesystem.get_file_info(path)
    if info.type != pafs.FileType.File:
        raise FileNotFoundError("no such file")
    return info.mtime_ns or 0, info.size


def _resolve(location: str) -> tuple[pafs.FileSystem, str]:
    """(filesystem, path within it)."""
    if not is_remote(location):
        return _LOCAL, location
    url, _, options = location.partition("?")
    scheme, _, rest = url.partition("://")
    host, _, below = rest.partition("/")
    filesystem, root = _connect(f"{scheme}://{host}", options)
    return filesystem, f"{root.rstrip('/')}/{below}" if below else root


@lru_cache(maxsize=64)
def _connect(root: str, options: str) -> tuple[pafs.FileSystem, str]:
    """(filesystem, path of its root), opened once. Raises UserError for an unsupported URL."""
    try:
        found: tuple[pafs.FileSystem, str] = pafs.FileSystem.from_uri(f"{root}/{'?' if options else ''}{options}")
        return found
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as arrow_error:
        try:
            theirs, path = fsspec.core.url_to_fs(root)
        except (ValueError, ImportError) as error:
            raise UserError(f"{root}: unknown filesystem: {arrow_error}; {error}") from error
        return pafs.PyFileSystem(pafs.FSSpecHandler(theirs)), path


def _committed(name: str) -> bool:
    """Spark and similar writers use `_temporary/` and hidden names until they finish."""
    return not any(part.startswith(("_", ".")) for part in name.split("/"))


_LOCAL = pafs.LocalFileSystem()
