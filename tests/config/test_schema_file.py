"""Feature schemas in TOML: round trip, and one message that lists all problems."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from easq_rec.config import command_line as arguments
from easq_rec.config.recipes import BASES, easq, recipe, world_schema
from easq_rec.config.schema import Count, Feature, FeatureSchema, NumberRange, Outcome, Table
from easq_rec.config.schema_file import load_schema, parse_schema, schema_to_toml
from easq_rec.config.serialization import from_dict, to_dict
from easq_rec.errors import UserError
from easq_rec.run_directory import config_file
from tests.data.builders import SCHEMA

GOOD = """
[[tables]]
name = "user"
rows = 8
dim = 4

[[tables]]
name = "video"
rows = 9
dim = 8
id_space = "dense"

[[user]]
name = "user_id"
table = "user"

[[history]]
name = "video_id"
table = "video"

[[candidate]]
name = "video_id"
table = "video"

[[candidate]]
name = "length"
kind = "float"
source = "duration_ms"
transform = "log1p"

[[outcomes]]
name = "like"
weight = 1
"""


COUNTED = """
[[candidate]]
name = "popularity"
kind = "count"
source = "likes"
smoothing = 5

[[counts]]
name = "likes"
outcome = "like"
keys = ["video_id", "user.region"]
half_life_h = 24

[[counts]]
name = "all-likes_7d"
outcome = "like"

[[counts]]
name = "by_length"
outcome = "like"
keys = ["length_range"]
bucket_minutes = 30
frozen = true

[[count_ranges]]
name = "length_range"
column = "duration_ms"
edges = [10, 20.5]
"""


def problems(text: str) -> list[str]:
    """The lines of the error message for a schema text, without the first line."""
    with pytest.raises(ValueError) as caught:
        parse_schema(text, "schema.toml")
    first, *lines = str(caught.value).split("\n")
    assert first == "schema.toml is not a feature schema:"
    assert all(line.startswith("  ") for line in lines)
    return [line.strip() for line in lines]


# ---------------------------------------------------------------------------------------------------------------------
# Reading and writing


def test_a_schema_is_read_from_a_file() -> None:
    assert parse_schema(GOOD, "schema.toml") == FeatureSchema(
        tables=(Table(name="user", rows=8, dim=4), Table(name="video", rows=9, dim=8, id_space="dense")),
        user=(Feature(name="user_id", table="user"),),
        history=(Feature(name="video_id", table="video"),),
        candidate=(
            Feature(name="video_id", table="video"),
            Feature(name="length", kind="float", source="duration_ms", transform="log1p"),
        ),
        outcomes=(Outcome(name="like", weight=1.0),),
    )


def test_top_level_keys_round_trip() -> None:
    schema = parse_schema(f'trigger = "like"\nsatisfaction_dim = 0\n{GOOD}', "schema.toml")
    assert (schema.trigger, schema.satisfaction_dim) == ("like", 0)
    assert parse_schema(schema_to_toml(schema), "") == schema


def test_counts_round_trip() -> None:
    schema = parse_schema(f"count_bucket_minutes = 15\n{GOOD}{COUNTED}", "schema.toml")
    assert schema.count_bucket_minutes == 15
    assert schema.candidate[-1] == Feature(name="popularity", kind="count", source="likes", smoothing=5.0)
    assert schema.counts == (
        Count(name="likes", outcome="like", keys=("video_id", "user.region"), half_life_h=24.0),
        Count(name="all-likes_7d", outcome="like"),
        Count(name="by_length", outcome="like", keys=("length_range",), bucket_minutes=30, frozen=True),
    )
    assert schema.count_ranges == (NumberRange(name="length_range", column="duration_ms", edges=(10.0, 20.5)),)
    assert parse_schema(schema_to_toml(schema), "") == schema
    assert from_dict(FeatureSchema, json.loads(json.dumps(to_dict(schema)))) == schema


def test_counts_of_answers_round_trip() -> None:
    """An outcome that has the name `answer` is another count."""
    text = (
        COUNTED
        + """
[[counts]]
name = "satisfied"
of = "answer"
keys = ["video_id"]

[[counts]]
name = "answered"
outcome = "answer"

