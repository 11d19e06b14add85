"""The drafted schema: which columns become features, which do not, and how large the tables are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from easq_rec.config import World
from easq_rec.config.counts import DURATION_CLASS, with_usual_answer_counts
from easq_rec.config.recipes import EXPECTED_EVIDENCE
from easq_rec.config.schema import Feature, Outcome, Table
from easq_rec.config.schema_file import parse_schema
from easq_rec.data.count_files import counts_beside
from easq_rec.data.dataset import RequestDataset
from easq_rec.data.layout import Layout
from easq_rec.tools.counts.command import add_counts
from easq_rec.tools.inspect import command
from easq_rec.tools.inspect.draft import DIM, Draft, table_rows
from easq_rec.tools.simulation.world import counted_schema, generate
from tests.data.builders import (
    arrow_schema,
    candidate_fields,
    make_answers,
    make_rows,
    to_table,
    write_dataset,
    write_file,
)
from tests.tools.inspect.queries import drafted

NUMBERS = np.random.default_rng(5)


def with_columns(tmp_path: Path, **columns: tuple[pa.DataType, Any]) -> Draft:
    """The draft of 40 small requests with additional candidate columns: name = (type, function that makes a value)."""
    rows = make_rows(np.random.default_rng(0), 40)
    for row in rows:
        for candidate in row["candidates"]:
            candidate.update({name: make() for name, (_, make) in columns.items()})
    fields = [*candidate_fields(), *(pa.field(name, dtype) for name, (dtype, _) in columns.items())]
    base = arrow_schema()
    schema = base.set(base.get_field_index("candidates"), pa.field("candidates", pa.list_(pa.struct(fields))))
    folder = write_dataset(tmp_path / "requests", rows, schema=schema)
    made = drafted(folder)
    assert made.schema is not None
    assert parse_schema(made.toml(), "") == made.schema
    RequestDataset(folder, Layout.of(made.schema)).read_all()
    return made


def names(made: Draft, group: str = "candidate") -> set[str]:
    return {feature.name for feature in made.features[group]}


def test_the_draft_of_the_world_has_the_features_of_its_recipe(tmp_path: Path) -> None:
    generate(World(requests=600, users=90, videos=300, density=2_000.0), tmp_path / "world")
    made = drafted(tmp_path / "world" / "requests", tmp_path / "world" / "answers")
    assert made.problems == []
    assert names(made, "user") == {"user_id", "age_group", "region", "device"}
    assert names(made, "history") == {"video_id", "author_id"}
    assert made.features["candidate"] == [
        Feature(name="video_id", table="video"),
        Feature(name="author_id", table="author"),
        Feature(name="tags", kind="id_list", table="tags", pooling="mean"),
        Feature(name="duration_ms", kind="float", transform="log1p"),
        *(Feature(name=count.name, kind="count") for count in counted_schema(1).counts),
    ]
    assert made.outcomes == [
        Outcome(name="long_view", weight=1.0),
        *(Outcome(name=name, weight=0.5, expected_evidence=EXPECTED_EVIDENCE) for name in ("like", "follow")),
        *(Outcome(name=name, weight=0.5) for name in ("comment", "forward")),
    ]
    assert made.schema is not None and made.schema.trigger == "long_view" and 'trigger = "long_view"' in made.toml()
    assert set(made.left_out) == {
        f"candidates.{name}" for name in ("watch_ms", "returned", "shown", "true_satisfaction", "true_engagement")
    }
    assert made.tables["region"] == Table(name="region", rows=32, dim=DIM, id_space="dense")
    assert made.tables["user"].id_space == made.tables["video"].id_space == "hashed"
    assert made.tables["user"].rows == 128
    for path, why in made.left_out.items():
        assert f"#   {path}: {why}\n" in made.toml()


def test_the_draft_declares_the_counts_beside_the_data(tmp_path: Path) -> None:
    generate(World(requests=300, users=90, videos=300, density=2_000.0), tmp_path / "world")
    command.inspect(str(tmp_path / "world"), tmp_path / "out", None)
    text, wanted = (tmp_path / "out" / "schema.toml").read_text(), counted_schema(1)
    made = parse_schema(text, "schema.toml")
    assert made.counts == wanted.counts and made.count_ranges == (DURATION_CLASS,)
    assert made.count_bucket_minutes == wanted.count_bucket_minutes
    assert counts_beside(str(tmp_path / "world"), made) is not None, "training accepts the draft"
    assert "Declare it" not in text and "earlier impressions, overall rate" in text


def test_counts_of_answers_are_features_of_the_satisfaction_tower(tmp_path: Path) -> None:
    generate(World(requests=300, users=90, videos=300, density=2_000.0), tmp_path / "plain", counts=False)
    wanted = with_usual_answer_counts(counted_schema(1))
    add_counts(str(tmp_path / "plain"), tmp_path / "world", wanted)
    command.inspect(str(tmp_path / "world"), tmp_path / "out", None)
    text = (tmp_path / "out" / "schema.toml").read_text()
    made = parse_schema(text, "schema.toml")
    assert made.counts == wanted.counts
    assert [feature.name for feature in made.satisfaction] == [feature.name for feature in wanted.satisfaction]
    assert counts_beside(str(tmp_path / "world"), made) is not None, "training accepts the draft"
    assert "earlier answers, overall rate" in text


def test_usable_columns_become_features_and_others_are_left_out(tmp_path: Path) -> None:
    made = with_columns(tmp_path)
    assert names(made, "user") == {"user_id", "age", "region", "interests"}
    assert names(made) == {"video_id", "author_id", "tags", "genres", "category_code", "duration_ms", "quality"}
    assert "describes the impression" in made.left_out["candidates.watch_ms"]
    assert "is string: features are" in made.left_out["candidates.note"]
    assert "lies outside the struct user" in made.left_out["page"]
    assert made.tables["interests"].id_space == "hashed", "there are negative ids"
    assert made.tables["category_code"] == Table(name="category_code", rows=4, dim=DIM, id_space="dense")
    assert made.schema is not None and made.schema.item == "video_id"


@pytest.mark.parametrize(
    "name",
    ["watch_ratio", "play_time_ms", "total_play", "dwell_s", "stay_time", "progress", "completion", "view_seconds"],
)
def test_columns_known_only_after_the_impression_are_not_features(tmp_path: Path, name: str) -> None:
    made = with_columns(tmp_path, **{name: (pa.float32(), lambda: float(NUMBERS.random()))})
    assert "describes the impression" in made.left_out[f"candidates.{name}"]
    assert name not in names(made)


@pytest.mark.parametrize("name", ["answer", "answered_at_ms", "shown", "true_grade", "known_ms"])
def test_questionnaire_and_ground_truth_columns_are_not_features(tmp_path: Path, name: str) -> None:
    made = with_columns(tmp_path, **{name: (pa.int64(), lambda: int(NUMBERS.integers(3)))})
    assert "never a feature" in made.left_out[f"candidates.{name}"]
    assert all(outcome.name != name for outcome in made.outcomes)


def test_a_number_that_leaks_an_outcome_is_not_a_feature(tmp_path: Path) -> None:
    """A column that is strongly correlated with an outcome is left out, whatever its name is."""
    rows = make_rows(np.random.default_rng(0), 40)
    for row in rows:
        for candidate in row["candidates"]:
            candidate["quality"] = candidate["long_view"] + float(NUMBERS.normal(scale=0.3))
    made = drafted(write_dataset(tmp_path, rows))
    assert "with candidates.long_view: a consequence of it?" in made.left_out["candidates.quality"]


def test_binary_columns_without_a_known_name_are_left_for_the_user_to_declare(tmp_path: Path) -> None:
    made = with_columns(
        tmp_path,
        odd=(pa.int8(), lambda: int(NUMBERS.integers(2))),
        is_hate=(pa.bool_(), lambda: bool(NUMBERS.integers(2))),
    )
    assert "declare it as an outcome or as a feature" in made.left_out["candidates.odd"]
    assert Outcome(name="is_hate", weight=-1.0) in made.outcomes


def test_without_known_outcomes_unknown_binary_columns_become_outcomes(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(0), 40)
    fields = [field for field in candidate_fields() if field.name not in ("like", "long_view")]
    base = arrow_schema().set(
        arrow_schema().get_field_index("candidates"),
        pa.field("candidates", pa.list_(pa.struct([*fields, pa.field("odd", pa.int8())]))),
    )
    for row in rows:
        for index, candidate in enumerate(row["candidates"]):
            candidate["odd"] = index % 2
    made = drafted(write_dataset(tmp_path, rows, schema=base))
    assert made.outcomes == [Outcome(name="odd", weight=1.0)]
    assert "Is it an outcome?" in made.notes["outcomes", "odd"]


def test_columns_with_bad_values_are_left_out_with_their_count(tmp_path: Path) -> None:
    turns = iter(range(10**6))
    made = with_columns(
        tmp_path,
        holes=(pa.int64(), lambda: None if next(turns) % 2 else 1),
        endless=(pa.float32(), lambda: float("inf")),
        nothing=(pa.int32(), lambda: None),
    )
    assert made.left_out["candidates.holes"].split(":")[0].endswith(" null")
    assert made.left_out["candidates.endless"].split(":")[0].endswith(" infinite")
    assert "null: fill them" in made.left_out["candidates.nothing"]


def test_the_transform_of_a_float_depends_on_its_distribution(tmp_path: Path) -> None:
    made = with_columns(
        tmp_path,
        price=(pa.float64(), lambda: float(NUMBERS.lognormal(5, 2))),
        temperature=(pa.float32(), lambda: float(NUMBERS.normal())),
        height=(pa.float32(), lambda: float(NUMBERS.normal() * 1_000)),
    )
    transforms = {feature.name: feature.transform for feature in made.features["candidate"] if feature.kind == "float"}
    assert transforms["price"] == transforms["duration_ms"] == "log1p"
    assert "negative values count as 0" in made.notes["candidate", "duration_ms"]
    assert "negative" not in made.notes["candidate", "price"]
    assert transforms["temperature"] == transforms["height"] == "identity"
    assert "scale the column" in made.notes["candidate", "height"]
    assert "scale the column" not in made.notes["candidate", "temperature"]


def with_request_columns(
    tmp_path: Path, user: dict[str, tuple[pa.DataType, Any]], history: dict[str, tuple[pa.DataType, Any]]
) -> Draft:
    """The draft of 20 small requests with additional columns of users and history entries: name = (type, value)."""
    base = arrow_schema()
    fields = [pa.field(name, dtype) for name, (dtype, _) in user.items()]
    schema = base.set(base.get_field_index("user"), pa.field("user", pa.struct([*base.field("user").type, *fields])))
    fields = [*base.field("history").type.value_type, *(pa.field(name, dtype) for name, (dtype, _) in history.items())]
    schema = schema.set(schema.get_field_index("history"), pa.field("history", pa.list_(pa.struct(fields))))
    rows = make_rows(np.random.default_rng(0), 20)
    for row in rows:
        row["user"] |= {name: value for name, (_, value) in user.items()}
        for entry in row["history"]:
            entry |= {name: value for name, (_, value) in history.items()}
    made = drafted(write_dataset(tmp_path, rows, schema=schema))
    assert made.schema is not None and parse_schema(made.toml(), "") == made.schema
    RequestDataset(tmp_path, Layout.of(made.schema)).read_all()
    return made


def test_numbers_of_users_and_of_history_entries_are_features(tmp_path: Path) -> None:
    made = with_request_columns(
        tmp_path,
        {"income": (pa.float32(), 1.0), "user_id": (pa.int64(), 3), "taste": (pa.list_(pa.float64()), [1.0, 2.0])},
        {
            "price": (pa.float64(), 2.0),
            "labels": (pa.list_(pa.int64()), [1]),
            "content": (pa.list_(pa.float32(), 2), [1.0, 2.0]),
        },
    )
    found = {(group, f.name): f for group, features in made.features.items() for f in features}
    assert found["user", "income"] == Feature(name="income", kind="float")
    assert found["user", "taste"] == Feature(name="taste", kind="float_list", length=2)
    assert found["history", "price"].kind == "float"
    assert found["history", "content"] == Feature(name="content", kind="float_list", length=2)
    assert "feature of a history entry is one id" in made.left_out["history.labels"]
    assert "user_id of the request" in made.left_out["user.user_id"]


WEIGHTED = pa.list_(pa.struct([("id", pa.int64()), ("weight", pa.float64())]))


def test_weighted_ids_are_features_unless_the_reader_refuses_them(tmp_path: Path) -> None:
    good, negative, broken = ([{"id": 4, "weight": weight}] for weight in (0.5, -0.5, float("nan")))
    user = {"moods": (WEIGHTED, good), "worse": (WEIGHTED, negative), "broken": (WEIGHTED, broken)}
    made = with_request_columns(tmp_path / "a", user | {"gone": (WEIGHTED, None)}, {"past": (WEIGHTED, good)})
    (moods,) = (feature for feature in made.features["user"] if feature.kind == "weighted_id_list")
    assert moods == Feature(name="moods", kind="weighted_id_list", table="moods", pooling="mean")
    assert "20 weights below 0" in made.left_out["user.worse"]
    assert "20 NaN" in made.left_out["user.broken"]
    assert "one id, or numbers" in made.left_out["history.past"]
    assert "user.gone" not in names(made, "user")


COUNT = pa.struct([("shown", pa.float32()), ("happened", pa.float32()), ("prior", pa.float32())])


def test_counts_are_features_unless_the_reader_refuses_them(tmp_path: Path) -> None:
    turns = iter(range(10**6))

    def count(**other: float | None) -> dict[str, float | None]:
        return {"shown": 40.0, "happened": 7.0, "prior": 0.25, **other}

    made = with_columns(
        tmp_path,
        video_like=(COUNT, count),
        broken=(COUNT, lambda: count(prior=float("nan"))),
        gone=(COUNT, lambda: count() if next(turns) else None),
        other=(pa.struct([("shown", pa.float32()), ("size", pa.float32())]), lambda: {"shown": 1.0, "size": 2.0}),
    )
    counts = [feature for feature in made.features["candidate"] if feature.kind == "count"]
    assert counts == [Feature(name="video_like", kind="count")]
    assert "mean of 40 earlier impressions, overall rate 25.000%" in made.notes["candidate", "video_like"]
    assert " NaN: fill them" in made.left_out["candidates.broken"]
    assert "1 null: fill them" in made.left_out["candidates.gone"]
    assert "lies in a nested struct" in made.left_out["candidates.other.size"]


def test_lists_of_floats_must_have_equal_lengths(tmp_path: Path) -> None:
    turns = iter(range(10**6))
    made = with_columns(
        tmp_path,
        ragged=(pa.list_(pa.float32()), lambda: [0.5] * (1 + next(turns) % 3)),
        empty=(pa.list_(pa.float32()), list),
        content=(pa.list_(pa.float32()), lambda: [float(NUMBERS.normal()), 1.0]),
        strange=(pa.list_(pa.float32()), lambda: [float("inf"), 1.0]),
    )
    assert "lists of 1 to 3 numbers" in made.left_out["candidates.ragged"]
    assert "lists of 0 to 0 numbers" in made.left_out["candidates.empty"]
    assert "infinite" in made.left_out["candidates.strange"]
    assert Feature(name="content", kind="float_list", length=2) in made.features["candidate"]


def test_groups_share_a_table_only_for_the_same_ids(tmp_path: Path) -> None:
    """Regions of users and of candidates are different ids. Videos of history entries and candidates are the same."""
    made = with_columns(
        tmp_path,
        region=(pa.int16(), lambda: int(NUMBERS.integers(9))),
        user_id=(pa.int64(), lambda: int(NUMBERS.integers(9))),
    )
    tables = {(group, f.name): f.table for group, features in made.features.items() for f in features}
    assert tables["user", "region"] != tables["candidate", "region"]
    assert tables["user", "user_id"] != tables["candidate", "user_id"]
    assert tables["history", "video_id"] == tables["candidate", "video_id"]


def test_tables_include_the_ids_of_answers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = make_rows(rng, 30)
    late = make_answers(rng, make_rows(rng, 1, first_id=99))
    late[0]["user"]["region"] = 7
    requests = write_dataset(tmp_path / "requests", rows)
    answers = write_dataset(tmp_path / "answers", late, schema=arrow_schema(answers=True))
    alone, both = drafted(requests), drafted(requests, answers)
    assert (alone.tables["region"].rows, both.tables["region"].rows) == (5, 8)
    assert (alone.ids["region"], both.ids["region"]) == (5, 6)


def test_tables_have_room_for_more_ids() -> None:
    assert [table_rows(ids) for ids in (0, 1, 12, 13, 100, 102, 103, 819, 820)] == [
        16,
        16,
        16,
        32,
        128,
        128,
        256,
        1024,
        2048,
    ]
    for ids in range(1, 5_000, 7):
        rows = table_rows(ids)
        assert rows >= 16 and rows & (rows - 1) == 0 and rows > ids
        assert rows >= 1.25 * ids or rows == 16


def test_problems_that_prevent_training_are_listed(tmp_path: Path) -> None:
    base = arrow_schema()
    entry = [field for field in base.field("history").type.value_type if field.name != "watch_ratio"]
    schema = base.set(base.get_field_index("history"), pa.field("history", pa.list_(pa.struct(entry))))
    schema = schema.set(schema.get_field_index("request_id"), pa.field("request_id", pa.string()))
    keep = [field for field in candidate_fields() if field.name in ("note", "quality")]
    schema = schema.set(schema.get_field_index("candidates"), pa.field("candidates", pa.list_(pa.struct(keep))))
    made = drafted(write_file(tmp_path / "a.parquet", schema.empty_table()).parent)
    assert made.schema is None
    text = "\n".join(made.problems)
    for message in (
        "request_id is of type string: the reader needs it as integer",
        "history.watch_ratio is missing: the reader needs it as float or integer or boolean",
        "no user feature",
        "no history feature",
        "no candidate id",
        "no outcome",
    ):
        assert message in text


def test_required_columns_with_nulls_are_named(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(0), 20)
    rows[3]["user_id"] = None
    made = drafted(write_file(tmp_path / "a.parquet", to_table(rows)).parent)
    assert "user_id: 1 null: the reader refuses those rows" in made.problems
