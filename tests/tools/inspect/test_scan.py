"""What a scan says of random small datasets equals plain Python loops over their rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from easq_rec.data.layout import Layout
from easq_rec.tools.inspect.checks import find_duplicates, find_refusals
from easq_rec.tools.inspect.scan import Scan, scan
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


def values_of(rows: list[Row], path: str) -> Iterator[Any]:
    """All values of a column, nulls included; those of lists too."""
    group, _, name = path.rpartition(".")
    for row in rows:
        entries = row[group] if group in ("history", "candidates") else [row[group] if group else row]
        yield from (entry[name] for entry in entries)


def check_column(found: Scan, rows: list[Row], path: str) -> None:
    column, values = found.columns[path], list(values_of(rows, path))
    if column.kind == "other":
        assert column.types == {"string"}
        return
    nulls = values.count(None)
    values = [value for value in values if value is not None]
    if column.kind == "list":
        assert column.lengths.counts.sum() == len(values)
        assert Counter(map(len, values)) == {n: c for n, c in enumerate(column.lengths.counts.tolist()) if c}
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
    if column.counted:
        assert column.distinct.count() == len(set(values))


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
    found = scan(folder)
    for path in found.columns:
        check_column(found, rows, path)
    assert found.rows == len(rows)
    assert found.candidates == sum(len(row["candidates"]) for row in rows)
    assert sum(found.group_rows) == len(rows) and len(found.files) == 4
    assert found.bytes == sum(file.stat().st_size for file in folder.rglob("*.parquet"))
    for name, lengths in found.lengths.items():
        counts = Counter(len(row[name]) for row in rows)
        assert counts == {n: c for n, c in enumerate(lengths.counts.tolist()) if c}
    assert (found.unsorted_rows, found.unsorted_groups, found.null_structs) == (0, 0, {})


@pytest.mark.parametrize("seed", range(4))
def test_stages_equal_plain_loops(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    fields = [*candidate_fields(answers=True), pa.field("shown", pa.bool_())]
    base = arrow_schema()
    schema = base.set(base.get_field_index("candidates"), pa.field("candidates", pa.list_(pa.struct(fields))))
    rows = make_answers(rng, make_rows(rng, 50), delay_ms=10**7)
    expected: dict[str, Any] = {"triggered": 0, "shown": 0, "answers": [0, 0, 0], "other": 0, "early": 0}
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
                expected["answers"][candidate["answer"]] += 1
            else:
                expected["other"] += 1
            time = candidate["answered_at_ms"]
            if time is None or time < row["timestamp_ms"]:
                expected["early"] += 1
            else:
                delays.append(time - row["timestamp_ms"])
    found = scan(write_dataset(tmp_path, rows, row_group_sizes=[7], schema=schema)).stages
    assert expected == {
        "triggered": found.triggered,
        "shown": found.shown,
        "answers": found.answers,
        "other": found.other_answers,
        "early": found.early,
    }
    for share in (0.5, 0.95):
        assert found.delays.quantile(share) == pytest.approx(
            np.quantile(delays, share, method="inverted_cdf"), rel=0.0051, abs=1
        )


def test_disorder_is_counted(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(0), 12)
    for index, row in enumerate(rows):
        row["timestamp_ms"] = 1_000 * index
    late = [*rows[:3], rows[4], rows[3], *rows[5:6], *rows[9:], *rows[6:9]]
    found = scan(write_dataset(tmp_path, late, row_group_sizes=[3]))
    assert (found.unsorted_rows, found.unsorted_groups) == (1, 1)


def test_nulls_where_the_contract_wants_lists_are_counted(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(0), 9)
    rows[1]["history"] = rows[4]["candidates"] = rows[5]["user"] = None
    rows[2]["candidates"] = [None, *rows[2]["candidates"]]
    found = scan(write_dataset(tmp_path, rows, row_group_sizes=[4]))
    assert found.null_structs == {"history": 1, "candidates": 1, "candidates[]": 1, "user": 1}
    assert found.lengths["history"].counts.sum() == found.lengths["candidates"].counts.sum() == 8, "null is not empty"
    assert found.columns["user.region"].nulls == 1
    assert found.columns["candidates.video_id"].nulls == 1
    assert found.columns["candidates.like"].nulls == 1


def test_a_dataset_without_rows_is_read(tmp_path: Path) -> None:
    found = scan(write_file(tmp_path / "a.parquet", arrow_schema().empty_table()).parent)
    assert (found.rows, found.candidates) == (0, 0)


# ---------------------------------------------------------------------------------------------------------------------
# Files that are not fit


def test_files_of_different_columns_are_named(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(0), 4)
    first = write_file(tmp_path / "a.parquet", to_table(rows))
    other = to_table(rows, arrow_schema().remove(1)).cast(
        arrow_schema().remove(1).set(1, pa.field("timestamp_ms", pa.float64()))
    )
    second = write_file(tmp_path / "b.parquet", other)
    with pytest.raises(ValueError) as caught:
        scan(tmp_path)
    assert str(caught.value) == (
        f"{second}: its columns differ from those of {first}: page is missing, string there; "
        "timestamp_ms is double, int64 there"
    )


def test_integers_of_different_widths_are_taken_together(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(0), 4)
    write_file(tmp_path / "a.parquet", to_table(rows))
    wide = arrow_schema().set(
        arrow_schema().get_field_index("user"),
        pa.field("user", pa.struct([("age", pa.int64()), ("region", pa.int8()), ("interests", pa.list_(pa.int32()))])),
    )
    write_file(tmp_path / "b.parquet", to_table(rows, wide))
    found = scan(tmp_path)
    assert found.columns["user.age"].types == {"int8", "int64"}
    check_column(found, rows + rows, "user.age")


@pytest.mark.parametrize("content", [b"", b"no Parquet at all" * 20])
def test_garbage_is_named(tmp_path: Path, content: bytes) -> None:
    write_dataset(tmp_path, make_rows(np.random.default_rng(0), 2))
    (tmp_path / "z.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"z.parquet: not a readable Parquet file"):
        scan(tmp_path)


def test_a_damaged_row_group_is_named(tmp_path: Path) -> None:
    file = write_file(tmp_path / "a.parquet", to_table(make_rows(np.random.default_rng(0), 300)))
    content = bytearray(file.read_bytes())
    content[100:2_000] = bytes(1_900)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.parquet: not a readable Parquet file"):
        scan(tmp_path)


def test_a_dataset_needs_a_time(tmp_path: Path) -> None:
    at = arrow_schema().get_field_index("timestamp_ms")
    write_file(tmp_path / "a.parquet", arrow_schema().remove(at).empty_table())
    with pytest.raises(ValueError, match=r"a.parquet: a dataset needs an integer column timestamp_ms; there is none"):
        scan(tmp_path)
    schema = arrow_schema().set(at, pa.field("timestamp_ms", pa.timestamp("ms")))
    write_file(tmp_path / "a.parquet", schema.empty_table())
    with pytest.raises(ValueError, match=r"an integer column timestamp_ms; it is timestamp\[ms\]"):
        scan(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Over the whole dataset


@pytest.mark.parametrize("at_once", [1_000, 40, 7, 1])
@pytest.mark.parametrize("low", [0, -50])
def test_duplicates_are_found_across_files_in_any_number_of_passes(tmp_path: Path, at_once: int, low: int) -> None:
    rng = np.random.default_rng(3)
    rows = make_rows(rng, 60)
    for row in rows:
        row["request_id"] = int(rng.integers(low, 50)) * 2**40
    counts = Counter(row["request_id"] for row in rows)
    folder = write_dataset(tmp_path, rows, file_sizes=[13], row_group_sizes=[5])
    found = find_duplicates(folder, len(rows), at_once=at_once)
    assert found is not None
    assert found.extra_rows == sum(count - 1 for count in counts.values()) > 0
    assert len(found.examples) == 5 and all(counts[example] > 1 for example in found.examples)


def test_every_refusal_of_a_schema_is_counted(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(0), 40)
    for index in (3, 4, 30):
        rows[index]["user"]["region"] = 5
    for index in (4, 17):
        rows[index]["candidates"][0]["quality"] = math.nan
    rows[20]["request_id"] = rows[19]["request_id"]
    folder = write_dataset(tmp_path, rows, file_sizes=[25], row_group_sizes=[10])
    odd = to_table(rows, arrow_schema().remove(arrow_schema().get_field_index("user_id")))
    for name in ("x.parquet", "y.parquet"):
        write_file(folder / name, odd)
    found = find_refusals(folder, Layout.of(SCHEMA))
    assert len(found.files) == 1 and "user_id: missing, expected an integer" in found.files[0]
    bad = {column: count for (column, _), count in found.bad_rows.items()}
    # Row 4 is bad twice, and counts at the first check; the repeated id lies in another row group.
    assert bad == {"user.region": 3, "candidates.quality": 1}
    assert "row 3, column user.region: found 5" in found.first["user.region", "0..4 (dense table 'region')"]
    assert found.summary()["bad_rows"][0]["rows"] == 3
