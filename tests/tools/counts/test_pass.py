"""The pass over a log writes what a loop over all earlier impressions finds, and changes nothing else."""

from __future__ import annotations

import copy
import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from easq_rec.cli.main import main
from easq_rec.config.counts import with_counts
from easq_rec.config.schema import Count
from easq_rec.config.schema_file import schema_to_toml
from easq_rec.data.count_files import read_counts
from easq_rec.data.dataset import RequestDataset
from easq_rec.data.encode import encode
from easq_rec.data.layout import Layout
from easq_rec.errors import UserError
from easq_rec.tools.counts.command import add_counts
from tests.data.builders import SCHEMA, Row, answer_row, write_dataset, write_file
from tests.tools.counts.logs import (
    BUCKET,
    COUNTED,
    COUNTS,
    START_MS,
    WIDTH,
    check,
    log_schema,
    make_log,
    read_rows,
    serving_ids,
    with_counts_of,
    write_log,
)

NAMES = [count.name for count in COUNTS]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("known", [True, False])
def test_counts_equal_a_loop_over_all_earlier_impressions(tmp_path: Path, seed: int, known: bool) -> None:
    """With `known_ms`, and without it: then all outcomes of a request are known at the end of its last watch."""
    rows = make_log(np.random.default_rng(seed), 50, known=known)
    found = with_counts_of(write_log(tmp_path / "log", rows, row_group_sizes=[7]), tmp_path / "out")
    check(found, rows)
    assert sum(candidate["video"]["shown"] > 0 for row in found for candidate in row["candidates"]) > 20


def test_without_watch_times_outcomes_are_known_at_the_request(tmp_path: Path) -> None:
    rows = make_log(np.random.default_rng(5), 30, known=False)
    fields = [
        field for field in log_schema(known=False).field("candidates").type.value_type if field.name != "watch_ms"
    ]
    schema = log_schema(known=False)
    schema = schema.set(schema.get_field_index("candidates"), pa.field("candidates", pa.list_(pa.struct(fields))))
    write_dataset(tmp_path / "log" / "requests", rows, schema=schema)
    found = with_counts_of(tmp_path / "log", tmp_path / "out")
    for row in rows:
        for candidate in row["candidates"]:
            candidate["watch_ms"] = 0
    check(found, rows)


@pytest.mark.parametrize(
    ("file_sizes", "row_group_sizes"), [([23, 17], [9, 4]), ([1], None), (None, [1]), (None, [60, 0]), ([30], [0, 8])]
)
def test_files_and_row_groups_do_not_change_counts_and_are_kept(
    tmp_path: Path, file_sizes: list[int] | None, row_group_sizes: list[int] | None
) -> None:
    rows = make_log(np.random.default_rng(6), 60)
    one = with_counts_of(write_log(tmp_path / "one", rows), tmp_path / "one-out")
    write_log(tmp_path / "log", rows, file_sizes=file_sizes, row_group_sizes=row_group_sizes)
    assert with_counts_of(tmp_path / "log", tmp_path / "out") == one
    check(one, rows)
    check_unchanged(tmp_path / "log", tmp_path / "out")


def check_unchanged(directory: Path, out: Path) -> None:
    """Every file has the same row groups, rows and columns as before, and the counts after these."""
    names = sorted(file.relative_to(directory) for file in directory.rglob("*.parquet"))
    assert names == sorted(
        f.relative_to(out) for f in out.rglob("*.parquet") if f.relative_to(out).parts[0] != "counts"
    )
    for name in names:
        before, after = pq.ParquetFile(directory / name), pq.ParquetFile(out / name)
        assert groups(before) == groups(after)
        old, new = before.read(), after.read()
        entries = new["candidates"].combine_chunks().flatten()
        assert [field.name for field in entries.type][-len(NAMES) :] == NAMES
        assert [field.name for field in entries.type][: -len(NAMES)] == [
            field.name for field in old.schema.field("candidates").type.value_type
        ]
        kept = list(entries.type)[: -len(NAMES)]
        children = [entries.field(index) for index in range(len(kept))]
        offsets = new["candidates"].combine_chunks().offsets
        field = old.schema.field("candidates")
        plain = pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(children, fields=kept), type=field.type)
        assert new.set_column(new.schema.get_field_index("candidates"), field, plain).equals(old, check_metadata=True)


def groups(file: pq.ParquetFile) -> list[int]:
    return [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]


