"""Floats, lists of floats and weighted ids, from raw tables to a training run with the drafted schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from easq_rec.config.schema import Feature
from tests.conftest import Warm
from tests.docs.pages import run_command
from tests.tools.builder import logs
from tests.tools.inspect.queries import drafted

WEIGHTED = pa.list_(pa.struct([("weight", pa.float64()), ("id", pa.int32())]))
LENGTH = 3
FEATURES: dict[str, dict[str, Any]] = {
    "users": {
        "age": {"column": "age", "type": "float"},
        "taste": {"column": "taste", "type": "floats", "length": LENGTH},
        "interests": {"column": "interests", "type": "weighted_ids"},
    },
    "videos": {
        "content": {"column": "content", "type": "floats", "length": LENGTH, "default": 0.25},
        "topics": {"column": "topics", "type": "weighted_ids"},
    },
}
TYPES = {
    "users": {"age": pa.int16(), "taste": pa.list_(pa.float64(), LENGTH), "interests": WEIGHTED},
    "videos": {"content": pa.list_(pa.float32()), "topics": WEIGHTED},
}


def config() -> dict[str, Any]:
    videos = {"features": FEATURES["videos"], "history": ["author_id", "content", "quality"], "missing": "default"}
    impressions = {"columns": {"duration": "length"}}
    return logs.config(users={"features": FEATURES["users"]}, videos=videos, impressions=impressions)


def write(folder: Path, *, csv: bool = False) -> dict[tuple[str, int], logs.Row]:
    """Writes a log with the features. Video 13 is in no table. Returns the rows of users and videos by (table, key)."""
    rng = np.random.default_rng(0)
    log = logs.random_log(0, bad=False)
    log["users"] = [{"uid": user, "since": 0, "region": 1, "likes": [1, 2]} for user in range(6)]
    log["videos"] = [
        {"vid": v, "since": 0, "maker": v % 3, "length": 9_000, "score": v / 8, "tags": [v]} for v in range(13)
    ]
    for row in log["impressions"]:
        row["length"] = 9_000
    for row in log["users"]:
        row |= {"age": 20 + row["uid"], "taste": rng.integers(-8, 8, LENGTH).tolist(), "interests": pairs(rng)}
    for row in log["videos"]:
        row |= {"content": rng.integers(-8, 8, LENGTH).tolist(), "topics": pairs(rng)}
    log["videos"][1] |= {"content": None, "topics": None}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in log.items():
        schema = logs.SCHEMAS[name]
        fields = {field.name: field.type for field in schema} | TYPES.get(name, {})
        if name == "impressions":
            fields["length"] = pa.int64()
        if csv and name == "videos":
            lines = [",".join(fields), *(",".join(cell(row[column]) for column in fields) for row in rows)]
            (folder / "videos.csv").write_text("\n".join(lines))
        else:
            pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), folder / f"{name}.parquet")
    return {("users", r["uid"]): r for r in log["users"]} | {("videos", r["vid"]): r for r in log["videos"]}


def pairs(rng: np.random.Generator) -> list[dict[str, Any]]:
    return [{"id": int(rng.integers(9)), "weight": float(rng.integers(5)) / 4} for _ in range(rng.integers(1, 4))]


def cell(value: Any) -> str:
    items = value if isinstance(value, list) else [] if value is None else [value]
    return "|".join(f"{i['id']}:{i['weight']}" if isinstance(i, dict) else str(i) for i in items)


@pytest.mark.parametrize("csv", [False, True])
def test_features_of_every_kind_equal_the_raw_tables(tmp_path: Path, csv: bool) -> None:
    raw = write(tmp_path, csv=csv)
    values = config()
    values["videos"]["path"] = "videos.csv" if csv else "videos.parquet"
    rows = logs.read_rows(logs.run_build(tmp_path, values) / "requests")
    assert len(rows) > 20
    unknown = 0
    for row in rows:
        user = raw["users", row["user_id"]]
        for name in ("age", "taste", "interests"):
            assert row["user"][name] == user[name]
        for entry in [*row["candidates"], *row["history"]]:
            video = raw.get(("videos", entry["video_id"]), {"content": None, "topics": None, "score": 0.0})
            unknown += video["content"] is None
            assert entry["content"] == (video["content"] or [0.25] * LENGTH)
            assert entry["quality"] == video["score"]
        for candidate in row["candidates"]:
            assert candidate["topics"] == (raw.get(("videos", candidate["video_id"]), {}).get("topics") or [])
    assert unknown > 5


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("taste", None, "taste is null"),
        ("taste", [1.0, 2.0], "taste does not hold 3 numbers"),
        ("taste", [1.0, 2.0, float("nan")], "taste holds what is not a finite number"),
        ("taste", [1.0, 2.0, None], "taste holds what is not a finite number"),
        ("age", None, "age is null"),
        ("interests", [{"id": None, "weight": 1.0}], "interests holds an id that is not an integer"),
        ("interests", [{"id": 1, "weight": None}], "interests holds a weight that is not a number of 0 or more"),
        ("interests", [{"id": 1, "weight": -1.0}], "interests holds a weight that is not a number of 0 or more"),
        (
            "interests",
            [{"id": 1, "weight": float("inf")}],
            "interests holds a weight that is not a number of 0 or more",
        ),
    ],
)
def test_bad_values_of_raw_tables_are_quarantined(tmp_path: Path, column: str, value: Any, reason: str) -> None:
    write(tmp_path)
    file = tmp_path / "users.parquet"
    table = pq.read_table(file)
    fields = [pa.field(f.name, pa.list_(pa.float64())) if f.name == "taste" else f for f in table.schema]
    rows = table.to_pylist()
    rows[2][column] = value
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), file)
    assert ("users", reason) in logs.quarantined(logs.run_build(tmp_path, config()))


def test_invalid_columns_and_configs_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    for name, spec, message in (
        ("taste", {"column": "interests", "type": "floats", "length": 3}, "expected a list of numbers, or text"),
        ("interests", {"column": "taste", "type": "weighted_ids"}, "expected a list of structs of id and weight, or"),
    ):
        values = config()
        values["users"]["features"] = {name: spec}
        with pytest.raises(ValueError, match=message):
            logs.run_build(tmp_path, values)
    for spec, message in (
        ({"column": "taste", "type": "floats"}, "taste: length=None is not allowed: the numbers in each list"),
        ({"column": "age", "type": "float", "length": 2}, "age: length=2 is not allowed: none for type 'float'"),
    ):
        values = config()
        values["users"]["features"] = {"feature": spec}
        with pytest.raises(ValueError, match=message):
            logs.build_of(values)


@pytest.mark.integration
def test_training_runs_with_the_drafted_schema(tmp_path: Path, warm: Warm) -> None:
    write(tmp_path)
    out = logs.run_build(tmp_path, config())
    made = drafted(out / "requests", out / "answers")
    assert made.schema is not None and not made.problems
    found = {(group, f.name): f for group, features in made.features.items() for f in features}
    assert found["user", "age"] == Feature(name="age", kind="float")
    assert found["user", "taste"] == Feature(name="taste", kind="float_list", length=LENGTH)
    assert found["history", "content"] == found["candidate", "content"]
    assert found["candidate", "content"] == Feature(name="content", kind="float_list", length=LENGTH)
    assert found["history", "quality"].kind == "float"
    for key, table in ((("user", "interests"), "interests"), (("candidate", "topics"), "topics")):
        assert found[key] == Feature(name=key[1], kind="weighted_id_list", table=table, pooling="mean")
    (tmp_path / "schema.toml").write_text(made.toml())
    run_command(
        "easq-rec train easq --schema schema.toml --data out --run-dir run --trainer.batch-size 8 "
        "--trainer.max-steps 4 --trainer.device cpu",
        tmp_path,
        warm,
    )
    run_command("easq-rec data inspect out --out inspect --schema schema.toml", tmp_path, warm)
