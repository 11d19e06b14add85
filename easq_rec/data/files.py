"""Files on the local disk, or on any filesystem that pyarrow or fsspec knows.

A location is a path or a URL: `s3://bucket/logs`, `gs://...`, `hdfs://...`. pyarrow's own filesystems come first, then
what fsspec has registered. S3 takes its credentials from the usual environment variables, and options as
`s3://bucket/logs?region=...&endpoint_override=...`.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs

from easq_rec.errors import UserError

Location = Path | str


def is_remote(location: Location) -> bool:
    """Whether it is a URL."""
    return "://" in str(location)


def join(location: Location, name: str) -> str:
    """The location of what is called `name` below another."""
    base, mark, options = str(location).partition("?") if is_remote(location) else (str(location), "", "")
    return f"{base.rstrip('/') if base != '/' else ''}/{name}{mark}{options}"


def shown(location: Location) -> str:
    """A location for a message, without the options of its URL."""
    return str(location).partition("?")[0] if is_remote(location) else str(location)


def is_dir(location: Location) -> bool:
    """Whether there is such a folder. Raises UserError where that cannot be found out."""
    filesystem, path = _resolve(str(location))
    try:
        return bool(filesystem.get_file_info(path).type == pafs.FileType.Directory)
    except OSError as error:
        raise UserError(f"{shown(location)}: cannot be reached: {error}") from error


def parquet_files(directory: Location) -> list[str]:
    """Names of all Parquet files below a folder, in order, relative to it, without what a writer has not finished.

    Raises:
        UserError: there are none.
    """
    filesystem, path = _resolve(str(directory))
    try:
        found = filesystem.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    except OSError as error:
        raise UserError(f"{shown(directory)}: cannot be reached: {error}") from error
    # Names come in the form of the folder's own, some with another slash in front.
    start = len(path.strip("/")) + 1 if path.strip("/") else 0
    names = [info.path.lstrip("/")[start:] for info in found if info.type == pafs.FileType.File]
    names = sorted(name for name in names if name.endswith(".parquet") and _committed(name))
    if not names:
        raise UserError(
            f"{shown(directory)} holds no Parquet files: --data names the folder with requests/ and answers/"
        )
    return names


def open_file(location: str) -> pa.NativeFile:
    """A file, to be read at any place. Raises OSError."""
    filesystem, path = _resolve(location)
    return filesystem.open_input_file(path)


def identity(location: str) -> tuple[int, ...]:
    """Time of the last write and size: others after the file was written again. Raises OSError where it is gone."""
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
    """(filesystem, path of its root), opened once. Raises UserError for a URL that nobody knows."""
    try:
        found: tuple[pafs.FileSystem, str] = pafs.FileSystem.from_uri(f"{root}/{'?' if options else ''}{options}")
        return found
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as arrow_error:
        try:
            theirs, path = fsspec.core.url_to_fs(root)
        except (ValueError, ImportError) as error:
            raise UserError(f"{root}: not a filesystem that is known here: {arrow_error}; {error}") from error
        return pafs.PyFileSystem(pafs.FSSpecHandler(theirs)), path


def _committed(name: str) -> bool:
    """Spark and its like write below `_temporary/` and hidden names until they are done."""
    return not any(part.startswith(("_", ".")) for part in name.split("/"))


_LOCAL = pafs.LocalFileSystem()