@pytest.mark.parametrize("interleaved", [True, False])
def test_row_groups_may_overlap_in_time(tmp_path: Path, interleaved: bool) -> None:
    """Parallel builds write such files: each row group is in order, and row groups are in the order of their first
    request. Rows within a row group may have any order, too."""
    rows = make_log(np.random.default_rng(7), 64)
    parts = [rows[start::2][at : at + 8] for at in range(0, 32, 8) for start in (0, 1)]
    if not interleaved:
        rng = np.random.default_rng(0)
        parts = [[rows[at + index] for index in rng.permutation(16)] for at in range(0, 64, 16)]
    for number, part in enumerate(parts):
        table = pa.Table.from_pylist(part, schema=log_schema())
        write_file(tmp_path / "log" / "requests" / f"{number:03}.parquet", table)
    found = with_counts_of(tmp_path / "log", tmp_path / "out")
    check(found, [row for part in parts for row in part], rows)


def test_other_datasets_look_up_and_are_not_counted(tmp_path: Path) -> None:
    """Answers repeat whole requests. A dataset such as random/requests has others, which no counts contain."""
    rng = np.random.default_rng(8)
    rows = make_log(rng, 50)
    answered = [answer_row(rng, row, {0: (1, row["timestamp_ms"] + 5)}) for row in rows[::6] if row["candidates"]]
    others = make_log(np.random.default_rng(9), 12)
    write_log(tmp_path / "log", rows, row_group_sizes=[11])
    write_dataset(tmp_path / "log" / "answers", answered, row_group_sizes=[3], schema=log_schema(answers=True))
    write_dataset(tmp_path / "log" / "random" / "requests", others, schema=log_schema())
    add_counts(tmp_path / "log", tmp_path / "out", COUNTED)
    check(read_rows(tmp_path / "out" / "requests"), rows)
    check(read_rows(tmp_path / "out" / "answers"), answered, rows)
    check(read_rows(tmp_path / "out" / "random" / "requests"), others, rows)
    check_unchanged(tmp_path / "log", tmp_path / "out")
    by_id = {row["request_id"]: row for row in read_rows(tmp_path / "out" / "requests")}
    for row in read_rows(tmp_path / "out" / "answers"):
        for one, other in zip(row["candidates"], by_id[row["request_id"]]["candidates"], strict=True):
            assert {name: one[name] for name in NAMES} == {name: other[name] for name in NAMES}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), share=st.floats(0, 1))
def test_nothing_from_the_bucket_of_a_request_or_later_is_in_its_counts(
    tmp_path_factory: pytest.TempPathFactory, seed: int, share: float
) -> None:
    """Outcomes that were known in a bucket or later are replaced, and later requests as well: the counts of requests
    in that bucket and before it stay the same, bit for bit."""
    folder = tmp_path_factory.mktemp("future")
    rng = np.random.default_rng(seed)
    rows = make_log(rng, 25)
    now = rows[int(share * (len(rows) - 1))]["timestamp_ms"] // WIDTH * WIDTH
    changed = copy.deepcopy(rows)
    for row in changed:
        for candidate in row["candidates"]:
            if candidate["known_ms"] >= now:
                candidate |= {"like": not candidate["like"], "long_view": 1 - candidate["long_view"]}
        if row["timestamp_ms"] >= now + WIDTH:
            row["user_id"] = 1
            row["candidates"] = row["candidates"][:1] * 3
    one = with_counts_of(write_log(folder / "one", rows), folder / "one-out")
    other = with_counts_of(write_log(folder / "other", changed), folder / "other-out")
    compared = 0
    for row, same in zip(one, other, strict=True):
        if row["timestamp_ms"] < now + WIDTH:
            for candidate, twin in zip(row["candidates"], same["candidates"], strict=True):
                assert {name: candidate[name] for name in NAMES} == {name: twin[name] for name in NAMES}
                compared += 1
    assert compared or share < 0.5


@pytest.mark.parametrize(("early_ms", "shown"), [(1, 1), (0, 0), (-1, 0)])
def test_an_outcome_at_the_edge_of_a_bucket_counts_from_the_next_one(tmp_path: Path, early_ms: int, shown: int) -> None:
    """An outcome that is known one millisecond before the bucket of a request is in, one at its beginning is not."""
    first, second = make_log(np.random.default_rng(11), 8)[-2:]
    edge = START_MS + 50 * WIDTH
    candidate = {**make_candidate(), "known_ms": edge - early_ms}
    rows = [
        {**first, "timestamp_ms": edge - 10, "candidates": [candidate]},
        {**second, "timestamp_ms": edge, "candidates": [candidate | {"known_ms": edge}]},
    ]
    found = with_counts_of(write_log(tmp_path / "log", rows), tmp_path / "out")
    assert [row["candidates"][0]["video"]["shown"] for row in found] == [0, shown]
    check(found, rows)


