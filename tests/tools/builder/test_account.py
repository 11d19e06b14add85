"""Every input row is kept, or quarantined with a reason. Formats, units and types of the raw tables."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tools.builder.logs import (
    START_MS,
    Log,
    config,
    quarantined,
    random_log,
    read_rows,
    run_build,
    sessions,
    write_csv,
    write_log,
)


def counts(out: Path) -> dict[str, int]:
    return dict(json.loads((out / "build.json").read_text())["counts"])


def small_log(impressions: int = 3) -> Log:
    """One user, two videos, and a request with one impression per minute."""
    row = {"asked": 1, "liked": True, "rate": 0.5, "watched": 8_000.0}
    return {
        "impressions": [
            {"uid": 1, "vid": 1 + n % 2, "at": START_MS + 60_000 * n, "rid": n, "slot": n, **row}
            for n in range(impressions)
        ],
        "answers": [{"uid": 1, "vid": 1, "at": START_MS + 10_000, "said": "good", "rid": 0}],
        "users": [{"uid": 1, "since": START_MS, "region": 3, "likes": [1, 2]}],
        "videos": [
            {"vid": v, "since": START_MS, "maker": v, "length": 20_000, "tags": [v], "score": 0.25} for v in (1, 2)
        ],
    }


def test_every_row_is_counted(tmp_path: Path) -> None:
    log = random_log(0)
    write_log(tmp_path, log)
    for divided in (False, True):
        out = run_build(tmp_path, config(), divided=divided, out=f"out{divided}")
        found, lost = counts(out), Counter(table for table, _ in quarantined(out))
        for table, rows in log.items():
            assert found[f"{table}.read"] == len(rows)
            assert found[f"{table}.kept"] + lost[table] == len(rows)
        kept = sum(len(row["candidates"]) for row in read_rows(out / "requests"))
        assert found["impressions.kept"] == kept
        answered = [entry["answer"] for row in read_rows(out / "answers") for entry in row["candidates"]]
        assert found["answers.kept"] == len(answered) - answered.count(None)


def test_stages_of_the_questionnaire_are_counted(tmp_path: Path) -> None:
    log = small_log(4)
    log["impressions"][1]["watched"] = 7_000.0  # does not trigger: neither above 7 s nor above half of 20 s
    log["impressions"][2] |= {"watched": 7_001.0, "asked": 0}
    log["answers"] += [
        {"uid": 1, "vid": 1 + n % 2, "at": START_MS + 9 * 10**5, "said": "bad", "rid": n} for n in (1, 2)
    ]
    write_log(tmp_path, log)
    out = run_build(tmp_path, config(impressions={"columns": {"shown": "asked"}}))
    found = counts(out)
    assert (found["impressions.triggered"], found["impressions.shown"], found["answers.kept"]) == (3, 3, 3)
    assert (found["answers.untriggered"], found["answers.not_shown"]) == (1, 1)
    summary = json.loads((out / "build.json").read_text())["summary"]
    assert "triggered 3 (75.000% of the impressions), shown 3 (100.000% of the triggered)" in summary
    assert "answered 3 (100.000% of the shown)" in summary
    out = run_build(tmp_path, config(questionnaire={"exposure": 0.5, "trigger_watch_s": 1.0}), out="other")
    assert "shown about 2 (not in the log; declared exposure 50.00%)" in (out / "build.json").read_text()


def test_unknown_users_and_videos_may_have_defaults(tmp_path: Path) -> None:
    log = small_log()
    log["impressions"] += [
        {**log["impressions"][0], "uid": 2, "rid": 7},
        {**log["impressions"][0], "vid": 3, "slot": 20_000},
    ]
    write_log(tmp_path, log)
    features = {"region": {"column": "region", "default": 8.0}}
    values = config(
        users={"missing": "default", "features": features},
        videos={
            "missing": "default",
            "columns": {"duration": None},
            "features": {"author_id": {"column": "maker", "default": 5.0}},
        },
        impressions={"columns": {"duration": "slot"}},
    )
    log["impressions"] = [{**row, "slot": 20_000} for row in log["impressions"]]
    write_log(tmp_path, log)
    out = run_build(tmp_path, values)
    rows = {(row["request_id"], row["user_id"]): row for row in read_rows(out / "requests")}
    assert rows[7, 2]["user"] == {"region": 8, "likes": []}
    (unknown,) = [entry for entry in rows[0, 1]["candidates"] if entry["video_id"] == 3]
    assert (unknown["author_id"], unknown["tags"], unknown["quality"]) == (5, [], 0.0)
    assert quarantined(out) == []
    assert (counts(out)["impressions.unknown_users"], counts(out)["impressions.unknown_videos"]) == (1, 1)


def test_csv_and_parquet_give_the_same_datasets(tmp_path: Path) -> None:
    log = random_log(1)
    log["impressions"] = [row for row in log["impressions"] if row["watched"] == row["watched"]]  # CSV has no NaN
    for folder in ("a", "b"):
        write_log(tmp_path / folder, log)
    for name in log:
        write_csv(tmp_path / "b", name, log[name])
    paths = {name: {"path": f"{name}.csv"} for name in log}
    a, b = run_build(tmp_path / "a", config()), run_build(tmp_path / "b", config(**paths))
    assert read_rows(a / "requests") == read_rows(b / "requests")
    assert read_rows(a / "answers") == read_rows(b / "answers")
    assert quarantined(a) == quarantined(b)


def test_bad_cells_of_csv_are_quarantined(tmp_path: Path) -> None:
    log = small_log()
    write_log(tmp_path, log)
    lines = ["uid,vid,at,watched,rid,asked,liked,rate,slot", f"1,1,{START_MS},8000,0,1,1,0.5,0"]
    no_id = "uid is not an integer of 64 bits with a sign: ids.user = 'text' reads any text"
    bad = {
        f"x,1,{START_MS},8000,1,1,1,0.5,0": no_id,
        f"1.5,1,{START_MS},8000,1,1,1,0.5,0": no_id,
        f",1,{START_MS},8000,1,1,1,0.5,0": "uid is null",
        "1,1,soon,8000,1,1,1,0.5,0": "at is not a point in time",
        "1,1,1700000000000000,8000,1,1,1,0.5,0": "at is not between 0 and 2**42 ms: is impressions.time_unit right?",
        f"1,1,{START_MS},long,1,1,1,0.5,0": "watched is not a number",
        f"1,1,{START_MS},nan,1,1,1,0.5,0": "watched is not a number",
        f"1,1,{START_MS},-1,1,1,1,0.5,0": "watched is negative",
        f"1,1,{START_MS},1e12,1,1,1,0.5,0": "watched is more than 2**31 - 1 ms",
        f"1,1,{START_MS},8000,1,1,2,0.5,0": "liked is not 0 or 1",
        f"1,1,{START_MS},8000,1,1,1,inf,0": "rate is not a finite number",
        f"1,1,{START_MS},8000,1,1,1,0.5,": "slot is null",
        f"1,1,{START_MS}": "is not a row of the CSV file",
        f"1,1,{START_MS},8000,1,1,1,0.5,0,7,7": "is not a row of the CSV file",
    }
    (tmp_path / "impressions.csv").write_text("\n".join([*lines, *bad]) + "\n")
    for divided in (False, True):
        values = config(impressions={"path": "impressions.csv"})
        out = run_build(tmp_path, values, divided=divided, out=f"out{divided}")
        assert quarantined(out) == sorted(("impressions", reason) for reason in bad.values())
        assert counts(out)["impressions.read"] == 1 + len(bad)
        assert len(read_rows(out / "requests")) == 1


def test_nan_in_parquet_is_quarantined(tmp_path: Path) -> None:
    """NaN is found although the statistics of a Parquet file ignore it."""
    log = small_log()
    log["impressions"][0]["rate"] = log["impressions"][1]["watched"] = log["videos"][1]["score"] = float("nan")
    write_log(tmp_path, log)
    found = quarantined(run_build(tmp_path, config()))
    assert ("impressions", "rate is not a finite number") in found
    assert ("impressions", "watched is not a number") in found
    assert ("videos", "score is not a finite number") in found


def test_out_of_range_numbers_are_quarantined(tmp_path: Path) -> None:
    """Values in seconds that overflow when they are converted to milliseconds are bad rows, not errors."""
    log = small_log()
    write_log(tmp_path, log)
    table = pa.Table.from_pylist(log["impressions"])
    times = pa.array([2**63 - 1, -(2**63), START_MS // 1_000])
    watched = pa.array([1, 1, 2**63 - 1])
    table = table.set_column(2, "at", times).set_column(table.column_names.index("watched"), "watched", watched)
    pq.write_table(table, tmp_path / "impressions.parquet")
    found = quarantined(run_build(tmp_path, config(impressions={"time_unit": "s", "watch_unit": "s"}, answers=None)))
    assert found == [
        ("impressions", "at is not a point in time"),
        ("impressions", "at is not a point in time"),
        ("impressions", "watched is more than 2**31 - 1 ms"),
    ]


def in_unit(log: Log, unit: str) -> dict[str, pa.Table]:
    tables = {name: pa.Table.from_pylist(rows) for name, rows in log.items()}
    for name, table in tables.items():
        for column in ("at", "since"):
            if column in table.column_names:
                ms = table[column].to_numpy()
                values: Any = {
                    "s": pa.array(ms / 1_000),
                    "us": pa.array(ms * 1_000 + 999),
                    "timestamp": pa.array(ms * 1_000, pa.timestamp("us", "UTC")),
                }[unit]
                table = table.set_column(table.column_names.index(column), column, values)
        tables[name] = table
    return tables


@pytest.mark.parametrize("unit", ["s", "us", "timestamp"])
def test_all_time_units_give_the_same_datasets(tmp_path: Path, unit: str) -> None:
    log = random_log(2, bad=False)
    write_log(tmp_path / "ms", log)
    (tmp_path / unit).mkdir()
    tables = in_unit(log, unit)
    scale = {"s": 1_000, "us": 1 / 1_000, "timestamp": 1}[unit]
    lengths = "s" if unit == "s" else "us" if unit == "us" else "ms"
    for name, column in (("impressions", "watched"), ("videos", "length")):
        table = tables[name]
        values = pa.array(table[column].to_numpy() / scale)
        tables[name] = table.set_column(table.column_names.index(column), column, values)
    for name, table in tables.items():
        pq.write_table(table, tmp_path / unit / f"{name}.parquet")
    changes = {name: {"time_unit": unit} for name in log}
    changes["impressions"]["watch_unit"] = changes["videos"]["duration_unit"] = lengths
    a, b = run_build(tmp_path / "ms", config()), run_build(tmp_path / unit, config(**changes))
    assert read_rows(a / "requests") == read_rows(b / "requests")
    assert read_rows(a / "answers") == read_rows(b / "answers")


def test_directories_globs_and_hive_partitions_are_read(tmp_path: Path) -> None:
    log = random_log(3, bad=False)
    write_log(tmp_path, log)
    expected = read_rows(run_build(tmp_path, config()) / "requests")
    table = pq.read_table(tmp_path / "impressions.parquet")
    hive = tmp_path / "hive"
    for number, begin in enumerate(range(0, len(table), 25)):
        piece = table.slice(begin, 25)
        for place in (tmp_path / "plain" / f"{number}.parquet", hive / f"liked={number}" / "a.parquet"):
            place.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(piece, place)
    (tmp_path / "plain" / "_temporary").mkdir()
    (tmp_path / "plain" / "_temporary" / "x.parquet").write_text("not yet")
    for number, path in enumerate(["plain", "plain/*.parquet"]):
        out = run_build(tmp_path, config(impressions={"path": path}), out=f"out{number}")
        assert read_rows(out / "requests") == expected
    features = {"slot": "slot", "day": "day"}
    for folder in list(hive.iterdir()):
        folder.rename(hive / folder.name.replace("liked", "day"))
    rows = read_rows(
        run_build(tmp_path, config(impressions={"path": "hive", "features": features}), out="h") / "requests"
    )
    assert {entry["day"] for row in rows for entry in row["candidates"]} == set(range(5))


def test_text_ids_are_hashed(tmp_path: Path) -> None:
    log = random_log(4, bad=False)
    write_log(tmp_path / "a", log)
    texts = {name: [dict(row) for row in rows] for name, rows in log.items()}
    for rows in texts.values():
        for row in rows:
            row |= {name: f"id {row[name]}" for name in ("uid", "vid", "rid") if name in row}
    (tmp_path / "b").mkdir()
    for name, rows in texts.items():
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b" / f"{name}.parquet")
    values = config(ids={"user": "text", "video": "text", "request": "text"})
    a, b = run_build(tmp_path / "a", config()), run_build(tmp_path / "b", values)

    def shape(out: Path) -> list[Any]:
        rows = read_rows(out / "answers")
        return sorted(
            (row["timestamp_ms"], row["user"]["region"], [(c["slot"], c["answer"]) for c in row["candidates"]])
            for row in rows
        )

    assert shape(a) == shape(b)
    ids = {row["user_id"] for row in read_rows(b / "requests")}
    assert len(ids) == 6 and all(0 <= ident < 2**63 and ident > 2**32 for ident in ids)


def test_answers_may_leave_out_the_user(tmp_path: Path) -> None:
    log = random_log(7, bad=False)
    for row in log["impressions"]:
        row["rid"] = row["rid"] * 10 + row["uid"]  # unique to one user
    for row in log["answers"]:
        row["rid"] = row["rid"] * 10 + row["uid"]
    write_log(tmp_path, log)
    with_user = run_build(tmp_path, config())
    for divided in (False, True):
        values = config(answers={"columns": {"user_id": None}})
        without = run_build(tmp_path, values, divided=divided, out=f"out{divided}")
        assert quarantined(without) == quarantined(with_user)
        key = "request_id"
        rows = [sorted(read_rows(out / "answers"), key=lambda row: row[key]) for out in (with_user, without)]
        assert rows[0] == rows[1]
    for name in ("impressions", "answers"):
        write_csv(tmp_path, name, log[name])
    paths = {
        "impressions": {"path": "impressions.csv"},
        "answers": {"path": "answers.csv", "columns": {"user_id": None}},
    }
    without = run_build(tmp_path, config(**paths), out="csv")
    assert quarantined(without) == quarantined(with_user)


def test_request_ids_shared_by_users_are_counted(tmp_path: Path) -> None:
    log = small_log(2)
    log["impressions"].append({**log["impressions"][0], "uid": 2})
    log["users"].append({**log["users"][0], "uid": 2})
    write_log(tmp_path, log)
    for divided in (False, True):
        out = run_build(tmp_path, config(), divided=divided, out=f"out{divided}")
        assert counts(out)["requests.shared_ids"] == 1
        assert "1 requests with the id of another user's request" in (out / "build.json").read_text()


def test_an_empty_log_gives_empty_datasets(tmp_path: Path) -> None:
    write_log(tmp_path, {"impressions": [], "answers": [], "users": [], "videos": []})
    (tmp_path / "out").mkdir()
    for divided in (False, True):
        out = run_build(tmp_path, config(), divided=divided, out="two" if divided else "out")
        assert read_rows(out / "requests") == read_rows(out / "answers") == []
        assert len(list(out.rglob("*.parquet"))) == 2


def test_ids_of_sessions_are_unique_and_the_same_in_every_build(tmp_path: Path) -> None:
    write_log(tmp_path, random_log(8, impressions=300))
    values = sessions(requests={"session_gap_s": 5.0, "max_candidates": 1})
    ids = [
        [
            row["request_id"]
            for row in read_rows(run_build(tmp_path, values, divided=divided, out=f"o{divided}") / "requests")
        ]
        for divided in (False, True)
    ]
    assert len(set(ids[0])) == len(ids[0]) > 150
    assert sorted(ids[0]) == sorted(ids[1])


def test_tables_may_be_left_out(tmp_path: Path) -> None:
    log = small_log()
    write_log(tmp_path, log)
    values = config(users=None, videos=None, answers=None, impressions={"columns": {"duration": "slot"}})
    values["impressions"]["features"] = {}
    for row in log["impressions"]:
        row["slot"] = 16_000
    write_log(tmp_path, log)
    out = run_build(tmp_path, values)
    (first, *_) = read_rows(out / "requests")
    assert "user" not in first and first["candidates"][0]["duration_ms"] == 16_000
    assert set(read_rows(out / "requests")[-1]["history"][0]) == {"video_id", "timestamp_ms", "watch_ratio"}
    assert read_rows(out / "answers") == []
    assert list((out / "answers").rglob("*.parquet"))
