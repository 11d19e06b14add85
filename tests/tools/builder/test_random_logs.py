"""Random raw tables in random spellings, formats, encodings and files: each build equals a reader in plain Python."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz
from benchmarks.plain_reader import Read, cast, moment
from benchmarks.spellings import write_table


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False))
def test_a_build_equals_the_plain_reader(rng: random.Random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        values = write_table(rng, Path(folder))
        built, expected = fuzz.build(Path(folder), values, "out"), fuzz.expected_of(Path(folder), values)
        assert fuzz.differences(*built, expected, values["ids"]["user"]) == [], json.dumps(values)


def test_a_damaged_table_is_refused_or_read_as_it_is(tmp_path: Path) -> None:
    for seed in range(6):
        found = fuzz.trial(seed, tmp_path / str(seed))
        assert found["valid"] == ["right"]
        assert found["damaged"] in (["right"], ["refused"], ["unknown"])


def test_the_random_tables_have_every_kind_of_spelling(tmp_path: Path) -> None:
    """Without bad rows, defaults and times in zones the comparison would prove little."""
    total, encodings, names = Read(), set(), set()
    for seed in range(60):
        values = write_table(random.Random(seed), tmp_path / str(seed))
        found = fuzz.expected_of(tmp_path / str(seed), values)
        total.lost += found.lost
        total.defaulted += found.defaulted
        total.kept += found.kept
        encodings.add(values["impressions"].get("encoding"))
        names |= {file.suffix for file in (tmp_path / str(seed) / "imp").rglob("*") if file.is_file()}
    assert total.kept.total() > 400 and total.lost > 20 and total.defaulted > 20
    assert encodings >= {None, "utf-8-sig", "latin-1", "utf-16", "gb18030"}
    assert names >= {"", ".csv", ".CSV", ".gz", ".bz2", ".zst", ".PARQ", ".parquet", ".txt"}


def test_the_plain_reader_knows_the_rules() -> None:
    """It is the measure of the others, so a few rows are checked by hand."""
    row = {"user": "7.0", "video": " 101", "at": "2026-01-01T08:00:00+08:00", "watched": "1.5", "length": "20"}
    row |= {"liked": "TRUE", "kind": "NULL", "tags": '["1", 2]'}
    declared = {"time_unit": "timestamp"}
    assert cast(row, declared, "integer", "UTC") == (7, 101, 1_767_225_600_000, 1_500, 1, 9, (1, 2), 0)
    assert cast({**row, "user": "007"}, declared, "integer", "UTC") is None
    assert cast({**row, "user": "007"}, declared, "text", "UTC")[0] == "007"  # type: ignore[index]
    assert cast({**row, "kind": "x"}, declared, "integer", "UTC")[-1] == 1  # type: ignore[index]
    assert moment("2026-01-01T08:00:00", "timestamp", "Asia/Shanghai") == 1_767_225_600_000
    for skipped_or_repeated in ("2026-03-08 02:30:00", "2026-11-01 01:30:00"):
        assert not isinstance(moment(skipped_or_repeated, "timestamp", "America/New_York"), int)
