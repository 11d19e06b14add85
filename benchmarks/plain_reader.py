"""Reads a raw table of impressions in plain Python, row by row: what `easq-rec data build` must read.

Written independently of the builder, from the page on raw logs. It knows the table that `benchmarks.spellings` writes.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq

Values = dict[str, Any]
WANTED = ("user", "video", "at", "watched", "length", "liked", "kind", "tags")
NULLS = ("\\N", "NULL", "")
LOST = object()
"""A cell that no rule can read."""
PER_MS = {"s": 1_000, "ms": 1, "us": 1 / 1_000}


@dataclass(kw_only=True)
class Read:
    """What a table holds."""

    kept: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    """(user, video, time in ms, watch time in ms, liked, kind, tags) of the good rows."""
    lost: int = 0
    """Bad rows, and lines that are no rows."""
    defaulted: int = 0
    """Bad cells of `kind` in good rows."""
    files: int = 0


def read_table(folder: Path, impressions: Values, ids: str, zone: str) -> Read:
    """Reads all visible files below a folder.

    Args:
        impressions: keys of the table in the TOML file of a build.
        ids: `integer` or `text`, the type of users.
        zone: of times that have none.
    """
    found = Read()
    for file in visible(folder):
        found.files += 1
        for row in rows_of(file, impressions):
            made = None if row is None else cast(row, impressions, ids, zone)
            if made is None:
                found.lost += 1
            else:
                found.kept[made[:-1]] += 1
                found.defaulted += made[-1]
    return found


def visible(folder: Path) -> list[Path]:
    """Files that are data, in order of their names."""
    files = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not hidden(name)]
        files += [Path(place) / name for name in names if not hidden(name)]
    return sorted(files)


def hidden(name: str) -> bool:
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def rows_of(file: Path, impressions: Values) -> Iterator[Values | None]:
    """The rows of a file; None for each line that is none."""
    content = file.read_bytes()
    if content[:4] == b"PAR1":
        table = pq.ParquetFile(io.BytesIO(content)).read()
        for number, column in enumerate(table.schema):
            if pa.types.is_timestamp(column.type):
                # Python's datetime has no nanoseconds.
                times = table[number].cast(pa.timestamp("us", column.type.tz), safe=False)
                table = table.set_column(number, column.name, times)
        yield from table.to_pylist()
        return
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    elif content[:3] == b"BZh":
        content = bz2.decompress(content)
    elif content[:4] == b"\x28\xb5\x2f\xfd":
        content = pa.CompressedInputStream(io.BytesIO(content), "zstd").read()
    encoding = impressions.get("encoding", "utf-8-sig")
    strict = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    lines = list(io.StringIO(content.decode("utf-8-sig" if strict != "strict" else encoding, strict), newline=""))
    taken = 0

    def counted() -> Iterator[str]:
        nonlocal taken
        for line in lines:
            taken += 1
            yield line

    quote, escape = impressions.get("quote", '"'), impressions.get("escape")
    reader = csv.reader(
        counted(),
        delimiter=impressions.get("delimiter", ","),
        quotechar=quote or None,
        doublequote=escape is None,
        escapechar=escape,
        quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
        strict=True,
    )
    names = impressions.get("header", True)
    while True:
        before = taken
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield from [None] * (taken - before)
            continue
        if names is True:
            names = record
        elif record:
            yield dict(zip(names, record, strict=True)) if len(record) == len(names) else None


def cast(row: Values, impressions: Values, ids: str, zone: str) -> tuple[Any, ...] | None:
    """(the values of a row, number of cells that took their default), or None if one of them is bad."""
    row = {name: plain(row[name]) for name in WANTED}
    if any(isinstance(value, str) and not encodes(value) for value in row.values()):
        return None
    user = row["user"] if ids == "text" and row["user"] is not None else integer(row["user"])
    kind = integer(row["kind"])
    made = (
        str(user) if ids == "text" and user is not LOST and user is not None else user,
        integer(row["video"]),
        moment(row["at"], impressions["time_unit"], zone),
        milliseconds(row["watched"], 0),
        flag(row["liked"]),
        9 if kind is LOST or kind is None else kind,
        tags(row["tags"]),
    )
    bad = any(value is LOST or value is None for value in made)
    if bad or milliseconds(row["length"], 1) is LOST or row["length"] is None:
        return None
    return (*made, int(kind is LOST))


def plain(value: Any) -> Any:
    """A cell: bytes are text, texts that stand for null are None, and so are no texts."""
    if isinstance(value, bytes):
        value = value.decode(errors="surrogateescape")
    return None if isinstance(value, str) and value.strip(" ") in NULLS else value


def encodes(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def integer(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, float):
        whole = math.isfinite(value) and value == int(value) and abs(value) < 2**53
        return int(value) if whole else LOST
    found = re.fullmatch(r" *(-?(?:0|[1-9][0-9]*))(?:\.0*)? *", str(value))
    number = int(found[1]) if found is not None else 2**63
    return number if -(2**63) <= number < 2**63 else LOST


def number(value: Any) -> Any:
    """A float; LOST for what is none."""
    try:
        return LOST if isinstance(value, str) and "_" in value else float(value)
    except ValueError:
        return LOST


def milliseconds(value: Any, least: int) -> Any:
    if value is None:
        return None
    seconds = number(value)
    if seconds is LOST or not math.isfinite(seconds) or seconds < 0:
        return LOST
    made = math.floor(1_000 * seconds + 0.5)
    return made if least <= made < 2**31 else LOST


def flag(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, str):
        word = value.strip(" ").lower()
        if word in ("true", "t", "yes", "y", "false", "f", "no", "n"):
            return int(word[0] in "ty")
    found = number(value)
    return int(found) if found is not LOST and found in (0, 1) else LOST


def tags(value: Any) -> Any:
    if value is None:
        return ()
    if isinstance(value, str):
        if value.strip(" ").startswith("["):
            try:
                value = json.loads(value, parse_float=str)
            except ValueError:
                return LOST
        else:
            value = value.split("|")
    made = tuple(integer(item) for item in value)
    return LOST if any(item is LOST or item is None for item in made) else made


def moment(value: Any, unit: str, zone: str) -> Any:
    """Milliseconds since 1970."""
    if value is None:
        return None
    if unit != "timestamp":
        ms = number(value)
        if ms is LOST or not math.isfinite(ms):
            return LOST
        scaled = ms * PER_MS[unit]
        made = math.floor(scaled + 0.5) if unit == "s" else math.floor(scaled)
    else:
        time = value if isinstance(value, datetime) else parsed(value)
        if time is LOST:
            return LOST
        if time.tzinfo is None:
            time = localised(time, zone)
        if time is LOST:
            return LOST
        made = (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    return made if 0 <= made < 2**42 else LOST


TEXT = re.compile(
    r" *(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?"
    r" ?(Z|UTC|[+-]\d\d:?(?:\d\d)?|[A-Z][a-z]+/[A-Za-z_]+)?)? *"
)


def parsed(value: str) -> Any:
    """A datetime, with a zone if the text has one."""
    found = TEXT.fullmatch(value)
    if found is None:
        return LOST
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    fraction, zone = (found[7] or "0").ljust(6, "0")[:6], found[8]
    try:
        time = datetime(year, month, day, hour, minute, second, int(fraction))
        if zone is None:
            return time
        if "/" in zone:
            return localised(time, zone)
    except (ValueError, KeyError):
        return LOST
    if zone in ("Z", "UTC"):
        return time.replace(tzinfo=UTC)
    digits = zone[1:].replace(":", "").ljust(4, "0")
    shift = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return time.replace(tzinfo=UTC) + (shift if zone[0] == "-" else -shift)


def localised(time: datetime, zone: str) -> Any:
    """A local time in its zone; LOST if the clocks skip or repeat it."""
    both = [time.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC) for fold in (0, 1)]
    return both[0] if both[0] == both[1] else LOST
