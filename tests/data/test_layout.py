"""Files that do not match the schema, and columns that several features read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from easq_rec.config.counts import with_counts
from easq_rec.config.schema import Count, Feature, FeatureSchema, Outcome, Table
from easq_rec.data.dataset import RequestDataset, _Footers
from easq_rec.data.layout import Layout
from tests.data.builders import (
    SCHEMA,
    Row,
    arrow_schema,
    candidate_fields,
    expected,
    make_rows,
    open_dataset,
    plain,
    to_table,
    write_dataset,
    write_file,
)

COUNT = pa.struct([(name, pa.float32()) for name in ("shown", "happened", "prior")])
PLAIN, ANSWERS = Layout.of(SCHEMA), Layout.of(SCHEMA, answers=True)


@pytest.fixture
def rows() -> list[Row]:
    return make_rows(np.random.default_rng(0), 23)


def _schema_error(tmp_path: Path, schema: pa.Schema, layout: Layout = PLAIN) -> str:
    """The error message for a file with this schema and no rows."""
    file = write_file(tmp_path / "requests" / "a.parquet", schema.empty_table())
    with pytest.raises(ValueError) as caught:
        RequestDataset(tmp_path / "requests", layout)
    message = str(caught.value)
    assert message.startswith(f"{file} does not match the feature schema:\n")
    return message


def _without(schema: pa.Schema, name: str) -> pa.Schema:
    return schema.remove(schema.get_field_index(name))


def _with(schema: pa.Schema, name: str, dtype: pa.DataType) -> pa.Schema:
    return schema.set(schema.get_field_index(name), pa.field(name, dtype))


def test_a_file_without_counts_of_answers_gets_one_line_that_says_how_to_get_them(tmp_path: Path) -> None:
    """Also if there is one count only, and next to missing counts of outcomes."""
    of_answers = [Count(name=f"{key}_answer", of="answer", keys=(key,)) for key in ("video_id", "author_id")]
    layout = Layout.of(with_counts(SCHEMA, of_answers[:1]))
    line, _ = _schema_error(tmp_path, arrow_schema(), layout).splitlines()[1:]
    assert line == (
        "  has none of the counts of answers that the schema reads (candidates.video_id_answer): add them with "
        "`easq-rec data counts`, or train a recipe that ends in _without_answer_counts"
    )
    counts = [Count(name=f"{key}_like", outcome="like", keys=(key,)) for key in ("video_id", "author_id")]
    layout = Layout.of(with_counts(SCHEMA, [*counts, *of_answers]))
    one, other, _ = _schema_error(tmp_path, arrow_schema(), layout).splitlines()[1:]
    assert one.startswith("  has none of the 2 counts that the schema reads (candidates.video_id_like, ...): add them")
    assert other.startswith(
        "  has none of the 2 counts of answers that the schema reads (candidates.video_id_answer, ."
    )


def test_a_file_without_counts_gets_one_line_for_all_of_them(tmp_path: Path) -> None:
    counts = [Count(name=f"{key}_like", outcome="like", keys=(key,)) for key in ("video_id", "author_id")]
    layout = Layout.of(with_counts(SCHEMA, counts))
    line, columns = _schema_error(tmp_path, arrow_schema(), layout).splitlines()[1:]
    assert line.startswith("  has none of the 2 counts that the schema reads (candidates.video_id_like, ...): add them")
    assert columns.startswith("  its columns: ")
    some = _with(arrow_schema(), "candidates", pa.list_(pa.struct([*candidate_fields(), ("video_id_like", COUNT)])))
    assert "  candidates.author_id_like: missing, expected a struct of" in _schema_error(tmp_path, some, layout)


def test_every_missing_column_is_listed(tmp_path: Path) -> None:
    children = [field for field in candidate_fields() if field.name not in ("tags", "like")]
    schema = _with(_without(arrow_schema(), "user_id"), "candidates", pa.list_(pa.struct(children)))
    message = _schema_error(tmp_path, schema)
    assert "  user_id: missing, expected an integer\n" in message
    assert "  candidates.tags: missing, expected a list of integers\n" in message
    assert "  candidates.like: missing, expected a number or boolean\n" in message
    assert message.count(": missing") == 3


def test_answer_columns_are_required_only_in_answers(tmp_path: Path) -> None:
    message = _schema_error(tmp_path, arrow_schema(), ANSWERS)
    assert "  candidates.answer: missing, expected an integer (null, 0, 1 or 2)\n" in message
    assert "  candidates.answered_at_ms: missing, expected an integer (null or milliseconds)\n" in message
    open_dataset(tmp_path / "requests")


@pytest.mark.parametrize(
    ("name", "dtype", "problem"),
    [
        ("request_id", pa.string(), "request_id: is string, expected an integer"),
        ("timestamp_ms", pa.timestamp("ms"), "timestamp_ms: is timestamp[ms], expected an integer"),
        ("user_id", pa.float64(), "user_id: is double, expected an integer"),
        ("history", pa.int64(), "history.video_id: missing, expected an integer"),
        ("history", arrow_schema().field("history").type.value_type, "history: is struct<"),
        ("candidates", pa.struct(candidate_fields()), "candidates: is struct<"),
        ("user", pa.list_(arrow_schema().field("user").type), "user: is list<"),
    ],
)
def test_a_wrong_type_is_named(tmp_path: Path, name: str, dtype: pa.DataType, problem: str) -> None:
    assert f"\n  {problem}" in _schema_error(tmp_path, _with(arrow_schema(), name, dtype))


@pytest.mark.parametrize(
    ("name", "dtype", "problem"),
    [
        ("tags", pa.int64(), "candidates.tags: is int64, expected a list of integers"),
        ("tags", pa.list_(pa.string()), "expected a list of integers"),
        ("quality", pa.string(), "candidates.quality: is string, expected a number or boolean"),
        ("category_code", pa.list_(pa.int8()), "expected an integer"),
    ],
)
def test_a_wrong_type_of_a_candidate_column_is_named(
    tmp_path: Path, name: str, dtype: pa.DataType, problem: str
) -> None:
    children = pa.list_(pa.struct(candidate_fields(**{name: dtype})))
    assert problem in _schema_error(tmp_path, _with(arrow_schema(), "candidates", children))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no Parquet at all" * 20])
def test_a_file_that_is_not_parquet_is_named(tmp_path: Path, content: bytes) -> None:
    write_dataset(tmp_path / "requests", make_rows(np.random.default_rng(0), 2))
    bad = tmp_path / "requests" / "z.parquet"
    bad.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(bad))}: not a readable Parquet file"):
        open_dataset(tmp_path / "requests")


def test_a_truncated_file_is_named(tmp_path: Path, rows: list[Row]) -> None:
    file = write_file(tmp_path / "requests" / "a.parquet", to_table(rows))
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))}: not a readable Parquet file"):
        open_dataset(tmp_path / "requests")


@pytest.mark.parametrize("make", [True, False])
def test_an_empty_or_absent_directory_is_named(tmp_path: Path, make: bool) -> None:
    directory = tmp_path / "requests"
    if make:
        directory.mkdir()
        (directory / "_SUCCESS").touch()
        (directory / "part-0.parquet.crc").touch()
    with pytest.raises(ValueError, match=f"^{re.escape(str(directory))} has no Parquet files"):
        open_dataset(directory)


def test_unfinished_files_of_a_writer_are_not_read(tmp_path: Path, rows: list[Row]) -> None:
    """Spark and similar writers use `_temporary/` and hidden names until they commit."""
    directory = write_dataset(tmp_path / "_requests", rows)
    for name in ("_temporary/0/part-0.parquet", ".staging/part-0.parquet", "_part.parquet", ".part.parquet"):
        write_file(directory / name, to_table(rows))
    assert len(open_dataset(directory)) == len(rows)


def test_a_rewritten_file_is_read_again(tmp_path: Path, rows: list[Row]) -> None:
    directory = write_dataset(tmp_path / "requests", rows)
    assert len(open_dataset(directory)) == 23
    write_dataset(directory, rows[:5])
    dataset = open_dataset(directory)
    assert len(dataset) == 5
    assert plain(dataset.read_all()) == expected(rows[:5])  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["vanishes", "grows", "same size"])
def test_a_file_that_changes_during_a_run_is_refused(tmp_path: Path, rows: list[Row], change: str) -> None:
    """The row groups of a dataset must not change while it is read."""
    dataset = open_dataset(write_dataset(tmp_path, rows, file_sizes=[12], row_group_sizes=[5]))
    first, *others = dataset.row_groups
    file = Path(first.file)
    dataset.read(first)
    if change == "vanishes":
        file.unlink()
    else:
        write_file(file, to_table(rows[:12] if change == "same size" else rows), row_group_sizes=[5])
    message = "not a readable Parquet file" if change == "vanishes" else "has been rewritten since this run"
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))}.*{message}"):
        dataset.read(first)
    assert len(dataset.read(others[-1])) == others[-1].rows, "the other files are unchanged"


@pytest.mark.parametrize("odd", [0, 2, 4])
def test_every_file_is_checked(tmp_path: Path, rows: list[Row], odd: int) -> None:
    """One of several files has another schema, at any position."""
    for index in range(5):
        schema = _with(arrow_schema(), "user_id", pa.string()) if index == odd else arrow_schema()
        table = to_table(rows).set_column(
            arrow_schema().get_field_index("user_id"),
            "user_id",
            to_table(rows).column("user_id").cast(schema.field("user_id").type),
        )
        write_file(tmp_path / f"{index}.parquet", table)
    with pytest.raises(ValueError, match=rf"/{odd}\.parquet does not match the feature schema:\n  user_id: is string"):
        open_dataset(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Several features of one column


def test_a_column_of_several_features_is_checked_against_the_smallest_dense_table(
    tmp_path: Path, rows: list[Row]
) -> None:
    """An id without a row in one of the tables would index past the end of that table."""
    for small_first in (True, False):
        tables = [Table(name="small", rows=3, dim=4, id_space="dense"), Table(name="large", rows=9, dim=4)]
        pair = [
            Feature(name="a", source="category_code", table="small"),
            Feature(name="b", source="category_code", table="big"),
        ]
        schema = FeatureSchema(
            tables=(*tables, Table(name="big", rows=4, dim=4, id_space="dense"), Table(name="user", rows=9, dim=4)),
            user=(Feature(name="user_id", table="user"),),
            history=(Feature(name="video_id", table="large"),),
            candidate=(Feature(name="video_id", table="large"), *(pair if small_first else pair[::-1])),
            outcomes=(Outcome(name="like", weight=1.0),),
        )
        column = next(c for c in Layout.of(schema).columns if c.path == "candidates.category_code")
        assert column.table is not None and column.table.name == "small"


def test_a_column_read_as_id_and_as_float_stays_an_integer(rows: list[Row]) -> None:
    """float32 cannot represent all ids beyond 2**24."""
    table = Table(name="video", rows=9, dim=4)
    floating = Feature(name="a", kind="float", source="duration_ms")
    identity = Feature(name="b", source="duration_ms", table="video")
    for pair in ((floating, identity), (identity, floating)):
        schema = FeatureSchema(
            tables=(table, Table(name="user", rows=9, dim=4)),
            user=(Feature(name="user_id", table="user"),),
            history=(Feature(name="video_id", table="video"),),
            candidate=pair,
            outcomes=(Outcome(name="like", weight=1.0),),
        )
        column = next(c for c in Layout.of(schema).columns if c.path == "candidates.duration_ms")
        assert column.kind == "id"


def test_the_footer_cache_is_limited_by_row_groups(tmp_path: Path, rows: list[Row]) -> None:
    """The memory for footers does not grow with the dataset."""
    directory = write_dataset(tmp_path, rows, file_sizes=[4], row_group_sizes=[2])
    files_ = [str(file) for file in sorted(directory.rglob("*.parquet"))]
    footers = _Footers(row_groups=5)
    first = [footers.get(file) for file in files_]
    assert [footer.metadata.num_rows for footer in first] == [4, 4, 4, 4, 4, 3]
    assert footers.get(files_[-1]) is first[-1] and footers.get(files_[-2]) is first[-2]
    again = footers.get(files_[0])
    assert again is not first[0] and again.metadata.num_rows == 4
    write_file(Path(files_[0]), to_table(rows), row_group_sizes=[1])
    assert footers.get(files_[0]).metadata.num_rows == 23, "a footer larger than the limit is kept as the only one"
    assert footers.get(files_[0]) is footers.get(files_[0])


def test_columns_with_one_name_are_refused(tmp_path: Path) -> None:
    schema = arrow_schema()
    twice = pa.schema([*schema, pa.field("user_id", pa.int64())])
    assert "\n  user_id: several columns have this name" in _schema_error(tmp_path, twice)
