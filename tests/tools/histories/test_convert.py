"""`easq-rec data convert`: both layouts say the same, what is no range is kept, and what cannot be kept is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from easq_rec.errors import UserError
from easq_rec.tools.histories.command import convert
from tests.history_logs import read, requests, write


def converted(folder: Path, rows: list[dict[str, Any]], **options: Any) -> str:
    """Converts rows to references in `folder/reference` and back in `folder/back`; returns the first summary."""
    write(folder / "data" / "requests", rows)
    summary = convert(folder / "data", folder / "reference", histories="reference", **options)
    convert(folder / "reference", folder / "back", histories="inline")
    return summary


def resolved(folder: Path) -> list[list[dict[str, Any]]]:
    """The histories of requests that refer to them, by plain Python."""
    parts = {file.name: pq.read_table(file).to_pylist() for file in (folder / "histories").glob("*.parquet")}
    found = []
    for row in read(folder / "requests"):
        at = row["history"]
        own = parts[f"part-{at['part']:05d}.parquet"][at["row"]]
        assert own["user_id"] == row["user_id"]
        entries = own["history"][at["begin"] : at["begin"] + at["length"]]
        assert len(entries) == at["length"]
        found.append(sorted(entries, key=lambda entry: entry["timestamp_ms"]))
    return found


def test_references_are_the_histories(tmp_path: Path) -> None:
    rows = requests(300)
    summary = converted(tmp_path, rows)
    assert "0 histories are no ranges" in summary and "300 requests" in summary
    written = read(tmp_path / "data" / "requests")
    assert resolved(tmp_path / "reference") == [row["history"] for row in written]
    stored = sum(len(row["history"]) for row in read(tmp_path / "reference" / "histories"))
    assert 0 < 2 * stored < sum(len(row["history"]) for row in rows)


@pytest.mark.parametrize("part_entries", [1, 200, 10**9])
def test_a_data_directory_comes_back_as_it_was(tmp_path: Path, part_entries: int) -> None:
    write(tmp_path / "data" / "answers", requests(3, seed=1), files=1)
    (tmp_path / "data" / "build.json").write_text("{}")
    converted(tmp_path, requests(100), part_entries=part_entries)
    parts = list((tmp_path / "reference" / "histories").glob("*"))
    assert (len(parts) == 1) == (part_entries == 10**9)
    for file in sorted((tmp_path / "data").rglob("*.parquet")):
        before, after = pq.ParquetFile(file), pq.ParquetFile(tmp_path / "back" / file.relative_to(tmp_path / "data"))
        assert before.schema_arrow.equals(after.schema_arrow) and before.read().equals(after.read())
        assert [before.metadata.row_group(i).num_rows for i in range(before.num_row_groups)] == [
            after.metadata.row_group(i).num_rows for i in range(after.num_row_groups)
        ]
    assert (tmp_path / "reference" / "build.json").read_text() == "{}"
    assert not (tmp_path / "back" / "histories").exists()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 60),
    st.integers(1, 4),
    st.integers(1, 8),
    st.integers(0, 2**20),
    st.lists(st.integers(0, 59), max_size=8),
)
def test_any_histories_come_back(
    tmp_path_factory: pytest.TempPathFactory, count: int, users: int, longest: int, seed: int, spoiled: list[int]
) -> None:
    """Also those that no rule explains: entries that are missing, repeated, or of another user."""
    rows = requests(count, users=users, longest=longest, seed=seed)
    for number in spoiled:
        row, other = rows[number % count], rows[(number * 7 + 3) % count]
        mixed = [*row["history"][1:], *other["history"][:2], *row["history"][:1], *row["history"][-1:]]
        row["history"] = sorted(mixed, key=lambda entry: entry["timestamp_ms"])
    folder = tmp_path_factory.mktemp("log")
    converted(folder, rows)
    assert read(folder / "back" / "requests") == read(folder / "data" / "requests")


def test_negative_zero_and_nan_are_kept(tmp_path: Path) -> None:
    rows = requests(40, users=1)
    ratios = [-0.0, 0.0, float("nan")]
    for row in rows:
        for entry in row["history"]:
            entry["watch_ratio"] = ratios[entry["video_id"] % 3]
    converted(tmp_path, rows)
    back = [str(row["history"]) for row in read(tmp_path / "back" / "requests")]
    assert back == [str(row["history"]) for row in read(tmp_path / "data" / "requests")]
    assert any("-0.0" in text for text in back) and any("nan" in text for text in back)


def test_what_has_no_place_in_the_layout_is_refused(tmp_path: Path) -> None:
    rows = requests(60)
    late = next(row for row in rows if len(row["history"]) > 1)
    late["history"] = late["history"][::-1]
    write(tmp_path / "late" / "requests", rows)
    with pytest.raises(UserError, match=rf"row {late['request_id'] % 16}: the history cannot be .* oldest first"):
        convert(tmp_path / "late", tmp_path / "out", histories="reference")
    assert not (tmp_path / "out").exists()


def test_one_layout_is_not_converted_to_itself(tmp_path: Path) -> None:
    converted(tmp_path, requests(10))
    for folder, histories in (("data", "inline"), ("reference", "reference")):
        with pytest.raises(UserError, match="stored like this already"):
            convert(tmp_path / folder, tmp_path / "again", histories=histories)
    with pytest.raises(UserError, match="has no folder requests/"):
        convert(tmp_path, tmp_path / "again", histories="inline")
    with pytest.raises(UserError, match="already exists"):
        convert(tmp_path / "data", tmp_path / "back", histories="reference")