def make_candidate() -> Row:
    return next(row["candidates"][0] for row in make_log(np.random.default_rng(0), 9) if row["candidates"])


@pytest.mark.parametrize("later", [0, 5])
def test_the_published_table_gives_what_the_pass_writes_for_a_request_there(tmp_path: Path, later: int) -> None:
    """The pass runs once with a further request in the bucket after the log, and once without it, for serving."""
    rows = make_log(np.random.default_rng(12), 60)
    at_ms = (max(row["timestamp_ms"] for row in rows) // WIDTH + 1 + later) * WIDTH
    extra = copy.deepcopy(next(row for row in rows if len(row["candidates"]) > 2))
    extra |= {"request_id": 10**6, "timestamp_ms": at_ms}
    for candidate in extra["candidates"]:
        candidate["known_ms"] = at_ms
    extra["candidates"][0]["video_id"] = 12_345
    # The table has the outcomes that were known before its bucket; what became known since is not in the past log.
    for row in rows:
        for candidate in row["candidates"]:
            candidate["known_ms"] = min(candidate["known_ms"], at_ms - later * WIDTH - 1)
    (*_, wanted) = with_counts_of(write_log(tmp_path / "with", [*rows, extra]), tmp_path / "with-out")
    with_counts_of(write_log(tmp_path / "without", rows), tmp_path / "without-out")
    state = read_counts(tmp_path / "without-out" / "counts")
    assert state.now_ms == at_ms - later * WIDTH
    found = state.lookup(serving_ids(extra), len(extra["candidates"]), at_ms + WIDTH // 2)
    for name in NAMES:
        column = found[name].column()
        expected = [
            [candidate[name][field] for field in ("shown", "happened", "prior")] for candidate in wanted["candidates"]
        ]
        np.testing.assert_allclose(column, np.array(expected, np.float32), rtol=0 if not later else 1e-6, err_msg=name)
    assert found["video"].shown_N[0] == 0 and found["video"].shown_N[1] > 0


def test_the_reader_accepts_the_counts(tmp_path: Path) -> None:
    rows = make_log(np.random.default_rng(13), 40)
    with_counts_of(write_log(tmp_path / "log", rows), tmp_path / "out")
    layout = Layout.of(COUNTED)
    columns = RequestDataset(tmp_path / "out" / "requests", layout).read_all()
    assert columns is not None
    numbers = encode(layout, columns).candidates.column("feature.video")
    assert numbers.shape[1] == 3 and np.isfinite(numbers).all() and numbers.std(axis=0).min() > 0
    assert "known_ms" not in columns.candidates.children


# ---------------------------------------------------------------------------------------------------------------------
# Input and output


def test_other_files_are_copied_and_unfinished_ones_are_not(tmp_path: Path) -> None:
    directory = write_log(tmp_path / "log", make_log(np.random.default_rng(14), 9))
    for name in ("world.json", "quarantine/bad.parquet", "notes/note.txt", "_temporary/x", ".hidden"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(name.encode())
    add_counts(directory, tmp_path / "out", COUNTED)
    for name in ("world.json", "quarantine/bad.parquet", "notes/note.txt"):
        assert (tmp_path / "out" / name).read_bytes() == name.encode()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("requests", "counts", "world.json", "quarantine", "notes")
    }


def test_the_command_reads_a_schema_file_or_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = make_log(np.random.default_rng(15), 30)
    directory = str(write_log(tmp_path / "log", rows))
    (tmp_path / "schema.toml").write_text(schema_to_toml(COUNTED))
    assert not main(
        ["data", "counts", directory, "--schema", str(tmp_path / "schema.toml"), "--out", str(tmp_path / "a")]
    )
    assert "all_likes: by all impressions, overall rate" in capsys.readouterr().out
    check(read_rows(tmp_path / "a" / "requests"), rows)
    for words, message in (
        (
            ["--recipe", "without_counts"],
            "the schema declares no counts: add [[counts]] to it, or name a recipe that ends in",
        ),
        (["--recipe", "nothing_counts"], "unknown recipe 'nothing_counts'"),
        (["--recipe", "counts", "--schema", "x.toml"], "give one of --schema FILE.toml and --recipe NAME"),
        ([], "give one of --schema FILE.toml and --recipe NAME"),
        (["--recipe", "without_answer_counts"], "candidates.follow: missing, expected a number or boolean"),
        (["--recipe", "counts"], "it has no folder answers/"),
    ):
        assert main(["data", "counts", directory, "--out", str(tmp_path / "b"), *words]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def refused(directory: Path, out: Path, message: str, schema: Any = COUNTED) -> None:
    """Nothing is left behind."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(UserError, match=message):
        add_counts(directory, out, schema)
    assert sorted(out.parent.iterdir()) == before


def test_a_directory_that_cannot_be_counted_is_refused(tmp_path: Path) -> None:
    rows = make_log(np.random.default_rng(16), 20)
    directory, out = write_log(tmp_path / "log", rows, row_group_sizes=[5]), tmp_path / "out"
    refused(tmp_path / "nowhere", out, "nowhere: it has no folder requests/")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("")
    refused(directory, tmp_path / "used", "used: already exists: delete it or choose another directory")
    late = write_log(tmp_path / "late", [*rows[10:], *rows[:10]], row_group_sizes=[10])
    refused(
        late, out, "row group 1: begins at .* before the previous row group .*: data counts reads files in the order"
    )
    seconds = [{**row, "timestamp_ms": row["timestamp_ms"] // 1_000} for row in rows]
    refused(write_log(tmp_path / "seconds", seconds), out, "timestamp_ms: values from .* seconds .*multiply by 1,000")
    add_counts(directory, tmp_path / "counted", COUNTED)
    refused(tmp_path / "counted", out, "counted: already has counts in counts/: start from the data without them")
    (tmp_path / "counted" / "counts").rename(tmp_path / "moved")
    refused(
        tmp_path / "counted", out, r"already has a column candidates.all_likes: start from data without it, or rena"
    )
    lists = with_counts(SCHEMA, [Count(name="two", outcome="like", keys=("tags", "genres"))])
    refused(directory, out, r"count two: keys \['genres', 'tags'\] are lists: one key of a count may be a list", lists)
    text = with_counts(SCHEMA, [Count(name="note_like", outcome="like", keys=("note", "user.city"))])
    refused(directory, out, r"(?s)candidates.note: is string, expected an integer.*user.city: missing", text)
    outcome = with_counts(SCHEMA, [Count(name="watched", outcome="watch_ms", keys=("video_id",))])
    refused(
        directory, out, r"row group 0, row 0, column candidates.watch_ms: found .*, expected an outcome from 0", outcome
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"known_ms": START_MS - 1},
            "candidates.known_ms: found .*, expected a time at or after the request's timestamp",
        ),
        ({"known_ms": None}, "candidates.known_ms: found null, expected an integer"),
        ({"like": None}, "candidates.like: found null, expected a number"),
        ({"video_id": None}, "candidates.video_id: found null, expected an integer"),
        ({"tags": None}, "candidates.tags: found null, expected a list"),
        ({"tags": [1, None]}, "candidates.tags: found null, expected an integer"),
    ],
)
def test_a_bad_value_is_named_with_its_place(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = make_log(np.random.default_rng(17), 12)
    place = next(index for index, row in enumerate(rows) if index > 5 and row["candidates"])
    rows[place]["candidates"][-1] |= change
    directory = write_log(tmp_path / "log", rows, row_group_sizes=[5])
    where = rf"0000.parquet, row group {place // 5}, row {place % 5}, column {message}"
    refused(directory, tmp_path / "out", where)


def test_a_negative_watch_time_and_missing_structs_are_named(tmp_path: Path) -> None:
    rows = make_log(np.random.default_rng(18), 6, known=False)
    place = next(index for index, row in enumerate(rows) if row["candidates"])
    rows[place]["candidates"][0]["watch_ms"] = -1
    refused(
        write_log(tmp_path / "a", rows), tmp_path / "out", r"candidates.watch_ms: found -1, expected 0 or more mill"
    )
    rows[place] |= {"candidates": None}
    write_dataset(tmp_path / "b" / "requests", rows, schema=log_schema(known=False))
    refused(tmp_path / "b", tmp_path / "out", f"row {place}, column candidates: found null, expected a list")
    rows[place] |= {"candidates": [], "user": None}
    write_dataset(tmp_path / "c" / "requests", rows, schema=log_schema(known=False))
    refused(tmp_path / "c", tmp_path / "out", f"row {place}, column user: found null, expected a struct")


def test_a_longer_bucket_sees_less(tmp_path: Path) -> None:
    rows = make_log(np.random.default_rng(19), 60)
    directory, shown = write_log(tmp_path / "log", rows), []
    for minutes in (BUCKET, 10 * BUCKET, 100 * BUCKET):
        schema = dataclasses.replace(COUNTED, count_bucket_minutes=minutes)
        found = with_counts_of(directory, tmp_path / str(minutes), schema)
        shown.append(sum(candidate["user"]["shown"] for row in found for candidate in row["candidates"]))
    assert all(one > other for one, other in pairwise(shown))
