"""Served requests and what happened afterwards become the data that a log of both would be."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from easq_rec.config import World
from easq_rec.config.recipes import quickstart
from easq_rec.config.schema_file import load_schema
from easq_rec.data.dataset import RequestDataset
from easq_rec.data.layout import Layout
from easq_rec.errors import UserError
from easq_rec.tools.join.command import join
from easq_rec.tools.join.in_time import rows_in_time
from easq_rec.tools.simulation.world import generate

SCHEMA = quickstart().schema
OUTCOMES = [outcome.name for outcome in SCHEMA.outcomes]
ADDED = [*OUTCOMES, "answer", "answered_at_ms"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("join") / "world"
    generate(World(requests=400, users=60, videos=80, history=5, density=2_000.0), directory)
    return directory


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def write(path: Path, listed: list[dict[str, Any]], schema: pa.Schema | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(listed, schema), path)
    return path


def log_and_events(world: Path, tmp_path: Path, seed: int = 0) -> tuple[Path, Path]:
    """The world's requests without outcomes, as two processes of a server write them, and the outcomes as events: one
    row for each action, in no order, some of them twice."""
    rng = random.Random(seed)
    answered = {row["request_id"]: row for row in rows(world / "answers")}
    plain, events = [], []
    for row in rows(world / "requests"):
        shown = []
        for place, candidate in enumerate(row["candidates"]):
            shown.append({name: value for name, value in candidate.items() if name not in OUTCOMES})
            key = {"request_id": row["request_id"], "video_id": candidate["video_id"]}
            for name in OUTCOMES:
                if candidate[name]:
                    event = {**dict.fromkeys(ADDED), **key, name: rng.choice([1, True])}
                    events += [event] * rng.choice([1, 1, 2])
            answer = answered.get(row["request_id"], {"candidates": [{"answer": None}] * 99})["candidates"][place]
            if answer["answer"] is not None:
                told = {name: answer[name] for name in ("answer", "answered_at_ms")}
                events.append({**dict.fromkeys(ADDED), **key, **told})
        plain.append({**row, "candidates": shown})
    rng.shuffle(events)
    log = tmp_path / "log"
    # Blocks of 50 go to one of two processes, and each process writes twice.
    parts: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for number, row in enumerate(plain):
        parts.setdefault((number // 200, number // 50 % 2), []).append(row)
    for (block, process), part in parts.items():
        write(log / "requests" / f"{block}-{process}.parquet", part)
    dtypes = {**dict.fromkeys(OUTCOMES, pa.float64()), "answer": pa.int64(), "answered_at_ms": pa.int64()}
    schema = pa.schema({"request_id": pa.int64(), "video_id": pa.int64(), **dtypes})
    events = [
        {name: float(v) if name in OUTCOMES and v is not None else v for name, v in one.items()} for one in events
    ]
    return log, write(tmp_path / "events.parquet", events, schema)


def test_log_and_events_become_the_data_again(world: Path, tmp_path: Path) -> None:
    log, events = log_and_events(world, tmp_path)
    out = tmp_path / "out"
    said = join(log, events, out, SCHEMA, shown="all")
    assert "400 requests with 4,800 candidates" in said and "0 were not found among the requests" in said
    assert rows(out / "requests") == _as_read(rows(world / "requests"))
    assert rows(out / "answers") == _as_read(rows(world / "answers"))
    for name in ("requests", "answers"):
        layout = Layout.of(SCHEMA, answers=name == "answers")
        assert RequestDataset(str(out / name), layout, max_history=5).read_all() is not None


def _as_read(listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as this data has them: outcomes are numbers."""
    for row in listed:
        for candidate in row["candidates"]:
            candidate |= {name: float(candidate[name]) for name in OUTCOMES}
    return listed


def test_candidates_that_were_not_shown_are_left_out(world: Path, tmp_path: Path) -> None:
    log, events = log_and_events(world, tmp_path)
    out = tmp_path / "out"
    said = join(log, events, out, SCHEMA, shown="listed")
    listed = {(row["request_id"], row["video_id"]) for row in pq.read_table(events).to_pylist()}
    found = rows(out / "requests")
    kept = {(row["request_id"], candidate["video_id"]) for row in found for candidate in row["candidates"]}
    assert kept == listed and all(row["candidates"] for row in found)
    assert f"{4_800 - len(listed):,} candidates were not shown" in said
    assert f"{400 - len(found):,} requests without any other" in said


