"""The files of a raw table: found by path, glob or directory, with the format that their content shows."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from codecs import BOM_UTF8
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import pyarrow as pa

from easq_rec.data.listing import (
    HEAD,
    Content,
    check_distinct,
    check_name,
    content_of,
    is_hidden,
    is_parquet_name,
    local_files,
)
from easq_rec.errors import UserError
from easq_rec.tools.builder.config import Source

Compression = Literal["gzip", "bz2", "zstd"]
COMPRESSED: dict[Content, Compression] = {"gzip": "gzip", "bz2": "bz2", "zstd": "zstd"}
TEXT_NAME = re.compile(r"(?i)([^.]*|.*\.(csv|tsv|psv|tab|txt|text|c\d+))(\.\d+)*(\.(gz|gzip|bz2|zst|zstd))?")
"""Names that CSV files have: a usual suffix or none, a number behind it (log rotation), and that of a compression."""
PACKED_NAME = re.compile(r"(?i)\.(gz|gzip|bz2|zst|zstd)$")
DAMAGED_BZ2 = re.compile(rb"BZh[1-9]")
"""Beginning of a bz2 file; with more bytes behind it, a healthy one is told from a text (`MAGIC`)."""
NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"
"""Value of a hive partition that stands for null."""


@dataclass(frozen=True, kw_only=True)
class RawFile:
    """One file of a raw table."""

    path: str
    """Absolute."""
    csv: bool
    compression: Compression | None = None
    """Of a CSV file."""
    partition: dict[str, str | None] = field(default_factory=dict)
    """Columns that the names of its folders give, as in `day=2024-01-31/`."""


@dataclass(frozen=True, kw_only=True)
class RawFiles:
    """The files of a raw table, in order of their names."""

    files: tuple[RawFile, ...]
    empty: tuple[str, ...]
    """Paths of CSV files without any content, so without rows."""

    @property
    def csv(self) -> bool:
        """Whether they are CSV files, not Parquet."""
        return self.files[0].csv

    @property
    def paths(self) -> list[str]:
        return sorted([*(file.path for file in self.files), *self.empty])


def find(source: Source, base: Path) -> RawFiles:
    """The files of a table; every visible file below a directory is one of them.

    Raises:
        UserError: there are none, all are empty, one cannot be read, or their formats differ or are unknown.
    """
    assert source.path is not None
    path = os.path.join(os.path.abspath(base), os.path.expanduser(source.path))
    if os.path.isdir(path):
        top, found = path, [os.path.join(path, name) for name in local_files(path)]
    else:
        top, found = None, _matches(path)
    if not found:
        raise UserError(f"{source.path!r}: no such file: a file, a glob, or a directory with Parquet or CSV files")
    files, empty = [], []
    for file in found:
        csv, content = _format(file, source)
        if content == "empty":
            empty.append(file)
        else:
            partition = _partition(os.path.relpath(file, top)) if top is not None else {}
            files.append(RawFile(path=file, csv=csv, compression=COMPRESSED.get(content), partition=partition))
    if not files:
        raise UserError(f"{source.path!r}: all {len(empty)} files are empty, so the columns are unknown")
    first = files[0]
    other = next((one for one in files if one.csv != first.csv), None)
    if other is not None:
        names = [f"{one.path} is {'CSV' if one.csv else 'Parquet'}" for one in (first, other)]
        raise UserError(f"{source.path!r}: one table has one format, but {' and '.join(names)}: part them")
    return RawFiles(files=tuple(files), empty=tuple(empty))


def folders_read(source: Source, base: Path, out: Path) -> list[Path]:
    """Folders that a table reads whole, as an output in them would be read by the next build: its directory, or the
    output itself if the table's glob matches it."""
    if source.path is None:
        return []
    path = os.path.join(os.path.abspath(base), os.path.expanduser(source.path))
    if os.path.isdir(path):
        return [Path(path)]
    fixed, parts = _fixed(path)
    return [out] if parts and fnmatch.fnmatch(os.path.abspath(out), os.path.join(glob.escape(fixed), *parts)) else []


def _fixed(pattern: str) -> tuple[str, list[str]]:
    """The parts of a pattern that exist as they are written, and so are no pattern, and the other parts."""
    fixed, *parts = "/", *pattern.strip("/").split("/")
    while parts and os.path.lexists(os.path.join(fixed, parts[0])):
        fixed = os.path.join(fixed, parts.pop(0))
    return fixed, parts


