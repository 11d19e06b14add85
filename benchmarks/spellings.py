"""Random raw tables of impressions, in random spellings, formats, encodings and files.

Every draw is from one generator, so that a seed gives the same table, and a property-based test can shrink it.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import random
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.plain_reader import Values

START_S = 1_767_225_600
"""2026-01-01T00:00:00Z."""
ZONES = ("UTC", "Asia/Shanghai", "America/New_York")
TITLES = (
    *("clip", "one, two", 'say "hi"', "a;b|c", "two\nlines", "cr\r\nlf", "é", ""),
    *(" lead", "it's", "back\\slash", "t\tab"),
)


def write_table(rng: random.Random, folder: Path) -> Values:
    """Writes files below `folder` / imp; returns the parsed TOML of a build of them."""
    parquet = rng.random() < 0.4
    zone = rng.choice(ZONES)
    ids = rng.choice(("integer", "integer", "text"))
    unit = rng.choice(("s", "ms", "us", "timestamp", "timestamp"))
    impressions: Values = {"path": "imp", "time_unit": unit, "watch_unit": "s", "duration_unit": "s"}
    if not parquet:
        impressions |= _dialect(rng)
    rows = [_row(rng, number, ids, unit, zone) for number in range(rng.randrange(1, 25))]
    parts: list[list[Values]] = [[] for _ in range(rng.randrange(1, 4))]
    for row in rows:
        rng.choice(parts).append(row)
    top = folder / "imp"
    top.mkdir(parents=True)
    for number, part in enumerate(parts):
        place = top / rng.choice(("", "day=1", "[x] y", "_day=2", "deep/er"))
        place.mkdir(parents=True, exist_ok=True)
        if parquet:
            _write_parquet(rng, place, number, part, unit, ids)
        else:
            _write_csv(rng, place, number, part, impressions)
    _write_others(rng, top, parquet)
    names = {"user_id": "user", "video_id": "video", "timestamp": "at", "watch": "watched", "duration": "length"}
    impressions |= {
        "columns": names,
        "outcomes": {"like": "liked"},
        "features": {
            "kind": {"column": "kind", "type": "id", "default": 9},
            "tags": {"column": "tags", "type": "ids"},
        },
    }
    return {
        "impressions": impressions,
        "ids": {"user": ids},
        "time_zone": zone,
        "max_bad_share": 1.0,
        "requests": {"max_candidates": 1, "max_history": 0},
        "engine": {"memory_mb": 256, "threads": rng.choice((1, 2)), "bucket_impressions": rng.choice((5, 500_000))},
    }


def _dialect(rng: random.Random) -> Values:
    quote = rng.choice(('"', '"', '"', "'", ""))
    values: Values = {
        "delimiter": rng.choice((",", ",", ";", "\t", "\x01")),
        "quote": quote,
        "encoding": rng.choice(("utf-8-sig", "utf-8-sig", "utf-8", "latin-1", "utf-16", "gb18030")),
    }
    if quote and rng.random() < 0.2:
        values["escape"] = "\\"
    if rng.random() < 0.2:
        values["header"] = ["user", "video", "at", "watched", "length", "liked", "kind", "tags", "title"]
    return values


def _row(rng: random.Random, number: int, ids: str, unit: str, zone: str) -> Values:
    """Cells as texts. Users, videos and times differ between rows, so that no row is a duplicate."""
    user = rng.choice((7, 8, -3, 0, 2**53 + 1, 2**60 + rng.randrange(9), 2**63 - 1))
    text = rng.choice((str(user), "007", "a b", "é", str(2**63 + rng.randrange(3)), "x,y"))
    bad = rng.random() < 0.1
    row = {
        "user": text if ids == "text" else _integer(rng, user),
        "video": _integer(rng, 100 + number),
        "at": _time(rng, START_S + 601 * number + rng.randrange(400 * 86_400), unit, zone),
        "watched": rng.choice(("8", "8.0", " 3.5", "1e1", "0")),
        "length": rng.choice(("20", "20.00", " 15")),
        "liked": rng.choice(("1", "0", "1.0", " 1", "true", "FALSE", "t", "0.0")),
        "kind": rng.choice(("5", "6.0", "\\N", "NULL", "", "x", "05")),
        "tags": rng.choice(("", "1|2", "3", "[1, 2]", "[]", '["4"]', "NULL", "1|2.0")),
        "title": rng.choice(TITLES),
    }
    wrong = ({"user": "x1" if ids == "integer" else ""}, {"at": "soon"}, {"liked": "2"}, {"tags": "[1"})
    return row | rng.choice(wrong) if bad else row


def _integer(rng: random.Random, value: int) -> str:
    return rng.choice((str(value), str(value), f" {value}", f"{value}.0", f"{value} "))


def _time(rng: random.Random, seconds: int, unit: str, zone: str) -> str:
    if unit != "timestamp":
        value = seconds * {"s": 1, "ms": 1_000, "us": 1_000_000}[unit]
        return f"{value}.0" if unit == "s" and rng.random() < 0.2 else str(value)
    how = rng.choice(("local", "local", "Z", "+08:00", "-0330", "+05", "named", "UTC"))
    if how == "local":
        time = datetime.fromtimestamp(seconds, ZoneInfo(zone)).replace(tzinfo=None)
        return time.isoformat(rng.choice("T "))
    if how == "named":
        return f"{datetime.fromtimestamp(seconds, ZoneInfo('Asia/Tokyo')):%Y-%m-%d %H:%M:%S} Asia/Tokyo"
    shift = {"Z": 0, "UTC": 0, "+08:00": 480, "-0330": -210, "+05": 300}[how]
    time = datetime.fromtimestamp(seconds + 60 * shift, UTC).replace(tzinfo=None)
    return f"{time.isoformat('T')}{rng.choice(('', '.25'))}{' UTC' if how == 'UTC' else how}"


def _write_csv(rng: random.Random, place: Path, number: int, rows: list[Values], dialect: Values) -> None:
    names = dialect.get("header") or ["user", "video", "at", "watched", "length", "liked", "kind", "tags", "title"]
    encoding, quote = dialect["encoding"], dialect["quote"]
    if "header" not in dialect:
        names = rng.sample(names, len(names))
    end = rng.choice(("\n", "\n", "\r\n", "\r"))
    buffer = io.StringIO(newline="")
    writer = csv.writer(
        buffer,
        delimiter=dialect["delimiter"],
        quotechar=quote or None,
        doublequote="escape" not in dialect,
        escapechar=dialect.get("escape"),
        # The writer leaves line ends of another kind without quotes, unless it quotes all.
        quoting=csv.QUOTE_ALL if quote else csv.QUOTE_NONE,
        lineterminator=end,
    )
    if "header" not in dialect:
        writer.writerow(names)
    for row in rows:
        writer.writerow([_writable(row[name], dialect) for name in names])
        if rng.random() < 0.05:
            buffer.write(end)
    text = buffer.getvalue()
    if quote and rng.random() < 0.5:
        # As writers that quote only what must be quoted; titles are left as they are.
        for row in rows:
            for name in ("video", "watched", "liked"):
                if row[name] == row[name].strip():
                    text = text.replace(f"{quote}{row[name]}{quote}", row[name])
    if rng.random() < 0.2:
        text = text.removesuffix(end)
    content = text.encode(encoding, errors="ignore")
    if encoding.startswith("utf-8") and rng.random() < 0.2:
        content = text.encode("utf-8-sig")
    pack = rng.choice((None, None, "gzip", "bz2", "zstd"))
    suffix = {None: ("",), "gzip": (".gz", ""), "bz2": (".bz2", ""), "zstd": (".zst", "")}[pack]
    name = f"{rng.choice(('part-', 'P', '0000'))}{number}{rng.choice(('.csv', '.CSV', '', '.txt'))}{rng.choice(suffix)}"
    (place / name).write_bytes(compressed(content, pack))


def _writable(text: str, dialect: Values) -> str:
    """A cell that the dialect can hold: without quotes, no delimiter and no line end."""
    if dialect["quote"]:
        return text if "escape" not in dialect or "\\" not in text else text.replace("\\", "/")
    return "".join(letter for letter in text if letter not in f"{dialect['delimiter']}\r\n\"'\\") or "-"


def compressed(content: bytes, pack: str | None) -> bytes:
    if pack == "gzip":
        half = len(content) // 2
        return gzip.compress(content[:half]) + gzip.compress(content[half:])
    if pack == "bz2":
        return bz2.compress(content)
    if pack == "zstd":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(content)
        return bytes(sink.getvalue())
    return content


def _write_parquet(rng: random.Random, place: Path, number: int, rows: list[Values], unit: str, ids: str) -> None:
    columns: dict[str, pa.Array] = {}
    for name in ("user", "video", "at", "watched", "length", "liked", "kind", "tags", "title"):
        columns[name] = _array(rng, name, [row[name] for row in rows], unit, ids)
    names = rng.sample(list(columns), len(columns))
    file = place / f"part-{number}{rng.choice(('.parquet', '.PARQ', '', '.pq'))}"
    codec = rng.choice(("snappy", "zstd", "none"))
    pq.write_table(pa.table({name: columns[name] for name in names}), file, row_group_size=5, compression=codec)


def _array(rng: random.Random, name: str, texts: list[str], unit: str, ids: str) -> pa.Array:
    """A column as text, or in a type that all its cells have."""
    plain = [text.strip() for text in texts]
    whole = [int(float(text)) if "." in text else int(text) for text in plain] if _all_whole(plain) else None
    choices = ["text", "text", "binary", "large", "dictionary"]
    if name == "user" and ids == "text":
        pass
    elif name in ("user", "video", "length", "at") and whole is not None and (name != "at" or unit != "timestamp"):
        choices += ["int64", "int64", "decimal"]
        if max(map(abs, whole), default=0) < 2**53 and name != "at":
            choices.append("float")
    elif name == "at" and unit == "timestamp" and rng.random() < 0.5:
        return _timestamps(rng, len(texts))
    elif name == "tags" and rng.random() < 0.4:
        lists = rng.choice((pa.list_(pa.int32()), pa.large_list(pa.int64())))
        return pa.array([rng.choice(([1, 2], [], None, [3])) for _ in texts], lists)
    match rng.choice(choices):
        case "int64":
            return pa.array(whole, pa.int64())
        case "decimal":
            return pa.array(whole, pa.decimal128(20, 0))
        case "float":
            return pa.array(list(map(float, whole or [])), pa.float64())
        case "binary":
            return pa.array([text.encode() for text in texts], pa.binary())
        case "large":
            return pa.array(texts, pa.large_string())
        case "dictionary":
            return pa.array(texts, pa.string()).dictionary_encode()
    return pa.array(texts, pa.string())


def _all_whole(texts: list[str]) -> bool:
    return all(re.fullmatch(r"-?\d+|-?\d{1,12}\.0", text) for text in texts)


def _timestamps(rng: random.Random, count: int) -> pa.Array:
    """Times in a unit of Parquet, with or without a zone. Local times avoid the hours when clocks change."""
    unit, zone = rng.choice(("s", "ms", "us", "ns")), rng.choice((None, "UTC", "Asia/Tokyo", "+05:30"))
    factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    values = [(START_S + 43_200 + 86_400 * rng.randrange(300)) * factor + rng.randrange(factor) for _ in range(count)]
    return pa.array(values, pa.timestamp(unit, zone))


def _write_others(rng: random.Random, top: Path, parquet: bool) -> None:
    """Hidden files, and CSV files without content."""
    others: dict[str, Any] = {"_SUCCESS": b"", ".crc": b"\x00\x01", "_temporary/0/part.csv": b"x,y\n1,2\n"}
    for name, content in others.items():
        if rng.random() < 0.3:
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_bytes(content)
    if not parquet and rng.random() < 0.3:
        (top / "empty.csv").write_bytes(b"")
