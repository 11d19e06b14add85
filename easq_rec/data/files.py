"""Files on the local disk, or on any filesystem that pyarrow or fsspec supports.

A location is a path or a URL: `s3://bucket/logs`, `gs://...`, `hdfs://...`. pyarrow's filesystems are tried first, then
those registered with fsspec. S3 reads its credentials from the usual environment variables, and options from the URL:
`s3://bucket/logs?region=...&endpoint_override=...`.
"""

from __future__ import annotations

import os
import shutil
from functools import lru_cache
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs

from easq_rec.data.listing import HEAD, content_of, is_hidden, is_parquet_name, local_files
from easq_rec.errors import UserError

Location = Path | str
CHUNK = 2**20
"""Bytes that are copied at once."""


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
    """Names of all visible files below a folder, sorted, relative to it (`listing` says which are visible).

    Raises UserError if the filesystem cannot be reached, or a name is no readable file.
    """
    filesystem, path = _resolve(str(directory))
    if filesystem is _LOCAL:
        return local_files(path)
    try:
        found = filesystem.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    except OSError as error:
        raise UserError(f"{display_name(directory)}: cannot be reached: {error}") from error
    # Some filesystems return names with an extra leading slash.
    start = len(path.strip("/")) + 1 if path.strip("/") else 0
    names = [info.path.lstrip("/")[start:] for info in found if info.type == pafs.FileType.File]
    return sorted(name for name in names if not is_hidden(name))


def parquet_files(directory: Location) -> list[str]:
    """Names of all visible files below a folder, sorted, relative to it. All must be Parquet.

    Raises:
        UserError: there are no files, one is not Parquet, or the filesystem cannot be reached.
    """
    names = all_files(directory)
    if not names:
        raise UserError(
            f"{display_name(directory)} has no Parquet files: --data must be the folder with requests/ and answers/"
        )
    for name in names:
        # The footer of a file that is named as Parquet is read anyway.
        if not is_parquet_name(name):
            check_parquet(join(directory, name))
    return names


def check_parquet(location: str) -> None:
    """Raises UserError that names a file whose content is not Parquet."""
    shown = display_name(location)
    try:
        with open_file(location) as file:
            content = content_of(file.read(HEAD), shown)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{shown}: cannot be read: {error}") from error
    if content != "parquet":
        raise UserError(f"{shown}: is not Parquet, as every file of a dataset: remove it, or begin its name with _")


def open_file(location: str) -> pa.NativeFile:
    """Opens a file for random access. Raises OSError."""
    filesystem, path = _resolve(location)
    return filesystem.open_input_file(path)


def copy_file(location: str, target: Path) -> None:
    """Copies a file to this machine. Raises OSError, also if the disk is full."""
    # Not pyarrow's `download`: it writes in a thread, and loses the error of a full disk.
    with open_file(location) as file, target.open("wb") as out:
        shutil.copyfileobj(file, out, CHUNK)


def copy(location: str, target: Path) -> None:
    """Copies a file to this machine and makes its folder. Raises UserError."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_file(location, target)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{display_name(location)}: cannot be copied: {error}") from error


def read(location: str) -> bytes:
    """The content of a small file. Raises OSError, a FileNotFoundError if it is missing."""
    with open_file(location) as file:
        return bytes(file.read())


def write(location: str, source: Path | bytes) -> None:
    """Writes a file from a file of this machine, or from its content. In an object store it appears when it is whole.

    Raises OSError.
    """
    filesystem, path = _resolve(location)
    if filesystem is _LOCAL or filesystem.type_name == "local":
        filesystem.create_dir(os.path.dirname(path))
    with filesystem.open_output_stream(path) as out:
        if isinstance(source, bytes):
            out.write(source)
            return
        with source.open("rb") as file:
            shutil.copyfileobj(file, out, CHUNK)


def sizes(folder: Location) -> dict[str, int]:
    """Bytes of all files below a folder, hidden ones too, by their names relative to it; empty if it does not exist.

    Raises OSError.
    """
    filesystem, path = _resolve(str(folder))
    found = filesystem.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    start = len(path.strip("/")) + 1 if path.strip("/") else 0
    return {info.path.strip("/")[start:]: info.size for info in found if info.type == pafs.FileType.File}


def remove(location: str) -> None:
    """Removes a file. Raises OSError."""
    filesystem, path = _resolve(location)
    filesystem.delete_file(path)


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


_LOCAL = pafs.LocalFileSystem()
