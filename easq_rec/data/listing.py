"""Which files below a folder are data, and what they hold: one rule for the builder, inspect and the reader.

A name with a part that begins with `.` or `_` is hidden: writers use such names until they finish, and for their notes
(`_SUCCESS`, `_temporary/`). So are checksums, `*.crc`. A folder such as `_day=1` is a hive partition and visible. Every
visible file is data. The content, not the name, says whether a file is Parquet or compressed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from easq_rec.errors import UserError

Content = Literal["parquet", "gzip", "bz2", "zstd", "other", "empty"]
"""`other`: text, as far as the first bytes tell."""

HEAD = 16
"""Bytes at the beginning of a file that tell its content."""
CHECKSUM = ".crc"
"""Suffix of the checksums that Hadoop writes beside its files, mostly under hidden names."""
PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")
"""Of names in lower case."""
MAGIC: dict[bytes, Content] = {
    b"PAR1": "parquet",
    b"\x1f\x8b\x08": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    **{b"BZh" + bytes([level]) + b"1AY&SY": "bz2" for level in b"123456789"},
    # Compressed nothing.
    **{b"BZh" + bytes([level]) + b"\x17rE8P\x90": "bz2" for level in b"123456789"},
}
FOREIGN = {
    b"PARE": "Parquet with an encrypted footer",
    b"ORC\n": "ORC",
    b"ORC\x08": "ORC",
    b"Obj\x01": "Avro",
    b"ARROW1\x00\x00": "Arrow",
    b"PK\x03\x04": "a zip archive",
    b"\xfd7zXZ\x00": "xz",
    b"\x04\x22\x4d\x18": "LZ4",
    b"\xff\x06\x00\x00sNaPpY": "Snappy",
    b"SEQ\x06": "a Hadoop sequence file",
    b"SQLite format 3\x00": "SQLite",
}
"""First bytes of formats that are recognised only to name them."""


def is_hidden(name: str) -> bool:
    """Whether a name, relative to the data directory, is that of an unfinished file or of a writer's notes."""
    return name.endswith(CHECKSUM) or any(
        part.startswith(".") or (part.startswith("_") and "=" not in part) for part in name.split("/")
    )


def local_files(directory: Path | str) -> list[str]:
    """Names of all visible files below a folder of this machine, sorted, relative to it. Links are followed. A folder
    that is missing has none.

    Raises:
        UserError: a folder cannot be read; a link leads nowhere, to a folder above it, or to a file that is listed
            already; a visible name is no regular file, or is not UTF-8.
    """
    top = str(directory)
    if not os.path.lexists(top):
        return []
    found: list[str] = []
    linked = False

    def enter(folder: str, prefix: str, above: tuple[str, ...]) -> None:
        nonlocal linked
        try:
            with os.scandir(folder) as entries:
                inside = [entry for entry in entries if not is_hidden(entry.name)]
        except OSError as error:
            raise UserError(f"{folder}: cannot be read: {error.strerror or error}") from error
        for entry in inside:
            check_name(entry.path)
            linked = linked or entry.is_symlink()
            if entry.is_dir():
                real = os.path.realpath(entry.path)
                if real in above:
                    raise UserError(
                        f"{entry.path}: is a link to a folder above it: remove it, or begin its name with _"
                    )
                enter(entry.path, f"{prefix}{entry.name}/", (*above, real))
            elif entry.is_file():
                found.append(prefix + entry.name)
            else:
                raise UserError(f"{entry.path}: {_irregular(entry)}: remove it, or begin its name with _")

    enter(top, "", (os.path.realpath(top),))
    if linked:
        check_distinct([os.path.join(top, name) for name in found])
    return sorted(found)


def check_name(path: str) -> None:
    """Raises UserError for a name that is not UTF-8: neither Arrow nor DuckDB could open the file."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        shown = path.encode(errors="surrogateescape").decode(errors="replace")
        raise UserError(f"{shown}: its name is not UTF-8: rename it") from error


def check_distinct(paths: list[str]) -> None:
    """Raises UserError if two paths lead to one file, whose rows would be read twice."""
    places: dict[str, str] = {}
    for path in paths:
        other = places.setdefault(os.path.realpath(path), path)
        if other != path:
            raise UserError(
                f"{path}: is the same file as {other}, so its rows would be read twice: remove the link, or begin its "
                "name with _"
            )


def content_of(head: bytes, shown: str) -> Content:
    """What a file holds that begins with these bytes, `HEAD` of them or all.

    Raises UserError, which calls the file `shown`, for a known format that nothing here reads.
    """
    if not head:
        return "empty"
    for magic, name in FOREIGN.items():
        if head.startswith(magic):
            raise UserError(f"{shown}: is {name}: convert it to Parquet or CSV, or begin its name with _")
    return next((content for magic, content in MAGIC.items() if head.startswith(magic)), "other")


def is_parquet_name(name: str) -> bool:
    """Whether a name ends as those of Parquet files do, in any case."""
    return name.lower().endswith(PARQUET_SUFFIXES)


def _irregular(entry: os.DirEntry[str]) -> str:
    return "is a link that leads nowhere" if entry.is_symlink() else "is no regular file"
