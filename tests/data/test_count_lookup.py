"""Requests whose counts are looked up equal those for which the pass over the log wrote them."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from easq_rec.config.counts import with_counts
from easq_rec.config.schema import Count, FeatureSchema, NumberRange
from easq_rec.data.count_files import copy_counts, counts_beside, read_counts
from easq_rec.data.count_lookup import CountLookup, missing_counts
from easq_rec.data.dataset import RequestDataset, first_schema
from easq_rec.data.encode import encode
from easq_rec.data.layout import Layout
from easq_rec.errors import UserError
from easq_rec.tools.counts.command import add_counts
from tests.data.builders import SCHEMA, Row
from tests.full_disk import files_of_at_most
from tests.tools.counts.logs import BUCKET, WIDTH, make_log, write_log

COUNTS = (
    Count(name="video", outcome="like", keys=("video_id",), half_life_h=3.0),
    Count(name="user_tags", outcome="long_view", keys=("user_id", "tags")),
    Count(name="interests", outcome="like", keys=("user.interests",), bucket_minutes=4 * BUCKET),
    Count(name="author", outcome="like", keys=("author_id", "user.region"), frozen=True),
    Count(name="length", outcome="like", keys=("size", "user.age")),
    # No feature reads it.
    Count(name="unread", outcome="like"),
)
RANGES = (NumberRange(name="size", column="duration_ms", edges=(1_000.0, 30_000.0)),)
COUNTED = with_counts(dataclasses.replace(SCHEMA, count_bucket_minutes=BUCKET, count_ranges=RANGES), COUNTS)
COUNTED = dataclasses.replace(COUNTED, candidate=COUNTED.candidate[:-1])


def logs(folder: Path, seed: int) -> tuple[Path, list[Row], list[Row]]:
    """(folder, log, later requests in the bucket after it). `with/` has all of them, `without/` the log, `later/` the
    rest."""
    rows = make_log(np.random.default_rng(seed), 60)
    after = (max(row["timestamp_ms"] for row in rows) // WIDTH + 1) * WIDTH
    later = copy.deepcopy([row for row in rows if row["candidates"]][-8:])
    for number, row in enumerate(later):
        row |= {"request_id": 10**6 + number, "timestamp_ms": after + number}
    for row in [*rows, *later]:
        for candidate in row["candidates"]:
            # All outcomes of the log are known when the table is published, and none of the later ones.
            candidate["known_ms"] = row["timestamp_ms"] if row in later else min(candidate["known_ms"], after - 1)
    later[0]["candidates"][0]["video_id"] = 12_345
    write_log(folder / "with", [*rows, *later])
    write_log(folder / "without", rows)
    write_log(folder / "later", later)
    return folder, rows, later


@pytest.mark.parametrize("seed", range(3))
def test_looked_up_counts_equal_those_of_the_pass(tmp_path: Path, seed: int) -> None:
    folder, rows, later = logs(tmp_path, seed)
    add_counts(folder / "with", folder / "all", COUNTED, holdout=0.0)
    add_counts(folder / "without", folder / "past", COUNTED)
    whole = RequestDataset(folder / "all" / "requests", Layout.of(COUNTED, outcomes=False)).read_all()
    assert whole is not None
    wanted = whole.slice(len(rows), len(rows) + len(later))
    bare = folder / "later" / "requests"
    assert missing_counts(COUNTED, first_schema(bare)) and not missing_counts(SCHEMA, first_schema(bare))
    assert not missing_counts(COUNTED, first_schema(folder / "all" / "requests"))
    lookup = CountLookup(read_counts(folder / "past" / "counts"), COUNTED, "table")
    layout = lookup.layout(first_schema(bare))
    found = RequestDataset(bare, layout, complete=lookup.complete).read_all()
    assert found is not None
    one, other = encode(layout, found), encode(Layout.of(COUNTED, outcomes=False), wanted)
    assert found.scalars["request_id"].tolist() == wanted.scalars["request_id"].tolist()
    for feature in COUNTED.candidate:
        if feature.kind == "count":
            np.testing.assert_array_equal(
                found.candidates.column(feature.column), wanted.candidates.column(feature.column), feature.name
            )
        elif feature.kind != "id_list":
            key = f"feature.{feature.name}"
            np.testing.assert_array_equal(one.candidates.column(key), other.candidates.column(key), feature.name)
    assert found.candidates.column("video")[:, 0].max() > 0 and "unread" not in found.candidates.children
    empty = RequestDataset(bare, layout, complete=lookup.complete).empty()
    assert empty.candidates.column("video").shape == (0, 3)


def test_requests_from_before_the_table_are_refused(tmp_path: Path) -> None:
    folder, _, _ = logs(tmp_path, 3)
    add_counts(folder / "without", folder / "past", COUNTED)
    lookup = CountLookup(read_counts(folder / "past" / "counts"), COUNTED, "TABLE")
    place = folder / "without" / "requests"
    dataset = RequestDataset(place, lookup.layout(first_schema(place)), complete=lookup.complete)
    with pytest.raises(UserError, match=r"TABLE: a request at .* know its future: give requests from"):
        dataset.read_all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": COUNTED.counts[1:]}, "video: the schema reads it, but does not declare it"),
        (
            {"counts": (dataclasses.replace(COUNTED.counts[0], half_life_h=4.0), *COUNTED.counts[1:])},
            r"video: Count\(.*half_life_h=3.0.* there, Count\(.*half_life_h=4.0.* in the schema",
        ),
        ({"count_bucket_minutes": 1}, f"count_bucket_minutes is {BUCKET} there, 1 in the schema"),
        (
            {"count_ranges": (dataclasses.replace(RANGES[0], edges=(5.0,)),)},
            r"length: key size is NumberRange\(.*30000.0\)\) there, NumberRange\(.*edges=\(5.0,\)\) in the schema",
        ),
    ],
)
def test_a_table_of_other_counts_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    folder, _, _ = logs(tmp_path, 4)
    add_counts(folder / "without", folder / "past", COUNTED)
    other: FeatureSchema = dataclasses.replace(COUNTED, **change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"(?s)TABLE: these counts are not those of the schema:.*{message}"):
        CountLookup(read_counts(folder / "past" / "counts"), other, "TABLE")
    with pytest.raises(UserError, match=f"(?s)past/counts: these counts are not those of the schema:.*{message}"):
        counts_beside(folder / "past", other)


def test_the_table_beside_the_data_is_copied(tmp_path: Path) -> None:
    folder, _, _ = logs(tmp_path, 5)
    add_counts(folder / "without", folder / "past", COUNTED)
    assert counts_beside(folder / "past", SCHEMA) is None, "this schema reads no counts"
    assert counts_beside(folder / "without", COUNTED) is None
    source = counts_beside(folder / "past", COUNTED)
    assert source == str(folder / "past" / "counts")
    copy_counts(source, folder / "run" / "counts")
    names = sorted(file.name for file in (folder / "past" / "counts").iterdir())
    assert names == sorted(["counts.json", *(f"{count.name}.parquet" for count in COUNTS)])
    for name in names:
        assert (folder / "run" / "counts" / name).read_bytes() == (folder / "past" / "counts" / name).read_bytes()
    with files_of_at_most(100), pytest.raises(OSError, match="File too large"):
        copy_counts(source, folder / "full" / "counts")
    assert not list((folder / "full").iterdir()), "a full disk leaves no copy that lacks something"
    (folder / "past" / "counts" / "counts.json").write_text("{")
    with pytest.raises(UserError, match=r"past/counts/counts.json: cannot be read: Expecting"):
        counts_beside(folder / "past", COUNTED)
    (folder / "past" / "counts" / "counts.json").write_text(json.dumps({"now_ms": 1}))
    with pytest.raises(UserError, match=r"counts.json is not the description of counts"):
        counts_beside(folder / "past", COUNTED)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    folder, _, _ = logs(tmp_path, 6)
    add_counts(folder / "without", folder / "past", COUNTED)
    lookup = CountLookup(read_counts(folder / "past" / "counts"), COUNTED, "TABLE")
    place = folder / "later" / "requests"
    table = pq.read_table(next(place.rglob("*.parquet")))
    users = table["user"].combine_chunks()
    kept = [field for field in users.type if field.name != "age"]
    plain = pa.StructArray.from_arrays([users.field(field.name) for field in kept], fields=kept)
    (file,) = place.rglob("*.parquet")
    pq.write_table(table.set_column(table.column_names.index("user"), "user", plain), file)
    with pytest.raises(UserError, match=r"user.age: missing, expected an integer"):
        RequestDataset(place, lookup.layout(first_schema(place)), complete=lookup.complete)
