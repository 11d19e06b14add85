"""What one cell becomes: times, ids, flags, options and lists in many spellings, in CSV and in Parquet."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tools.builder import tiny

HOUR = 3_600
NO_ID = "user is not an integer of 64 bits with a sign: ids.user = 'text' reads any text"


def cells(folder: Path, column: str, texts: list[str], field: str, **changes: Any) -> dict[str, Any]:
    """The value of `field` by the text of `column`, built from CSV; texts whose rows are quarantined are left out."""
    rows = [{**tiny.ROW, "video": number, column: text} for number, text in enumerate(texts)]
    tiny.write_rows(folder / "imp.csv", rows, delimiter=";")
    changes["impressions"] = {"delimiter": ";", "quote": "", **changes.get("impressions", {})}
    found, counts = tiny.build(folder, tiny.config(**changes))
    assert counts["impressions.read"] == len(texts) == len(found) + sum(tiny.reasons(counts).values())
    return {texts[row["video_id"]]: row[field] for row in found}


def columns(folder: Path, arrays: dict[str, Any], **changes: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """(rows in the order of the file, quarantined rows by reason) of a Parquet file."""
    count = len(next(iter(arrays.values())))
    tiny.write_parquet(folder / "imp.parquet", {"video": pa.array(range(count))} | arrays)
    changes["impressions"] = {"path": "imp.parquet", **changes.get("impressions", {})}
    found, counts = tiny.build(folder, tiny.config(**changes))
    return sorted(found, key=lambda row: row["video_id"]), tiny.reasons(counts)


# --- times

TIMES: dict[str, float | None] = {
    "2026-01-01T08:00:00+08:00": 0,
    "2026-01-01 08:00:00+0800": 0,
    "2026-01-01 08:00:00+08": 0,
    "2026-01-01 08:00:00 +08:00": 0,
    "2026-01-01T05:30:00.250+05:30": 0.25,
    "2025-12-31 23:30:00-00:30": 0,
    "2026-01-01T00:00:00Z": 0,
    "2026-01-01T00:00:00z": 0,
    "2026-01-01T00:00:00.123956789Z": 0.123,
    "2026-01-01 00:00:00.9999": 0.999,
    "2026-01-01 00:00:00 UTC": 0,
    "2026-01-01 08:00:00 Asia/Shanghai": 0,
    "2026-01-01": 0,
    "2026-01-01T08:00": 8 * HOUR,
    " 2026-1-1 8:00:00 ": 8 * HOUR,
    "2026/01/01 08:00:00.5": 8 * HOUR + 0.5,
    # What the engine's cast would read as another time.
    "2026-01-01 08:00:00 PM": None,
    "2026-01-01 08:00:00 CST": None,
    "2026-01-01 08:00:00 Foo/Bar": None,
    "2026-11-01 01:30:00 America/New_York": None,
    "2026-01-01T00:00:00+00:00[UTC]": None,
    "01/02/2026 08:00": None,
    "2026-02-30": None,
    "epoch": None,
    "1767225600": None,
}


def test_times_in_text(tmp_path: Path) -> None:
    found = cells(tmp_path, "at", list(TIMES), "timestamp_ms", impressions={"time_unit": "timestamp"})
    expected = {text: round(tiny.START_MS + 1_000 * s) for text, s in TIMES.items() if s is not None}
    assert found == expected


@pytest.mark.parametrize("place", ["build", "table"])
def test_local_times_have_the_declared_zone(tmp_path: Path, place: str) -> None:
    zone = "America/New_York"
    unclear = ["2026-03-08 02:30:00", "2026-11-01 01:30:00"]
    texts = [
        *["2026-03-08 01:59:59", "2026-03-08 03:00:00", "2026-07-01", "2026-11-01 00:59:59", "2026-11-01 02:00:00"],
        *["2026-11-01T01:30:00-04:00", "2026-11-01T01:10:00-05:00", "2026-11-01T06:20:00Z"],
    ]
    declared = {"time_unit": "timestamp"} | ({"time_zone": zone} if place == "table" else {})
    build = {"time_zone": zone} if place == "build" else {}
    found = cells(tmp_path, "at", texts + unclear, "timestamp_ms", impressions=declared, **build)
    for text in texts:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone))
        assert found.pop(text) == 1_000 * moment.timestamp(), text
    assert not found, "the clocks skip the one and repeat the other"


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_of_parquet(tmp_path: Path, unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    value = tiny.START_S * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    for number, zone in enumerate((None, "UTC", "Asia/Shanghai", "-03:30")):
        for declared, shift in (("UTC", 0), ("Asia/Shanghai", 8 * HOUR)):
            folder = tmp_path / f"{number}{declared[:1]}"
            arrays = {"at": pa.array([value + {"us": 999, "ns": 999_999}.get(unit, 0)], pa.timestamp(unit, zone))}
            rows, _ = columns(folder, arrays, time_zone=declared, impressions={"time_unit": "timestamp"})
            assert rows[0]["timestamp_ms"] == tiny.START_MS - (1_000 * shift if zone is None else 0)


def test_int96_is_utc_and_a_date_is_a_local_midnight(tmp_path: Path) -> None:
    declared = {"path": "imp.parquet", "time_unit": "timestamp"}
    table = pa.table({name: pa.array([value]) for name, value in tiny.ROW.items()})
    place = table.column_names.index("at")
    table = table.set_column(place, "at", pa.array([tiny.START_MS], pa.timestamp("ms")))
    pq.write_table(table, tmp_path / "imp.parquet", use_deprecated_int96_timestamps=True)
    rows, _ = tiny.build(tmp_path, tiny.config(time_zone="Asia/Shanghai", impressions=declared))
    assert rows[0]["timestamp_ms"] == tiny.START_MS
    dates = {"at": pa.array([date(2026, 1, 1)])}
    rows, _ = columns(tmp_path / "date", dates, time_zone="Asia/Shanghai", impressions={"time_unit": "timestamp"})
    assert rows[0]["timestamp_ms"] == tiny.START_MS - 8 * HOUR * 1_000


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_unix_times_in_text_and_in_integers(tmp_path: Path, unit: str, factor: int) -> None:
    value = tiny.START_S * factor + (999_999 if unit == "ns" else 0)
    found = cells(tmp_path, "at", [str(value)], "timestamp_ms", impressions={"time_unit": unit})
    assert found == {str(value): tiny.START_MS}
    rows, _ = columns(tmp_path / "p", {"at": pa.array([value])}, impressions={"time_unit": unit})
    assert rows[0]["timestamp_ms"] == tiny.START_MS


# --- ids

IDS: dict[str, int | None] = {
    "7": 7,
    " 7 ": 7,
    "7.0": 7,
    "7.": 7,
    "-7": -7,
    str(2**63 - 1): 2**63 - 1,
    str(-(2**63)): -(2**63),
    f"{2**60 + 7}.0": 2**60 + 7,
    str(2**63): None,
    "007": None,
    "+7": None,
    "7.5": None,
    ".5": None,
    "1_000": None,
    "0x10": None,
    "1e3": None,
    "7\t": None,
    "７": None,
    "true": None,
    "NULL": None,
}


def test_integers_in_text(tmp_path: Path) -> None:
    found = cells(tmp_path, "user", list(IDS), "user_id")
    assert found == {text: value for text, value in IDS.items() if value is not None}


@pytest.mark.parametrize(
    ("array", "kept", "reason"),
    [
        (pa.array([7.0, -0.0, 2.0**53 - 1, 2.0**53]), [7, 0, 2**53 - 1], "a float of 2**53 or more"),
        (pa.array([2.0**60 + 512, 2.0**60]), [], "a float of 2**53 or more"),
        (pa.array([7.0, float("nan")]), [7], "a float of 2**53 or more"),
        (pa.array([7.0, 7.5]), [7], "is not an integer"),
        (pa.array([2**24 - 1, 2**24], pa.float32()), [2**24 - 1], "a float of 2**24 or more"),
        (pa.array([2**11 - 1, 2**11], pa.float16()), [2**11 - 1], "a float of 2**11 or more"),
        (pa.array([7, 2**63], pa.uint64()), [7], "ids.user = 'text' reads any text"),
        (pa.array([7, 10**19], pa.decimal128(20, 0)), [7], "ids.user = 'text' reads any text"),
        (pa.array(["7", "07"]), [7], "ids.user = 'text' reads any text"),
        (pa.array(["7", "07"], pa.large_string()).dictionary_encode(), [7], "ids.user = 'text' reads any text"),
        (pa.array([b"7", b"\xff"]), [7], "is binary, and no text in UTF-8"),
    ],
)
def test_integers_of_parquet(tmp_path: Path, array: pa.Array, kept: list[int], reason: str) -> None:
    rows, lost = columns(tmp_path, {"user": array})
    assert [row["user_id"] for row in rows] == kept
    assert sum(lost.values()) == len(array) - len(kept) and all(reason in name for name in lost)


def test_declared_text_ids_stay_apart_and_agree_between_types(tmp_path: Path) -> None:
    big = [2**63 + 7, 2**63 + 8, 7]
    ids = []
    for number, array in enumerate(
        [
            pa.array(big, pa.uint64()),
            pa.array([str(one) for one in big]),
            pa.array(big, pa.decimal128(20, 0)),
            pa.array([str(one).encode() for one in big]),
        ]
    ):
        rows, lost = columns(tmp_path / str(number), {"user": array}, ids={"user": "text"})
        assert not lost
        ids.append([row["user_id"] for row in rows])
    texts = [str(one) for one in big]
    found = cells(tmp_path, "user", texts, "user_id", ids={"user": "text"})
    assert all(one == [found[text] for text in texts] for one in ids)
    assert len(set(ids[0])) == 3
    rows, lost = columns(tmp_path / "float", {"user": pa.array([7.0, 2.0**60])}, ids={"user": "text"})
    assert [row["user_id"] for row in rows] == [found["7"]] and "2**53" in next(iter(lost))


def test_files_of_different_types_are_not_widened(tmp_path: Path) -> None:
    for name, array in (
        ("a", pa.array([2**60 + 7])),
        ("b", pa.array([3.0])),
        ("c", pa.array(["5"])),
        ("d", pa.array([2**60 + 8])),
    ):
        tiny.write_parquet(tmp_path / "imp" / f"{name}.parquet", {"user": array})
    rows, counts = tiny.build(tmp_path, tiny.config(impressions={"path": "imp"}))
    assert {row["user_id"] for row in rows} == {2**60 + 7, 3, 5, 2**60 + 8}
    assert counts["impressions.files"] == 4


# --- flags, options, numbers, nulls

FLAGS = {
    **dict.fromkeys(("1", "1.0", " 1", "1.00", "true", "TRUE", " True", "t", "Yes"), 1),
    **dict.fromkeys(("0", "0.0", "-0", "false", "no"), 0),
    **dict.fromkeys(("2", "0.5", "nan", "1_0", "", "NULL", "\\N", " NULL "), None),
}


def test_flags_in_text(tmp_path: Path) -> None:
    found = cells(tmp_path, "liked", list(FLAGS), "like", impressions={"outcomes": {"like": "liked"}})
    assert found == {text: value for text, value in FLAGS.items() if value is not None}


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1.0, 0.0]),
        pa.array([True, False]),
        pa.array(["1.0", " 0"]),
        pa.array([b"TRUE", b"0.0"]),
        pa.array([1, 0], pa.uint64()),
        pa.array([1, 0], pa.decimal128(5, 2)),
        pa.array([1, 0], pa.float16()),
    ],
)
def test_flags_of_parquet(tmp_path: Path, array: pa.Array) -> None:
    rows, lost = columns(tmp_path, {"liked": array}, impressions={"outcomes": {"like": "liked"}})
    assert [row["like"] for row in rows] == [1, 0] and not lost


@pytest.mark.parametrize(
    "said",
    [
        pa.array(["1", "2", "9"]),
        pa.array([" 1.0", "2.00", "9.0"]),
        pa.array([1.0, 2.0, 9.0]),
        pa.array([1, 2, 9], pa.int8()),
        pa.array([b"1", b"2", b"9"]),
    ],
)
def test_options_are_equal_in_number(tmp_path: Path, said: pa.Array) -> None:
    arrays = {"user": pa.array([1, 2, 3]), "video": pa.array([5, 5, 5]), "at": pa.array([tiny.START_S] * 3)}
    tiny.write_parquet(tmp_path / "imp.parquet", arrays)
    pq.write_table(pa.table({**arrays, "said": said}), tmp_path / "answers.parquet")
    names = {"user_id": "user", "video_id": "video", "timestamp": "at", "answer": "said"}
    answers = {"path": "answers.parquet", "time_unit": "s", "columns": names}
    questionnaire = {"options": {"1": 0, "2.0": 2}}
    values = tiny.config(impressions={"path": "imp.parquet"}, answers=answers, questionnaire=questionnaire)
    _, counts = tiny.build(tmp_path, values)
    assert counts["answers.kept"] == 2
    assert tiny.reasons(counts, "answers") == {"said is not an option of the questionnaire": 1}


def test_options_that_are_one_number_are_refused() -> None:
    from tests.tools.builder.logs import build_of

    with pytest.raises(ValueError, match=r"questionnaire.options: '1' and '1.0' are the same number: keep one"):
        build_of(tiny.config(questionnaire={"options": {"1": 0, "1.0": 2}}))


def test_declared_nulls(tmp_path: Path) -> None:
    feature = {"kind": {"column": "kind", "type": "id", "default": 5}}
    found = cells(tmp_path, "kind", ["none", " - ", "NULL", "3"], "kind", impressions={"features": feature})
    assert found == {"none": 5, " - ": 5, "NULL": 5, "3": 3}
    declared = {"features": {"kind": {"column": "kind", "type": "id"}}, "nulls": ["none", "-"]}
    for folder, name in ((tmp_path / "a", "csv"), (tmp_path / "b", "parquet")):
        folder.mkdir()
        texts = ["none", " - ", "NULL", "3"]
        if name == "csv":
            tiny.write_rows(folder / "imp.csv", [{**tiny.ROW, "kind": text} for text in texts])
        else:
            tiny.write_parquet(folder / "imp.parquet", {"kind": pa.array(texts)})
        _, counts = tiny.build(folder, tiny.config(impressions={**declared, "path": f"imp.{name}"}))
        assert tiny.reasons(counts)["kind is null"] == 2 and len(tiny.reasons(counts)) == 2


def test_a_bad_cell_of_a_feature_with_a_default_takes_it_and_is_counted(tmp_path: Path) -> None:
    rows = [
        {**tiny.ROW, "video": 1, "kind": "x", "score": "1", "tags": "1|2"},
        {**tiny.ROW, "video": 2, "kind": "3", "score": "inf", "tags": "1|x"},
        {**tiny.ROW, "video": 3, "kind": "y", "score": "bad", "tags": ""},
        {**tiny.ROW, "video": 4, "kind": "NULL", "score": "NULL", "tags": "3"},
        {**tiny.ROW, "video": 5, "watched": "bad", "kind": "z", "score": "2", "tags": "3"},
    ]
    tiny.write_rows(tmp_path / "imp.csv", rows)
    features = {
        "kind": {"column": "kind", "type": "id", "default": 9},
        "score": {"column": "score", "type": "float", "default": 0.5},
        "tags": {"column": "tags", "type": "ids", "default": 0},
    }
    found, counts = tiny.build(tmp_path, tiny.config(impressions={"features": features}))
    made = {row["video_id"]: (row["kind"], row["score"], row["tags"]) for row in found}
    assert made == {1: (9, 1.0, [1, 2]), 2: (3, 0.5, []), 3: (9, 0.5, []), 4: (9, 0.5, [3])}
    replaced = {name.partition(".defaulted.")[2]: n for name, n in counts.items() if ".defaulted." in name}
    kind = "kind is not an integer of 64 bits with a sign: type = 'text' reads any text"
    assert replaced == {kind: 2, "score is not a finite number": 2, "tags an item is not an integer": 1}
    assert tiny.reasons(counts) == {"watched is not a number": 1}


# --- lists

LISTS: dict[str, list[tuple[tuple[str, ...], Any]]] = {
    "ids": [
        (("1|2", "[1,2]", ' ["1", 2.0]'), [1, 2]),
        (("", "[]", "NULL"), []),
        ((f"[{2**63 - 1}]",), [2**63 - 1]),
        (("[1,", "[x]", "1|x", "[null]", "[[1]]", "{}", "[1.5]", "1|", f"[{2**63}]"), None),
    ],
    "floats": [
        (("0.5|-2", "[0.5, -2]"), [0.5, -2.0]),
        (("[0.5]", "[0.5,", "[0.5,null]", "0.5|x", ""), None),
    ],
    "weighted_ids": [
        (
            ("12:0.5|7:1", '[{"id":12,"weight":0.5},{"id":"7","weight":1}]'),
            [{"id": 12, "weight": 0.5}, {"id": 7, "weight": 1.0}],
        ),
        (("",), []),
        (('[{"id":12}]', "[1]", "[", "12", "x:1", "1:-1"), None),
    ],
}
"""(texts, value) by type; None: a row with it is quarantined."""


@pytest.mark.parametrize("kind", LISTS)
def test_lists_in_text(tmp_path: Path, kind: str) -> None:
    spec = {"column": "tags", "type": kind} | ({"length": 2} if kind == "floats" else {})
    expected = {text: value for texts, value in LISTS[kind] for text in texts}
    found = cells(tmp_path, "tags", list(expected), "tags", impressions={"features": {"tags": spec}})
    assert found == {text: value for text, value in expected.items() if value is not None}


def test_lists_of_texts_are_hashed_as_texts(tmp_path: Path) -> None:
    features = {
        "tags": {"column": "tags", "type": "texts"},
        "one": {"column": "one", "type": "text"},
    }
    tiny.write_parquet(tmp_path / "imp.parquet", {"tags": pa.array([["a", "b|c"]]), "one": pa.array(["a"])})
    (row,), _ = tiny.build(tmp_path, tiny.config(impressions={"path": "imp.parquet", "features": features}))
    texts = ['["a","b|c"]', "a|a", "NULL", '["a",null]']
    (tmp_path / "csv").mkdir()
    found = cells(tmp_path / "csv", "tags", texts, "tags", impressions={"features": {"tags": features["tags"]}})
    assert found == {'["a","b|c"]': row["tags"], "a|a": [row["one"]] * 2, "NULL": []}


@pytest.mark.parametrize(
    ("array", "kept"),
    [
        (pa.array([[1, 2]], pa.list_(pa.int64(), 2)), [[1, 2]]),
        (pa.array([[1, 2]], pa.large_list(pa.int64())), [[1, 2]]),
        (pa.array([[b"1"]]), [[1]]),
        (pa.array([["1"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))), [[1]]),
        (pa.array([["1", "02"]]), []),
        (pa.array([[1.0, 2.0]]), [[1, 2]]),
        (pa.array([[1.0, 2.0**53]]), []),
        (pa.array([[1, 2**63]], pa.list_(pa.uint64())), []),
        (pa.array([None], pa.list_(pa.int64())), [[]]),
    ],
)
def test_lists_of_parquet(tmp_path: Path, array: pa.Array, kept: list[list[int]]) -> None:
    features = {"tags": {"column": "tags", "type": "ids"}}
    rows, lost = columns(tmp_path, {"tags": array}, impressions={"features": features})
    assert [row["tags"] for row in rows] == kept
    assert lost == ({} if kept else {"tags an item is not an integer": 1})


@pytest.mark.parametrize(
    ("column", "array", "message"),
    [
        ("user", pa.array([5], pa.duration("ms")), "is DURATION IN ms, expected text, or a number"),
        ("user", pa.array([5], pa.decimal256(50, 0)), r"is DECIMAL256\(50, 0\), expected text, or a number"),
        ("user", pa.array([5], pa.timestamp("s")), "is TIMESTAMP, expected text, or a number"),
        ("user", pa.array([{"a": 1}]), r"is STRUCT\(a BIGINT\), expected a single value"),
        ("at", pa.array([True]), "is BOOLEAN, expected a number, or text"),
        ("watched", pa.array([5], pa.time32("s")), "is TIME, expected a number, or text"),
        ("tags", pa.array([[True]]), r"is BOOLEAN\[\], expected a list of integers, or text"),
        ("tags", pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "expected a list of integers, or text"),
        ("tags", pa.array([5]), "is BIGINT, expected a list of integers, or text"),
    ],
)
def test_columns_of_other_types_are_named(tmp_path: Path, column: str, array: pa.Array, message: str) -> None:
    features = {"tags": {"column": "tags", "type": "ids"}}
    with pytest.raises(ValueError, match=message):
        columns(tmp_path, {"tags": pa.array([[1]]), column: array}, impressions={"features": features})


def test_statistics_of_a_footer_are_not_believed(tmp_path: Path) -> None:
    """Writers got them wrong, and a damaged page is not what they say: a check must look at the cells."""
    times = [tiny.START_MS + number for number in range(3)]
    table = pa.table({name: pa.array([value] * 3) for name, value in tiny.ROW.items()} | {"at": pa.array(times)})
    pq.write_table(table, tmp_path / "imp.parquet", use_dictionary=False, compression="none")
    content = (tmp_path / "imp.parquet").read_bytes()
    page = b"".join(time.to_bytes(8, "little") for time in times)
    assert content.count(page) == 1
    damaged = page[:8] + (2**60).to_bytes(8, "little") + page[16:]
    (tmp_path / "imp.parquet").write_bytes(content.replace(page, damaged))
    rows, counts = tiny.build(tmp_path, tiny.config(impressions={"path": "imp.parquet", "time_unit": "ms"}))
    assert [row["timestamp_ms"] for row in rows] == [times[0], times[2]]
    assert list(tiny.reasons(counts).values()) == [1]