def test_rows_of_nobody_are_counted(world: Path, tmp_path: Path) -> None:
    log, events = log_and_events(world, tmp_path)
    table = pq.read_table(events)
    other = table.slice(0, 3).set_column(0, "request_id", pa.array([10**9, 10**9, -5]))
    pq.write_table(pa.concat_tables([table, other]), events)
    said = join(log, events, tmp_path / "out", SCHEMA, shown="all")
    assert "were served, 0 were" not in said and "not found among the requests" in said
    pq.write_table(other, events)
    with pytest.raises(UserError, match="none of its 3 rows belongs to a request"):
        join(log, events, tmp_path / "none", SCHEMA, shown="all")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"request_id": None}, "request_id and video_id must not be null"),
        ({"like": 2.0}, "like must be 0 or 1"),
        ({"like": float("nan")}, "like must be 0 or 1"),
        ({"answer": 0, "answered_at_ms": 10**13}, r"answer(ed_at_ms)? of request \d+ and video_id \d+ is"),
    ],
)
def test_what_cannot_be_meant_is_named(world: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    log, events = log_and_events(world, tmp_path)
    table = pq.read_table(events)
    answered = next(row for row in table.to_pylist() if row["answer"] is not None)
    pq.write_table(pa.concat_tables([table, pa.Table.from_pylist([{**answered, **change}], table.schema)]), events)
    with pytest.raises(UserError, match=message):
        join(log, events, tmp_path / "out", SCHEMA, shown="all")


def test_columns_that_are_missing_are_named(world: Path, tmp_path: Path) -> None:
    log, events = log_and_events(world, tmp_path)
    whole = pq.read_table(events)
    for dropped, message in (
        (["like", "video_id"], "has no column video_id, like: it needs request_id, video_id, long_view"),
        (["answer"], "has one of answer and answered_at_ms"),
    ):
        pq.write_table(whole.drop_columns(dropped), events)
        with pytest.raises(UserError, match=message):
            join(log, events, tmp_path / "out", SCHEMA, shown="all")
    events.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot be read"):
        join(log, events, tmp_path / "out", SCHEMA, shown="all")


def test_an_item_that_is_there_twice_is_refused(world: Path, tmp_path: Path) -> None:
    log, events = log_and_events(world, tmp_path)
    file = next((log / "requests").glob("*"))
    listed = pq.read_table(file).to_pylist()
    listed[0]["candidates"][1] = listed[0]["candidates"][0]
    write(file, listed, pq.read_schema(file))
    with pytest.raises(UserError, match=r"video_id \d+ is there twice"):
        join(log, events, tmp_path / "out", SCHEMA, shown="all")


def logged(request: int, *, score: float, **changes: Any) -> dict[str, Any]:
    """A request of a log, with two candidates."""
    items = changes.pop("items", (3, 4))
    row = {"request_id": request, "user_id": 1, "timestamp_ms": 5, **changes}
    return row | {"candidates": [{"video_id": item, "score": score} for item in items]}


@pytest.mark.parametrize("files", [((0, 1, 2),), ((0,), (1, 2)), ((0, 1), (), (2,)), ((0,), (1,), (2,))])
def test_of_a_repeated_call_the_last_is_kept(tmp_path: Path, files: tuple[tuple[int, ...], ...]) -> None:
    """Request 7 was logged three times, by any processes; another model scored it the last time."""
    calls = [logged(7, score=0.25), logged(7, score=0.5), logged(7, score=0.75)]
    schema = pa.Table.from_pylist(calls).schema
    for number, listed in enumerate(files):
        # Each file has a request of its own, some of which are older than the repeated one, and some newer.
        own = logged(100 + number, score=0.0, timestamp_ms=4 + number % 3)
        write(tmp_path / f"log/requests/{number}.parquet", [own, *(calls[one] for one in listed)], schema)
    events = [{**dict.fromkeys(OUTCOMES, 0.0), "request_id": 7, "video_id": 3, "like": 1.0}]
    said = join(tmp_path / "log", write(tmp_path / "events.parquet", events), tmp_path / "out", SCHEMA, shown="all")
    assert f"{1 + len(files)} requests with {2 + 2 * len(files)} candidates" in said
    assert "2 repeats of requests are left out; the last of each is kept" in said
    assert "1 impressions of the table were served, 0 were not" in said
    found = rows(tmp_path / "out/requests")
    assert sorted(row["request_id"] for row in found) == [7, *(100 + number for number in range(len(files)))]
    (kept,) = (row for row in found if row["request_id"] == 7)
    assert [(one["score"], one["like"]) for one in kept["candidates"]] == [(0.75, 1.0), (0.75, 0.0)]


def test_the_last_of_a_repeated_call_is_that_of_the_latest_time(tmp_path: Path) -> None:
    """Where a client stamps every try, files may be written in another order."""
    calls = [logged(7, score=0.75, timestamp_ms=9), logged(7, score=0.25, timestamp_ms=5)]
    for number, call in enumerate(calls):
        write(tmp_path / f"log/requests/{number}.parquet", [call])
    events = [{**dict.fromkeys(OUTCOMES, 0.0), "request_id": 7, "video_id": 3, "like": 1.0}]
    join(tmp_path / "log", write(tmp_path / "events.parquet", events), tmp_path / "out", SCHEMA, shown="all")
    (kept,) = rows(tmp_path / "out/requests")
    assert (kept["timestamp_ms"], kept["candidates"][0]["score"]) == (9, 0.75)


def test_a_log_whose_calls_were_all_repeated_becomes_the_data(world: Path, tmp_path: Path) -> None:
    log, events = log_and_events(world, tmp_path)
    for number, file in enumerate(sorted((log / "requests").glob("*"))):
        if number % 2:
            shutil.copyfile(file, log / "requests" / f"again-{file.name}")
    said = join(log, events, tmp_path / "out", SCHEMA, shown="all")
    assert "200 repeats of requests are left out" in said
    assert rows(tmp_path / "out/requests") == _as_read(rows(world / "requests"))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"user_id": 2}, "user_id 1 and user_id 2"),
        ({"items": (3, 5)}, "other candidates"),
        ({"items": (4, 3)}, "other candidates"),
        ({"items": (3, 4, 5)}, "other candidates"),
        ({"items": ()}, "other candidates"),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_requests_that_differ_and_share_an_id_are_refused(
    tmp_path: Path, changes: dict[str, Any], what: str, together: bool
) -> None:
    first, other, between = logged(7, score=0.5), logged(7, score=0.5, **changes), logged(8, score=0.5)
    schema = pa.Table.from_pylist([first]).schema
    names = ("a.parquet", "b.parquet", "b.parquet" if together else "c.parquet")
    contents = [(between,), (first, other)] if together else [(between,), (first,), (other,)]
    for name, listed in zip(dict.fromkeys(names), contents, strict=True):
        write(tmp_path / "log/requests" / name, list(listed), schema)
    events = [{**dict.fromkeys(OUTCOMES, 0.0), "request_id": 7, "video_id": 3, "like": 1.0}]
    file = write(tmp_path / "events.parquet", events)
    with pytest.raises(UserError) as raised:
        join(tmp_path / "log", file, tmp_path / "out", SCHEMA, shown="all")
    message = str(raised.value)
    assert "request_id 7" in message and what in message and "\n" not in message
    assert all(f"{tmp_path}/log/requests/{name}" in message for name in names[1:])
    assert not (tmp_path / "out").exists()


