"""Reads the public CSV files of KuaiRand by block; ValueError names file, row, column and the expected values.

Source of names, types and value ranges: the data description at https://kuairand.com. Columns are found by name. Row 1
is the first row below the header.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from numpy.typing import NDArray

Int = NDArray[np.integer[Any]]
Types = Mapping[str, pa.DataType]

VARIANTS = ("pure", "1k", "27k")
STANDARD = ("log_standard_4_08_to_4_21", "log_standard_4_22_to_5_08")
RANDOM = "log_random_4_22_to_5_08"
WITHOUT = {
    STANDARD[0]: "no requests before 22 April; histories begin on 22 April and are shorter at the start",
    STANDARD[1]: "no requests and no answers from 22 April on",
    RANDOM: "no dataset random/, so nothing can be evaluated on random exposures",
}
"""Log in time order: what the datasets lack if it is missing."""
BLOCK_BYTES = 1 << 25
MAX_ID = 2**31 - 2
MAX_TIME_MS = 2**41
"""In the year 2039. Time and user index share one int64 as sort key."""
MAX_TABLE_ID = 500_000_000
"""Larger user or video ids in a feature file count as damage, because tables are indexed by id."""

CLICK, LONG_VIEW, SATISFIED, HATE, RANDOM_EXPOSURE = 1, 2, 4, 8, 16
"""Bits of `flags`; SATISFIED: like, follow, comment or forward."""
SATISFIED_SIGNALS = ("is_like", "is_follow", "is_comment", "is_forward")
SIGNALS = {"is_click": CLICK, "long_view": LONG_VIEW, "is_hate": HATE, "is_rand": RANDOM_EXPOSURE}
SIGNALS |= dict.fromkeys(SATISFIED_SIGNALS, SATISFIED)
TABS = 15
LOG: Types = dict.fromkeys(
    ("user_id", "video_id", "time_ms", "play_time_ms", "duration_ms", "tab", *SIGNALS), pa.int64()
)

REGISTER_DAYS = ("15-30", "31-60", "61-90", "91-180", "181-365", "366-730", "730+")
ONEHOT = {1: 7, 2: 50, 4: 15, 5: 34, 6: 3, 7: 118, 8: 454, 9: 7, 10: 5, 11: 5}
"""Encrypted user features with 3 to 500 values: number of values by name."""
USER: Types = {
    "user_id": pa.int64(),
    "register_days_range": pa.string(),
    **{f"onehot_feat{feature}": pa.float64() for feature in ONEHOT},
}
VIDEO_TYPES = ("NORMAL", "AD")
VIDEO: Types = {
    "video_id": pa.int64(),
    "author_id": pa.float64(),
    "video_type": pa.string(),
    "upload_dt": pa.string(),
    "tag": pa.string(),
}
NO_AUTHOR = -1
NO_DAY = np.iinfo(np.int32).max
"""Upload day of a video without one: later than every request."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of one variant."""

    variant: str
    logs: tuple[Path, ...]
    """Standard logs in time order, then the random one; at least one standard log."""
    missing: tuple[str, ...]
    """Logs that are not there: keys of WITHOUT."""
    users: Path
    videos: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Users:
    """Codes of user features, 0: unknown. Row `index[user_id]`; the last row is for unknown users."""

    index: Int
    code: dict[str, Int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Videos:
    """Video features, row `index[video_id]`; the last row is for unknown videos."""

    index: Int
    author: Int
    kind: Int
    """0: unknown, 1: NORMAL, 2: AD."""
    upload_day: Int
    """Days since 1970 (Beijing time); NO_DAY: unknown."""
    tags: pa.ListArray


def rows_of(index: Int, ids: Int) -> Int:
    """Table rows of ids; ids beyond the table use the last entry of `index`."""
    return index[np.minimum(ids, len(index) - 1)]


def find_files(raw: Path, variant: str | None) -> Files:
    """The files in `raw` or `raw/data`.

    Logs may be missing, as long as one standard log is there. ValueError names any other file that is missing.
    """
    folder = raw / "data" if (raw / "data").is_dir() else raw
    found = [name for name in VARIANTS if any(folder.glob(f"log_*_{name}.csv")) or any(folder.glob(f"*_{name}_*.csv"))]
    if variant is None and len(found) > 1:
        raise ValueError(f"--raw {raw}: has {' and '.join(found)}: choose one with --variant")
    if variant is None and not found:
        raise ValueError(f"--raw {raw}: no file {STANDARD[0]}_VARIANT.csv: expected an unpacked KuaiRand archive")
    chosen = variant or found[0]
    logs = {name: _parts(folder, f"{name}_{chosen}") for name in WITHOUT}
    if not any(logs[name] for name in STANDARD):
        names = " or ".join(f"{name}_{chosen}.csv" for name in STANDARD)
        raise ValueError(f"--raw {folder}: no file {names}: at least one standard log is needed")
    (users,) = _needed(folder, f"user_features_{chosen}")[:1]
    videos = _needed(folder, f"video_features_basic_{chosen}")
    return Files(
        variant=chosen,
        logs=tuple(path for paths in logs.values() for path in paths),
        missing=tuple(name for name, paths in logs.items() if not paths),
        users=users,
        videos=tuple(videos),
    )


def _needed(folder: Path, stem: str) -> list[Path]:
    """The files of `_parts`; ValueError if there are none."""
    found = _parts(folder, stem)
    if not found:
        raise ValueError(f"--raw {folder}: no file {stem}.csv: unpack the whole archive")
    return found


def _parts(folder: Path, stem: str) -> list[Path]:
    """STEM.csv, or STEM_part1.csv, STEM_part2.csv and so on; no files if the folder has none of them."""
    whole = folder / f"{stem}.csv"
    parts = {int(path.stem.rpartition("part")[2]): path for path in folder.glob(f"{stem}_part[0-9]*.csv")}
    if whole.is_file() and parts:
        raise ValueError(f"{whole}: both this file and its parts {sorted(parts)} exist: remove one or the other")
    if not whole.is_file() and not parts:
        return []
    absent = set(range(1, max(parts, default=0) + 1)) - set(parts)
    if absent:
        raise ValueError(f"--raw {folder}: no file {stem}_part{min(absent)}.csv: unpack the whole archive")
    return [parts[number] for number in sorted(parts)] if parts else [whole]


def blocks(path: Path, types: Types) -> Iterator[tuple[int, pa.Table]]:
    """(number of the first row, the columns of `types`) of each block. Integers are never null, other types can be."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file), [])
    if not header:
        raise ValueError(f"{path}: the file is empty: expected a header with {', '.join(types)}")
    missing = [name for name in types if name not in header]
    if missing:
        raise ValueError(f"{path}: no column {', '.join(missing)}: found {', '.join(header)}")
    first = 1
    try:
        reader = pacsv.open_csv(
            path,
            read_options=pacsv.ReadOptions(block_size=BLOCK_BYTES),
            convert_options=pacsv.ConvertOptions(
                column_types=dict(types), include_columns=list(types), strings_can_be_null=True
            ),
        )
        for batch in reader:
            table = pa.Table.from_batches([batch])
            if any(table[name].null_count for name, kind in types.items() if kind == pa.int64()):
                raise pa.ArrowInvalid("an empty cell")
            yield first, table
            first += table.num_rows
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        _diagnose(path, header, types)
        raise ValueError(f"{path}: cannot be read as CSV: {error}") from error


def _diagnose(path: Path, header: list[str], types: Types) -> None:
    """Reads a rejected file again, slowly, and raises ValueError for the first invalid cell."""
    patterns = {
        pa.int64(): (re.compile(r"\s*-?\d{1,18}\s*"), "an integer"),
        pa.float64(): (re.compile(r"\s*(-?\d+(\.\d*)?([eE][-+]?\d+)?|nan|)\s*", re.IGNORECASE), "a number or empty"),
    }
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file)
        next(reader)
        for number, cells in enumerate(filter(None, reader), start=1):
            if len(cells) != len(header):
                raise ValueError(f"{path}: row {number}: {len(cells)} cells: expected {len(header)} as in the header")
            for name, cell in zip(header, cells, strict=True):
                pattern, expected = patterns.get(types.get(name), (None, ""))
                if pattern is not None and not pattern.fullmatch(cell):
                    raise ValueError(f"{path}: row {number}, column {name}: found {cell!r}, expected {expected}")


def check(bad: NDArray[np.bool_], values: Int, path: Path, first: int, column: str, expected: str) -> None:
    """Raises ValueError for the first bad row of a block."""
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"{path}: row {first + row}, column {column}: found {values[row]}, expected {expected}")


def log_blocks(path: Path, counts: Counter[str]) -> Iterator[dict[str, Int]]:
    """Impressions of a log as arrays user, video, time_ms, play_ms, duration_ms, tab, flags; checked and counted.

    Negative play times and durations count as 0, and a duration of 0 as unknown. Play times above the duration are
    valid: a short video is played in a loop.
    """
    for first, table in blocks(path, LOG):
        column = {name: table[name].to_numpy() for name in LOG}
        for name, low, high, expected in (
            ("user_id", 0, MAX_ID, f"an id in 0..{MAX_ID}"),
            ("video_id", 0, MAX_ID, f"an id in 0..{MAX_ID}"),
            ("time_ms", 1, MAX_TIME_MS, "milliseconds since 1970"),
            ("tab", 0, TABS - 1, f"a scenario in 0..{TABS - 1}"),
            *((name, 0, 1, "0 or 1") for name in SIGNALS),
        ):
            values = column[name]
            check((values < low) | (values > high), values, path, first, name, expected)
        play, duration = column["play_time_ms"], column["duration_ms"]
        counts["rows"] += len(play)
        counts["play time below 0 (taken as 0)"] += int((play < 0).sum())
        counts["duration 0 or less (unknown)"] += int((duration <= 0).sum())
        counts["played longer than the video (kept)"] += int(((play > duration) & (duration > 0)).sum())
        flags = np.zeros(len(play), dtype=np.uint8)
        for name, bit in SIGNALS.items():
            flags |= (column[name] * bit).astype(np.uint8)
        yield {
            "user": column["user_id"].astype(np.int32),
            "video": column["video_id"].astype(np.int32),
            "time_ms": column["time_ms"],
            "play_ms": np.clip(play, 0, MAX_ID).astype(np.int32),
            "duration_ms": np.clip(duration, 0, MAX_ID).astype(np.int32),
            "tab": column["tab"].astype(np.uint8),
            "flags": flags,
        }


def read_users(path: Path, counts: Counter[str]) -> Users:
    """Reads user_features; values that the data description does not list are counted and become 0 (unknown)."""
    found = [table for _, table in blocks(path, USER)]
    if not found:
        raise ValueError(f"{path}: no users: expected at least one row below the header")
    table = pa.concat_tables(found)
    index = _index([(path, table["user_id"].to_numpy())], "user")
    # Unknown values are empty cells; known values are written as 3 or 3.0.
    registered = pc.index_in(table["register_days_range"], pa.array(REGISTER_DAYS))
    code = {"register_days": pc.fill_null(registered, -1).to_numpy()}
    for feature, values in ONEHOT.items():
        number = pc.fill_null(table[f"onehot_feat{feature}"], np.nan).to_numpy()
        listed = (number >= 0) & (number < values) & (number == np.floor(number))
        code[f"onehot_{feature}"] = np.where(listed, number, -1)
    counts["user feature values that are unknown"] += sum(int((values < 0).sum()) for values in code.values())
    return Users(index=index, code={name: np.r_[values + 1, 0].astype(np.int16) for name, values in code.items()})


def read_videos(paths: tuple[Path, ...]) -> Videos:
    """Reads video_features_basic: author, type, upload day and tags; missing values are unknown."""
    parts: dict[str, list[Any]] = {name: [] for name in ("author", "kind", "day", "tags")}
    ids: list[tuple[Path, Int]] = []
    for path in paths:
        for first, table in blocks(path, VIDEO):
            author = pc.fill_null(table["author_id"], NO_AUTHOR).to_numpy()
            wrong = (author != np.floor(author)) | (author < NO_AUTHOR) | (author > MAX_ID)
            check(wrong, author, path, first, "author_id", f"an id in 0..{MAX_ID}")
            ids.append((path, table["video_id"].to_numpy()))
            parts["author"].append(author.astype(np.int32))
            kind = pc.index_in(table["video_type"], pa.array(VIDEO_TYPES))
            parts["kind"].append((pc.fill_null(kind, -1).to_numpy() + 1).astype(np.int8))
            days = _cast(table["upload_dt"], pa.date32(), path, first, "upload_dt", "a date like 2022-04-08")
            parts["day"].append(pc.fill_null(days.cast(pa.int32()), NO_DAY).to_numpy())
            parts["tags"].append(_tags(table["tag"], path, first))
    if not ids:
        raise ValueError(f"{paths[0]}: no videos: expected at least one row below the header")
    return Videos(
        index=_index(ids, "video"),
        author=np.concatenate([*parts["author"], [NO_AUTHOR]]),
        kind=np.concatenate([*parts["kind"], [0]]).astype(np.int8),
        upload_day=np.concatenate([*parts["day"], [NO_DAY]]).astype(np.int32),
        tags=pa.concat_arrays([*parts["tags"], pa.array([[]], type=pa.list_(pa.int32()))]),
    )


def _tags(column: pa.ChunkedArray, path: Path, first: int) -> pa.ListArray:
    """ "12,65" to [12, 65]; an empty cell to an empty list."""
    text = column.combine_chunks()
    text = pc.if_else(pc.equal(pc.utf8_trim_whitespace(text), ""), None, text)
    split = pc.split_pattern(text, ",")
    lengths = pc.fill_null(pc.list_value_length(split), 0).to_numpy()
    owner = first + np.repeat(np.arange(len(lengths)), lengths)
    words = pc.utf8_trim_whitespace(split.flatten())
    values = _cast(words, pa.int32(), path, owner, "tag", "integers separated by commas")
    return pa.ListArray.from_arrays(pa.array(np.r_[0, np.cumsum(lengths)].astype(np.int32)), values)


def _cast(column: Any, kind: pa.DataType, path: Path, row: int | Int, name: str, expected: str) -> Any:
    """Casts a column; ValueError for the first invalid cell. `row`: row of the first cell, or of each cell."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    try:
        return array.cast(kind)
    except pa.ArrowInvalid:
        for position, cell in enumerate(array):
            try:
                cell.cast(kind)
            except pa.ArrowInvalid as error:
                at = row + position if isinstance(row, int) else row[position]
                found = f"{path}: row {at}, column {name}: found {cell.as_py()!r}, expected {expected}"
                raise ValueError(found) from error
        raise


def _index(parts: list[tuple[Path, Int]], what: str) -> Int:
    """Table row of each id; ids without a row, and the entry after the last id, get the row after the last.

    Args:
        parts: (file, ids of its successive rows).
    """
    ids = np.concatenate([part for _, part in parts])

    def place(row: int) -> str:
        before = {path: 0 for path, _ in parts}
        for path, part in parts:
            if row < len(part):
                return f"{path}: row {before[path] + row + 1}"
            row -= len(part)
            before[path] += len(part)
        raise AssertionError(row)

    bad = np.flatnonzero((ids < 0) | (ids > MAX_TABLE_ID))
    if len(bad):
        expected = f"an id in 0..{MAX_TABLE_ID}"
        raise ValueError(f"{place(int(bad[0]))}, column {what}_id: found {ids[bad[0]]}, expected {expected}")
    result = np.full(int(ids.max()) + 2, len(ids), dtype=np.int32)
    result[ids] = np.arange(len(ids), dtype=np.int32)
    repeated = np.flatnonzero(result[ids] != np.arange(len(ids)))
    if len(repeated):
        twice = ids[repeated[0]]
        first, second = np.flatnonzero(ids == twice)[:2].tolist()
        raise ValueError(f"{place(second)}: {what} {twice} is already in {place(first)}: keep one of them")
    return result
