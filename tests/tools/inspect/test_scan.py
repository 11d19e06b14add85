"""The statistics of a scan equal those of plain Python loops over the rows of small random datasets."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from easq_rec.config.answer_scale import THREE_ANSWERS
from easq_rec.data.layout import Layout
from easq_rec.tools.inspect.checks import Duplicates
from easq_rec.tools.inspect.lengths import Lengths
from easq_rec.tools.inspect.scan import DatasetStats, Disorder
from tests.data.builders import (
    SCHEMA,
    Row,
    arrow_schema,
    candidate_fields,
    make_answers,
    make_rows,
    to_table,
    write_dataset,
    write_file,
)
from tests.tools.inspect.queries import duplicates, refusals, scanned


def values_of(rows: list[Row], path: str) -> Iterator[Any]:
    """All values of a column, including nulls. A column of history or candidates has one value for each entry."""
    group, _, name = path.rpartition(".")
    for row in rows:
        entries = row[group] if group in ("history", "candidates") else [row[group] if group else row]
        yield from (entry[name] for entry in entries)


def check_lengths(found: Lengths, lengths: list[int]) -> None:
    assert found.counts == Counter(lengths) and list(found.counts) == sorted(found.counts)
    assert (found.lists, found.entries) == (len(lengths), sum(lengths))
    if lengths:
        assert (found.mean, found.empty) == pytest.approx((np.mean(lengths), lengths.count(0) / len(lengths)))
        for share in (0, 0.3, 0.5, 0.95, 1):
            assert found.quantile(share) == np.quantile(lengths, share, method="inverted_cdf")


def check_column(found: DatasetStats, rows: list[Row], path: str) -> None:
    column, values = found.columns[path], list(values_of(rows, path))
    if column.kind == "other":
        assert column.types == ["string"]
        return
    nulls = values.count(None)
    values = [value for value in values if value is not None]
    if column.kind == "list":
        assert column.lengths is not None
        check_lengths(column.lengths, list(map(len, values)))
        values = [value for entry in values for value in entry]
    assert (column.nulls, column.values) == (nulls, len(values)), path
    finite = [value for value in values if math.isfinite(value)]
    assert column.nan == sum(math.isnan(value) for value in values)
    assert column.infinite == sum(math.isinf(value) for value in values)
    assert column.minimum == min(finite, default=None)
    assert column.maximum == max(finite, default=None)
    assert column.negative == sum(value < 0 for value in finite)
    assert column.mean == (pytest.approx(sum(finite) / len(finite), rel=1e-6) if finite else None)
    assert column.binary == (column.kind in ("integer", "boolean") and bool(values) and set(values) <= {0, 1})
    name = path.rpartition(".")[2]
    counted = column.kind in ("integer", "list") and name not in ("request_id", "timestamp_ms")
    assert column.distinct == (len(set(values)) if counted else None)


@pytest.mark.parametrize("seed", range(6))
def test_statistics_equal_plain_loops(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = make_rows(rng, 70)
    for row in rows:
        for candidate in row["candidates"]:
            candidate["quality"] = [None, math.nan, math.inf, -math.inf, 0.25, -3.5][rng.integers(6)]
            if rng.random() < 0.2:
                candidate["watch_ms"] = candidate["tags"] = None
    folder = write_dataset(tmp_path, rows, file_sizes=[9, 30], row_group_sizes=[4, 11, 1])
    found = scanned(folder)
    for path in found.columns:
        check_column(found, rows, path)
    assert found.rows == len(rows)
    assert found.candidates == sum(len(row["candidates"]) for row in rows)
    assert len(found.group_rows) == 14 and found.files == 4
    assert found.bytes == sum(file.stat().st_size for file in folder.rglob("*.parquet"))
    for name, lengths in found.lengths.items():
        check_lengths(lengths, [len(row[name]) for row in rows])
    assert (found.disorder, found.null_structs) == (Disorder(rows=0, row_groups=0, first=None), {})


@pytest.mark.parametrize("seed", range(4))
def test_stages_equal_plain_loops(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    fields = [*candidate_fields(answers=True), pa.field("shown", pa.bool_())]
    base = arrow_schema()
    schema = base.set(base.get_field_index("candidates"), pa.field("candidates", pa.list_(pa.struct(fields))))
    rows = make_answers(rng, make_rows(rng, 50), delay_ms=10**7)
    expected: dict[str, Any] = dict.fromkeys(("triggered", "shown", "other", "early"), 0)
    expected["answers"] = dict.fromkeys(THREE_ANSWERS.names, 0)
    delays = []
    for row in rows:
        for candidate in row["candidates"]:
            candidate["watch_ms"] = None if rng.random() < 0.1 else int(rng.integers(20_000))
            candidate["duration_ms"] = None if rng.random() < 0.1 else int(rng.integers(20_000))
            candidate["shown"] = [None, True, False][rng.integers(3)]
            watch, duration = candidate["watch_ms"], candidate["duration_ms"]
            long = watch is not None and watch > 7_000
            expected["triggered"] += long or (None not in (watch, duration) and watch > duration / 2)
            expected["shown"] += candidate["shown"] is True
            if candidate["answer"] is None:
                continue
            if rng.random() < 0.1:
                candidate["answer"] = int(rng.choice([3, -2]))
            if rng.random() < 0.2:
                candidate["answered_at_ms"] = None if rng.random() < 0.5 else row["timestamp_ms"] - 1
            if candidate["answer"] in (0, 1, 2):
                expected["answers"][THREE_ANSWERS.names[candidate["answer"]]] += 1
            else:
                expected["other"] += 1
            time = candidate["answered_at_ms"]
            if time is None or time < row["timestamp_ms"]:
                expected["early"] += 1
            else:
                delays.append(time - row["timestamp_ms"])
    found = scanned(write_dataset(tmp_path, rows, row_group_sizes=[7], schema=schema)).stages
    assert expected == {
        "triggered": found.triggered,
        "shown": found.shown,
        "answers": found.answers,
        "other": found.other_answers,
        "early": found.early,
    }
    assert found.delays is not None
    for value, share in zip(found.delays, (0.5, 0.95), strict=True):
        low, high = np.quantile(delays, (share - 0.03, share + 0.03))
        assert low <= value <= high


def test_disorder_is_counted_and_located(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(0), 12)
    for index, row in enumerate(rows):
        row["timestamp_ms"] = 1_000 * index
    late = [*rows[:3], rows[4], rows[3], *rows[5:6], *rows[9:], *rows[6:9]]
    folder = write_dataset(tmp_path / "one", late, row_group_sizes=[3])
    place = f"{folder}/part=00/0000.parquet, row group 3"
    assert scanned(folder).disorder == Disorder(rows=1, row_groups=1, first=place)
    folder = write_dataset(tmp_path / "two", late, file_sizes=[9], row_group_sizes=[3])
    place = f"{folder}/part=00/0001.parquet, row group 0"
    assert scanned(folder).disorder == Disorder(rows=1, row_groups=1, first=place)


@pytest.mark.parametrize("days", [0.0001, 0.04, 1, 40, 4_000, 400_000])
def test_spans_count_every_request_once(tmp_path: Path, days: float) -> None:
    rng = np.random.default_rng(1)
    times = -5_000 + rng.integers(0, round(days * 86_400_000), 300)
    rows = make_rows(rng, 300)
    for row, time in zip(rows, times.tolist(), strict=True):
        row["timestamp_ms"] = time
    spans = scanned(write_dataset(tmp_path, rows)).spans
    assert spans is not None and len(spans.counts) <= 400
    starts = spans.start_ms + spans.width_ms * np.arange(len(spans.counts))
    assert spans.counts == [int(((times >= start) & (times < start + spans.width_ms)).sum()) for start in starts]
    assert sum(spans.counts) == 300 and spans.counts[0] and spans.counts[-1]


def test_links_are_the_correlations_of_finite_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows = make_rows(rng, 200)
    for row in rows:
        for candidate in row["candidates"]:
            candidate["quality"] = [None, math.nan, math.inf][rng.integers(3)] if rng.random() < 0.1 else rng.normal()
            if candidate["quality"] is not None:
                candidate["quality"] += 5 * candidate["like"]
            candidate["watch_ms"] = 3
    links = scanned(write_dataset(tmp_path, rows, row_group_sizes=[30])).links
    candidates = [candidate for row in rows for candidate in row["candidates"]]
    for name in ("quality", "duration_ms"):
        known = [c for c in candidates if c[name] is not None and math.isfinite(c[name])]
        x = np.array([c[name] for c in known], np.float64)
        expected = {
            f"candidates.{outcome}": np.corrcoef(np.sign(x) * np.log1p(abs(x)), [c[outcome] for c in known])[0, 1]
            for outcome in ("like", "long_view")
        }
        strongest = max(expected, key=lambda outcome: abs(expected[outcome]))
        assert links[f"candidates.{name}"] == (strongest, pytest.approx(expected[strongest]))
    assert links["candidates.quality"][0] == "candidates.like"
    assert "candidates.watch_ms" not in links, "a constant has no correlation"


def test_nulls_in_place_of_lists_and_structs_are_counted(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(0), 9)
    rows[1]["history"] = rows[4]["candidates"] = rows[5]["user"] = None
    rows[2]["candidates"] = [None, *rows[2]["candidates"]]
    found = scanned(write_dataset(tmp_path, rows, row_group_sizes=[4]))
    assert found.null_structs == {"history": 1, "candidates": 1, "candidates[]": 1, "user": 1}
    assert found.lengths["history"].lists == found.lengths["candidates"].lists == 8, "a null list is not an empty list"
    assert found.columns["user.region"].nulls == 1
    assert found.columns["candidates.video_id"].nulls == 1
    assert found.columns["candidates.like"].nulls == 1


def test_a_dataset_without_rows_is_scanned(tmp_path: Path) -> None:
    found = scanned(write_file(tmp_path / "a.parquet", arrow_schema().empty_table()).parent)
    assert (found.rows, found.candidates, found.spans) == (0, 0, None)


# ---------------------------------------------------------------------------------------------------------------------
# Unusable files


def test_files_with_different_columns_are_named(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(0), 4)
    first = write_file(tmp_path / "a.parquet", to_table(rows))
    other = to_table(rows, arrow_schema().remove(1)).cast(
        arrow_schema().remove(1).set(1, pa.field("timestamp_ms", pa.float64()))
    )
    second = write_file(tmp_path / "b.parquet", other)
    with pytest.raises(ValueError) as caught:
        scanned(tmp_path)
    assert str(caught.value) == (
        f"{second}: its columns differ from those of {first}: page is missing, string there; "
        "timestamp_ms is double, int64 there"
    )


def test_integers_of_different_widths_are_combined(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(0), 4)
    write_file(tmp_path / "a.parquet", to_table(rows))
    wide = arrow_schema().set(
        arrow_schema().get_field_index("user"),
        pa.field("user", pa.struct([("age", pa.int64()), ("region", pa.int8()), ("interests", pa.list_(pa.int32()))])),
    )
    write_file(tmp_path / "b.parquet", to_table(rows, wide))
    found = scanned(tmp_path)
    assert found.columns["user.age"].types == ["int64", "int8"]
    check_column(found, rows + rows, "user.age")


@pytest.mark.parametrize("content", [b"", b"no Parquet at all" * 20])
def test_a_file_that_is_not_parquet_is_named(tmp_path: Path, content: bytes) -> None:
    write_dataset(tmp_path, make_rows(np.random.default_rng(0), 2))
    (tmp_path / "z.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"z.parquet: not a readable Parquet file"):
        scanned(tmp_path)


def test_a_damaged_row_group_is_named(tmp_path: Path) -> None:
    file = write_file(tmp_path / "a.parquet", to_table(make_rows(np.random.default_rng(0), 300)))
    content = bytearray(file.read_bytes())
    content[100:2_000] = bytes(1_900)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.parquet, row group 0: cannot be read"):
        scanned(tmp_path)


def test_a_dataset_needs_an_integer_timestamp(tmp_path: Path) -> None:
    at = arrow_schema().get_field_index("timestamp_ms")
    write_file(tmp_path / "a.parquet", arrow_schema().remove(at).empty_table())
    with pytest.raises(ValueError, match=r"a.parquet: a dataset needs an integer column timestamp_ms; there is none"):
        scanned(tmp_path)
    schema = arrow_schema().set(at, pa.field("timestamp_ms", pa.timestamp("ms")))
    write_file(tmp_path / "a.parquet", schema.empty_table())
    with pytest.raises(ValueError, match=r"an integer column timestamp_ms; it is timestamp\[ms\]"):
        scanned(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Checks of the whole dataset


@pytest.mark.parametrize("low", [0, -50])
def test_duplicates_are_found_and_located_across_files(tmp_path: Path, low: int) -> None:
    rng = np.random.default_rng(3)
    rows = make_rows(rng, 60)
    places: dict[int, list[str]] = {}
    for index, row in enumerate(rows):
        row["request_id"] = int(rng.integers(low, 50)) * 2**40
        file, in_file = divmod(index, 13)
        place = f"{tmp_path}/part=00/{file:04}.parquet, row group {in_file // 5}, row {in_file % 5}"
        places.setdefault(row["request_id"], []).append(place)
    found = duplicates(write_dataset(tmp_path, rows, file_sizes=[13], row_group_sizes=[5]))
    assert found is not None
    assert found.extra_rows == 60 - len(places) > 0
    repeated = sorted(id_ for id_, of in places.items() if len(of) > 1)
    assert found.examples == {id_: places[id_][:2] for id_ in repeated[:5]}


def test_unique_ids_have_no_duplicates(tmp_path: Path) -> None:
    found = duplicates(write_dataset(tmp_path, make_rows(np.random.default_rng(0), 9)))
    assert found == Duplicates(extra_rows=0, examples={})


def test_every_row_that_a_schema_refuses_is_counted(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(0), 40)
    for index in (3, 4, 30):
        rows[index]["user"]["region"] = 5
    for index in (4, 17):
        rows[index]["candidates"][0]["quality"] = math.nan
    rows[20]["request_id"] = rows[19]["request_id"]
    folder = write_dataset(tmp_path, rows, file_sizes=[25], row_group_sizes=[10])
    found = refusals(folder, Layout.of(SCHEMA))
    assert found.columns is None
    # Row 4 has two bad values, and counts only at the first check. The repeated ids are in different row groups.
    assert [(bad.column, bad.rows) for bad in found.rows] == [("user.region", 3), ("candidates.quality", 1)]
    region = "row group 0, row 3, column user.region: found 5, expected 0..4 (dense table 'region')"
    assert found.rows[0].first.endswith(region)


def test_columns_that_a_schema_refuses_are_listed(tmp_path: Path) -> None:
    schema = arrow_schema().remove(arrow_schema().get_field_index("user_id"))
    folder = write_dataset(tmp_path, make_rows(np.random.default_rng(0), 9), file_sizes=[5], schema=schema)
    found = refusals(folder, Layout.of(SCHEMA))
    assert found.columns is not None and found.rows == []
    assert f"{folder}/part=00/0000.parquet does not match the feature schema" in found.columns
    assert "user_id: missing, expected an integer" in found.columns


# ---------------------------------------------------------------------------------------------------------------------
# Structure and location of data


def test_nested_lists_and_names_that_need_quotes_are_scanned(tmp_path: Path) -> None:
    entry = pa.struct([("it's", pa.int64()), ("ids", pa.list_(pa.int16())), ("deep", pa.struct([("x", pa.float64())]))])
    lists = [[{"it's": 4, "ids": [1, None, 1], "deep": {"x": 2.5}}], [None, {"it's": 6, "ids": None, "deep": None}]]
    rows = [{'a "b"': 1, "timestamp_ms": 5, "outer": [{"inner": inner}, {"inner": None}]} for inner in lists]
    outer = pa.list_(pa.struct([("inner", pa.list_(entry))]))
    schema = pa.schema([('a "b"', pa.int64()), ("timestamp_ms", pa.int64()), ("outer", outer)])
    table = pa.Table.from_pylist(rows, schema=schema)
    found = scanned(write_file(tmp_path / "a.parquet", table).parent)
    assert found.columns['a "b"'].distinct == 1
    quoted, ids, deep = (found.columns[f"outer.inner.{name}"] for name in ("it's", "ids", "deep.x"))
    assert (quoted.values, quoted.nulls, quoted.maximum) == (2, 1, 6)
    assert ids.lengths is not None
    assert (ids.values, ids.nulls, ids.distinct, ids.lengths.counts) == (2, 3, 1, {3: 1})
    assert (deep.values, deep.nulls, deep.mean) == (1, 2, 2.5)
    assert found.null_structs == {"outer.inner": 2, "outer.inner[]": 1, "outer.inner.deep": 2}


def plain(stats: DatasetStats) -> dict[str, Any]:
    """Plain values without the location. Floats are rounded, because two threads add them in any order."""
    text = json.dumps(asdict(replace(stats, location="")))
    values: dict[str, Any] = json.loads(text, parse_float=lambda number: f"{float(number):.9g}")
    return values


def test_columns_that_differ_only_in_case_are_refused(tmp_path: Path) -> None:
    write_file(tmp_path / "a.parquet", pa.table({"timestamp_ms": [1], "Page": [1], "page": [2]}))
    with pytest.raises(ValueError, match=r"a.parquet: columns Page and page differ only in upper and lower case"):
        scanned(tmp_path)


def test_unsigned_ids_beyond_int64_are_counted(tmp_path: Path) -> None:
    ids = pa.array([2**64 - 1, 2**63, 2**63, 1], pa.uint64())
    found = scanned(write_file(tmp_path / "a.parquet", pa.table({"timestamp_ms": [1, 2, 3, 4], "id": ids})).parent)
    assert (found.columns["id"].maximum, found.columns["id"].distinct) == (2**64 - 1, 3)


def test_remote_files_give_the_same_statistics_as_local_files(tmp_path: Path) -> None:
    """Remote files are read with fsspec. The local path contains characters that SQL could take for wildcards."""
    rows = make_rows(np.random.default_rng(0), 40)
    rows[30]["request_id"] = rows[2]["request_id"]
    local = write_dataset(tmp_path / "what?" / "a [b]*", rows, file_sizes=[15], row_group_sizes=[4])
    for file in local.rglob("*.parquet"):
        fsspec.filesystem("memory").pipe(f"/inspected/requests/{file.relative_to(local)}", file.read_bytes())
    remote = "memory://inspected/requests"
    assert plain(scanned(remote)) == plain(scanned(local))
    found, expected = duplicates(remote), duplicates(local)
    assert found is not None and expected is not None and found.examples
    assert found.examples == {
        id_: [place.replace(str(local), remote) for place in places] for id_, places in expected.examples.items()
    }
    bad, expected_bad = refusals(remote, Layout.of(SCHEMA)), refusals(local, Layout.of(SCHEMA))
    assert [(row.column, row.rows) for row in bad.rows] == [(row.column, row.rows) for row in expected_bad.rows]