def test_files_that_overlap_are_merged_in_the_order_of_time(tmp_path: Path) -> None:
    rng = random.Random(0)
    names, expected = [], []
    for number in range(12):
        begin = rng.randrange(1_000)
        times = sorted(rng.randrange(begin, begin + 200) for _ in range(rng.randrange(0, 30)))
        listed = [{"timestamp_ms": time, "file": number, "row": row} for row, time in enumerate(times)]
        schema = pa.schema({"timestamp_ms": pa.int64(), "file": pa.int64(), "row": pa.int64()})
        names.append(str(write(tmp_path / f"{number:02d}.parquet", listed, schema)))
        expected += listed
    found = [row for table in rows_in_time(names, {}) for row in table.to_pylist()]
    assert [row["timestamp_ms"] for row in found] == sorted(row["timestamp_ms"] for row in expected)
    assert sorted((row["file"], row["row"]) for row in found) == [(row["file"], row["row"]) for row in expected]


def test_amounts_are_given_once(tmp_path: Path) -> None:
    text = """
        item = "video_id"
        tables = [{name = "video", rows = 10, dim = 4}, {name = "user", rows = 10, dim = 4}]
        user = [{name = "user", source = "user_id", table = "user"}]
        history = [{name = "video", source = "video_id", table = "video"}]
        candidate = [{name = "video", source = "video_id", table = "video"}]
        outcomes = [{name = "watch_s", weight = 1.0, kind = "amount"}]
    """
    (tmp_path / "schema.toml").write_text(text)
    schema = load_schema(tmp_path / "schema.toml")
    request = {"request_id": 1, "user_id": 1, "timestamp_ms": 5, "candidates": [{"video_id": 3}, {"video_id": 4}]}
    write(tmp_path / "log/requests/a.parquet", [request])
    events = [{"request_id": 1, "video_id": 3, "watch_s": amount} for amount in (2.5, None, 2.5)]
    file = write(tmp_path / "events.parquet", events)
    join(tmp_path / "log", file, tmp_path / "out", schema, shown="all")
    (row,) = rows(tmp_path / "out/requests")
    assert [candidate["watch_s"] for candidate in row["candidates"]] == [2.5, 0.0]
    write(file, [*events, {"request_id": 1, "video_id": 3, "watch_s": 4.0}])
    with pytest.raises(UserError, match=r"watch_s of request 1 and video_id 3 is 2\.5 in one row and 4\.0 in another"):
        join(tmp_path / "log", file, tmp_path / "again", schema, shown="all")