[[satisfaction]]
name = "satisfied"
kind = "count"
smoothing = 3
"""
    )
    schema = parse_schema(f"count_bucket_minutes = 15\n{GOOD}{text}", "schema.toml")
    assert schema.counts[3:] == (
        Count(name="satisfied", of="answer", keys=("video_id",)),
        Count(name="answered", outcome="answer"),
    )
    assert schema.satisfaction == (Feature(name="satisfied", kind="count", smoothing=3.0),)
    assert schema.count_features == (schema.candidate[-1], *schema.satisfaction)
    assert parse_schema(schema_to_toml(schema), "") == schema
    assert from_dict(FeatureSchema, json.loads(json.dumps(to_dict(schema)))) == schema


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ('[[satisfaction]]\nname = "length"\nkind = "count"', "schema.satisfaction=['length'] is not allowed: unique"),
        ('[[satisfaction]]\nname = "x"\nkind = "float"', "schema.satisfaction=['x'] is not allowed: features of kind"),
        ('[[satisfaction]]\nname = "x"\ntable = "videos"', "[[satisfaction]] #1: table: 'videos' is not a table"),
        ('[[count_ranges]]\nname = "x"\ncolumn = "y"\nedges = [1]\n[[satisfaction]]\nname = "x"\nkind = "count"',
         "schema.count_ranges=['x'] is not allowed: names that no column"),
    ],
)  # fmt: skip
def test_a_fault_of_the_satisfaction_features_is_named(change: str, expected: str) -> None:
    assert any(line.startswith(expected) for line in problems(f"{GOOD}{change}\n"))


@pytest.mark.parametrize(
    "schema", [*(base().schema for base in BASES.values()), recipe("kuairand_counts_answer_counts").schema, SCHEMA]
)
def test_a_written_schema_loads_to_an_equal_schema(schema: FeatureSchema, tmp_path: Path) -> None:
    file = tmp_path / "schema.toml"
    file.write_text(schema_to_toml(schema), encoding="utf-8")
    assert load_schema(file) == schema


@pytest.mark.parametrize(
    "name", ['"quoted"', "back\\slash", "line\nbreak\t", "\x00\x1f\x7f", "größe", "影片 🎬", "#", ""]
)
@pytest.mark.parametrize("weight", [1e-300, -0.1, 1e22, 3.0])
def test_unusual_names_and_numbers_round_trip(name: str, weight: float) -> None:
    schema = dataclasses.replace(
        parse_schema(GOOD, ""), outcomes=(Outcome(name=name, weight=weight),), item=name or "video_id"
    )
    text = schema_to_toml(schema, header=f"a header\nof two lines: {name!r}", notes={("outcomes", name): "a\nnote"})
    assert "# a header\n# of two lines" in text
    assert "# a\n# note\n[[outcomes]]" in text
    assert parse_schema(text, "") == schema


def test_integer_weights_become_floats() -> None:
    """1 and 1.0 are equal in Python but differ in the text of config.json, with which a resumed run is compared."""
    (outcome,) = to_dict(parse_schema(GOOD, ""))["outcomes"]
    assert json.dumps(outcome["weight"]) == "1.0"


# ---------------------------------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("rows = 9", "row = 9", "[[tables]] #2: row: unknown key: did you mean 'rows'?"),
        ("rows = 9", "row = 9", "[[tables]] #2: rows: missing: add rows = (a whole number)"),
        ("rows = 9", 'rows = "9"', "[[tables]] #2: rows: is '9', expected a whole number"),
        ("rows = 9", "rows = true", "[[tables]] #2: rows: is True, expected a whole number"),
        ("rows = 9", "rows = 9.0", "[[tables]] #2: rows: is 9.0, expected a whole number"),
        ("rows = 9", "rows = 0", "[[tables]] #2: table video: rows=0 is not allowed: at least 1"),
        ('"dense"', '"tight"', "[[tables]] #2: id_space: is 'tight', expected one of \"hashed\", \"dense\""),
        ("weight = 1", 'weight = "1"', "[[outcomes]] #1: weight: is '1', expected a number"),
        ('name = "like"', "", '[[outcomes]] #1: name: missing: add name = "..."'),
        ('"float"', '"text"', '[[candidate]] #2: kind: is \'text\', expected one of "id", "id_list"'),
        ('kind = "float"', "", "[[candidate]] #2: feature length: table=None is not allowed: a table"),
        ('name = "length"', 'name = "video_id"', "[[candidate]] #2: name: 'video_id' is already that of #1: choose"),
        ('table = "user"', 'table = "usr"', "[[user]] #1: table: 'usr' is not a table of this file: did you mean"),
        ('table = "user"', 'table = "x"', "[[user]] #1: table: 'x' is not a table of this file: known: user, video"),
        ("[[outcomes]]", "[outcomes]", "outcomes: is {'name': 'like', 'weight': 1}, expected tables"),
        ("[[outcomes]]", "[[outcome]]", "outcome: unknown key: did you mean 'outcomes'?"),
        ("[[outcomes]]", "[[outcome]]", "[[outcomes]]: missing: add at least one"),
        ("\n[[tables]]", "item = 3\n[[tables]]", "item: is 3, expected text in quotes"),
        ("\n[[tables]]", "satisfaction_dim = 8.0\n[[tables]]", "satisfaction_dim: is 8.0, expected a whole number"),
        ('name = "user"', 'name = "video"', "[[tables]] #2: name: 'video' is already that of #1: choose another"),
        ('name = "likes"', 'name = "a/b"', "[[counts]] #1: count: name='a/b' is not allowed: letters, digits, _ and -"),
        ('name = "likes"', 'name = "video_id"', "schema.counts=['video_id'] is not allowed: names that no"),
        ('name = "likes"', 'name = "like"', "schema.counts=['like'] is not allowed: names that no other column"),
        ('name = "all-likes_7d"', 'name = "likes"', "[[counts]] #2: name: 'likes' is already that of #1: choose"),
        ('outcome = "like"', "", "[[counts]] #1: count likes: outcome=None is not allowed: the column of an outcome"),
        ('outcome = "like"', 'of = "like"', "[[counts]] #1: of: is 'like', expected"),
        ('outcome = "like"', 'outcome = "like"\nof = "answer"', "[[counts]] #1: count likes: outcome='like' is not"),
        ('outcome = "like"', 'of = "answer"', "schema.candidate: counts=['popularity'] is not allowed: no counts of"),
        ("half_life_h = 24", "half_life_h = 0", "[[counts]] #1: count likes: half_life_h=0.0 is not allowed: more"),
        ('"user.region"]', '"video_id"]', "[[counts]] #1: count likes: keys=('video_id', 'video_id') is not allow"),
        ('keys = ["video_id", "user.region"]', 'keys = "video_id"', "[[counts]] #1: keys: is 'video_id', expected a"),
        ("smoothing = 5", "smoothing = 0", "[[candidate]] #3: feature popularity: smoothing=0.0 is not allowed: more"),
        ("bucket_minutes = 30", "bucket_minutes = 0", "[[counts]] #3: count by_length: bucket_minutes=0 is not"),
        ("bucket_minutes = 30", "bucket_minutes = 40", "schema.counts.by_length: bucket_minutes=40 is not allowed: a"),
        ("edges = [10, 20.5]", "edges = [10, 10]", "[[count_ranges]] #1: count_ranges length_range: edges=(10.0, "),
        ("edges = [10, 20.5]", "edges = []", "[[count_ranges]] #1: count_ranges length_range: edges=() is not allowed"),
        ('name = "length_range"', 'name = "user.x"', "[[count_ranges]] #1: count_ranges user.x: name='user.x' is not"),
        ('name = "length_range"', 'name = "video_id"', "schema.count_ranges=['video_id'] is not allowed: names that"),
        ('"length_range"\ncol', '"shown"\ncol', "[[count_ranges]] #1: count_ranges shown: name='shown' is not allowed"),
        ("\n[[tables]]", "count_bucket_minutes = 0\n[[tables]]", "schema.count_bucket_minutes=0 is not allowed: at"),
    ],
)  # fmt: skip
def test_a_problem_is_named_with_place_and_remedy(old: str, new: str, expected: str) -> None:
    text = GOOD + COUNTED
    assert old in text
    assert any(line.startswith(expected) for line in problems(text.replace(old, new, 1)))


def test_all_problems_are_in_one_message() -> None:
    text = GOOD.replace("rows = 8", "rows = -1").replace("dim = 8", "").replace('table = "user"', 'table = "nobody"')
    found = problems(text.replace("weight = 1", "wait = 1"))
    assert [line.split(": ")[:2] for line in found] == [
        ["[[tables]] #1", "table user"],
        ["[[tables]] #2", "dim"],
        ["[[outcomes]] #1", "wait"],
        ["[[outcomes]] #1", "weight"],
        ["[[user]] #1", "table"],
    ]


def test_contradictions_between_the_parts_are_all_listed() -> None:
    twice = '[[candidate]]\nname = "lengths"\nkind = "float_list"\nlength = 2\nsource = "duration_ms"\n\n[[outcomes]]'
    text = GOOD.replace("[[outcomes]]", twice, 1)
    text = text.replace('[[history]]\nname = "video_id"\ntable = "video"', '[[history]]\nname = "a"\ntable = "user"')
    found = problems(text)
    assert any("length, which reads the same column duration_ms" in line for line in found)
    assert any("already serves the user features" in line for line in found)


def test_missing_and_invalid_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "schema.toml"
    with pytest.raises(ValueError, match=r"schema.toml: cannot be read: .*No such file"):
        load_schema(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"schema.toml: cannot be read"):
        load_schema(file)
    file.write_text("[[tables]\n")
    with pytest.raises(ValueError, match=r"schema.toml: invalid TOML: .*line 1"):
        load_schema(file)
    file.write_text("")
    with pytest.raises(ValueError, match=r"(?s)not a feature schema.*tables.*user.*history.*candidate.*outcomes"):
        load_schema(file)


# ---------------------------------------------------------------------------------------------------------------------
# On the command line


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize("form", ["before", "after", "equals"])
def test_the_file_replaces_the_schema_of_the_recipe(file: Path, form: str) -> None:
    schema, rest = ["--schema", str(file)], ["--data", "/logs"]
    argv = {"before": schema + rest, "after": rest + schema, "equals": [f"--schema={file}", *rest]}[form]
    config = arguments.parse_config(["easq", *argv], prog="train")
    own = easq()
    assert config == dataclasses.replace(
        own, schema=parse_schema(GOOD, ""), schema_file=str(file), data=dataclasses.replace(own.data, path="/logs")
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--schema"], "--schema: needs a TOML file"),
        (["--schema", "--data", "x"], "--schema: needs a TOML file"),
        (["--schema="], "--schema: needs a TOML file"),
        (["--schema", "a", "--schema", "b"], "--schema: given more than once"),
        (["--schema", "nowhere.toml"], "--schema nowhere.toml: cannot be read"),
    ],
)
def test_an_invalid_schema_option_is_a_usage_error(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        arguments.parse_config(["easq", *argv], prog="train")


def test_help_lists_the_schema_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments.parse_config(["easq", "--help"], prog="train")
    assert "--schema FILE.toml" in " ".join(capsys.readouterr().out.split())


def test_a_run_with_a_schema_file_resumes_without_the_file(file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    argv = ["easq", "--run-dir", str(run)]
    begun = arguments.parse_config([*argv, "--schema", str(file)], prog="train")
    (run / "config.json").write_text(json.dumps(to_dict(begun)))
    file.unlink()
    assert arguments.parse_config(argv, prog="train") == begun
    assert arguments.parse_config([str(run / "config.json"), "--run-dir", str(run)], prog="train") == begun
    assert config_file.load_config(run) == begun
    (run / "checkpoints").rmdir()
    assert arguments.parse_config(argv, prog="train").schema == easq().schema, "there is no run to resume"


def test_an_invalid_config_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for text in ("{", "[]", '{"schema_file": "a.toml"}', '{"schema_file": "a.toml", "schema": {}}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"config.json is not the config.json of a run"):
            arguments.parse_config(["easq", "--run-dir", str(tmp_path)], prog="train")


def test_a_run_without_a_schema_file_uses_the_schema_of_the_recipe(tmp_path: Path) -> None:
    """The stored schema must not silently replace it: a recipe whose schema has changed is refused later."""
    (tmp_path / "checkpoints").mkdir()
    old = dataclasses.replace(easq(), run_dir=str(tmp_path), schema=world_schema(users=5, videos=8, dim=4))
    (tmp_path / "config.json").write_text(json.dumps(to_dict(old)))
    config = arguments.parse_config(["easq", "--run-dir", str(tmp_path)], prog="train")
    assert config.schema == easq().schema


def test_differences_between_schemas_are_named_by_entry() -> None:
    one = to_dict(parse_schema(GOOD, ""))
    other = to_dict(parse_schema(GOOD.replace("rows = 9", "rows = 10").replace('"length"', '"size"'), ""))
    assert config_file._differences(json.loads(json.dumps(one)), json.loads(json.dumps(other)), "schema") == [
        "schema.candidate is video_id, length there, video_id, size here",
        "schema.tables.video.rows is 9 there, 10 here",
    ]
    swapped = {**one, "candidate": one["candidate"][::-1]}
    differences = config_file._differences(json.loads(json.dumps(one)), json.loads(json.dumps(swapped)), "schema")
    assert differences == ["schema.candidate is video_id, length there, length, video_id here"]