def _matches(pattern: str) -> list[str]:
    """Files that a path or a glob names."""
    fixed, parts = _fixed(pattern)
    if not parts:
        found, explicit = [fixed], True
    else:
        explicit = False
        matched = glob.glob(os.path.join(glob.escape(fixed), *parts), recursive=True)
        # Python's glob leaves out names with a dot only.
        found = [path for path in matched if not _matched_hidden(os.path.relpath(path, fixed), parts)]
    files: set[str] = set()
    for path in found:
        check_name(path)
        if os.path.isdir(path):
            files.update(os.path.join(path, name) for name in local_files(path))
        elif os.path.isfile(path):
            files.add(path)
        else:
            problem = "leads nowhere" if os.path.islink(path) else "is no regular file"
            raise UserError(f"{path}: {problem}" + ("" if explicit else ": remove it, or begin its name with _"))
    paths = sorted(files)
    if any(os.path.realpath(path) != path for path in paths):
        check_distinct(paths)
    return paths


def _matched_hidden(name: str, parts: list[str]) -> bool:
    """Whether a hidden part of a found name was matched by a wildcard, rather than written in the pattern."""
    return any(is_hidden(part) and part not in parts for part in name.split("/"))


def _format(path: str, source: Source) -> tuple[bool, Content]:
    """(whether a file is CSV, what its first bytes show). Raises UserError for what is neither CSV nor Parquet."""
    name = os.path.basename(path)
    head = _head(path, None)
    content = content_of(head, path)
    if content == "parquet":
        if source.format == "csv":
            raise UserError(f"{path}: is Parquet, but format is 'csv'")
        return False, content
    if source.format == "parquet" or (source.format == "auto" and is_parquet_name(name)):
        what = "it is empty" if content == "empty" else "it does not begin with PAR1"
        raise UserError(f"{path}: is not a Parquet file, {what}: remove it, or begin its name with _")
    if source.format == "auto" and not TEXT_NAME.fullmatch(name):
        raise UserError(
            f"{path}: neither its content nor its name shows the format: set format = 'csv', or begin its name with _"
        )
    if content in COMPRESSED:
        head = _head(path, COMPRESSED[content])
        inside = content_of(head, path)
        if inside not in ("other", "empty"):
            raise UserError(f"{path}: holds {inside} data in {content}: decompress it")
    elif PACKED_NAME.search(name) and not _is_text(head):
        raise UserError(f"{path}: is neither text nor compressed as its name says: it is damaged, or named wrongly")
    elif _is_binary(head, source):
        raise UserError(
            f"{path}, line 1: is not text in {source.encoding}: set encoding to the file's; if it is no CSV, "
            "begin its name with _"
        )
    blank = len(head) < HEAD and not head.removeprefix(BOM_UTF8).strip()
    return True, "empty" if blank else content


def _is_text(head: bytes) -> bool:
    """Whether the first bytes of a file may be text in UTF-8, of which the last character may be cut."""
    text = head.decode(errors="replace").rstrip("\ufffd")
    return "\ufffd" not in text and not _has_controls(text)


def _is_binary(head: bytes, source: Source) -> bool:
    """Whether the first bytes of a file show that it is no text. A letter that cannot be read does not: it costs a row,
    unless the file also begins as bz2, in which little else would tell."""
    text = head.decode(source.encoding, "replace")
    return _has_controls(text, source.delimiter) or (bool(DAMAGED_BZ2.match(head)) and not _is_text(head))


def _has_controls(text: str, delimiter: str = "\x01") -> bool:
    """Whether a text has control characters besides those of CSV files; `\\x01` is the delimiter of Hive."""
    return any(letter < " " and letter not in "\t\r\n" + delimiter for letter in text)


def _head(path: str, compression: Compression | None) -> bytes:
    """The first bytes of a file's content. Raises UserError."""
    try:
        with pa.input_stream(path, compression=compression) as stream:
            return bytes(stream.read(HEAD))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def _partition(name: str) -> dict[str, str | None]:
    """Columns and values in the names of the folders of a file, relative to the table's directory."""
    pairs = (part.split("=", 1) for part in name.split("/")[:-1] if "=" in part)
    return {unquote(key): None if value == NULL_FOLDER else unquote(value) for key, value in pairs}
