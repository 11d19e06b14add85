"""The log of a server: files of the data contract, and no answer that waits for it."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from easq_rec.data.dataset import RequestDataset
from easq_rec.data.layout import Layout
from easq_rec.errors import UserError
from easq_rec.export.inputs import Input
from easq_rec.export.logged import ScoredCall, logged_inputs, requests_table
from easq_rec.export.request import Decoded
from easq_rec.serving.server import served_log
from easq_rec.serving.server.served_log import ServedLog
from tests.builders import EVERYTHING, HISTORY, small_config, with_every_kind

CONFIG = small_config(EVERYTHING)
CONFIG = dataclasses.replace(CONFIG, schema=with_every_kind(CONFIG.schema))
INPUTS = logged_inputs(CONFIG)


def call(seed: int, requests: int = 3) -> ScoredCall:
    """A call with columns of every kind."""
    rng = np.random.default_rng(seed)
    sizes, columns = {"requests": requests}, {}
    for one in INPUTS:
        columns[one.name] = _values(one, sizes[one.axis], rng, seed)
        if one.name.startswith("lengths:"):
            sizes[one.name.removeprefix("lengths:")] = int(columns[one.name].sum())
    decoded = Decoded(columns=columns, requests=requests, candidates=sizes["candidates"])
    score_N = rng.random(sizes["candidates"], np.float32)
    arms = ["first", "second", "first"][:requests]
    return ScoredCall(call=decoded, score_N=score_N, arm_R=arms, versions={"first": "v1", "second": "v2"})


def _values(one: Input, size: int, rng: np.random.Generator, seed: int) -> np.ndarray:
    if one.name.startswith("lengths:"):
        return rng.integers(1, 4, size)
    if one.name == "request_id":
        return 1_000 * seed + np.arange(size)
    if one.name == "timestamp_ms":
        return np.full(size, 2_000_000)
    if one.name == "history.timestamp_ms":
        return rng.integers(0, 1_000_000, size)
    if one.dtype == "int64":
        return rng.integers(0, 4, size)
    if one.count:
        shown = rng.random(size, np.float32)
        return np.stack([shown, shown / 2, shown], 1)
    return rng.random((size,) if one.width is None else (size, one.width), np.float32)


def test_the_reader_reads_what_was_sent(tmp_path: Path) -> None:
    """Columns of every kind come back as they were."""
    counted: list[tuple[int, int]] = []
    log = ServedLog(tmp_path, interval_s=60, counted=lambda written, lost: counted.append((written, lost)))
    calls = [call(seed) for seed in range(3)]
    for one in calls:
        log.add(one, CONFIG)
    log.close()
    assert counted == [(9, 0)]
    layout = Layout.of(CONFIG.schema, outcomes=False)
    found = RequestDataset(str(tmp_path / "requests"), layout, max_history=HISTORY).read_all()
    assert found is not None and found.scalars["request_id"].tolist() == [0, 1, 2, 1000, 1001, 1002, 2000, 2001, 2002]
    for name in ("candidates.rate", "candidates.video_id", "candidates.topics", "history.watch_ratio", "user.taste"):
        sent = np.concatenate([one.call.columns[name] for one in calls])
        group, _, column = name.partition(".")
        where = {"candidates": found.candidates, "history": found.history}.get(group)
        read = found.lists.get(name, found.scalars.get(name)) if where is None else where.children[column]
        values = read if isinstance(read, np.ndarray) else read.column("values")
        np.testing.assert_array_equal(values, sent, err_msg=name)
    table = pq.read_table(next((tmp_path / "requests").glob("*.parquet")))
    served = table["served"].to_pylist()
    assert [one["version"] for one in served[:3]] == ["v1", "v2", "v1"]


def test_the_second_package_has_a_column_of_its_own() -> None:
    one = call(0)
    with_second = dataclasses.replace(one, second_N=one.score_N + 1)
    rows = requests_table(CONFIG, [one, with_second])["candidates"].to_pylist()
    assert {candidate["second_score"] for candidate in rows[0]} == {None}
    for candidate in rows[3]:
        assert candidate["second_score"] == pytest.approx(candidate["score"] + 1, abs=1e-6)


def test_files_appear_while_the_server_runs(tmp_path: Path) -> None:
    log = ServedLog(tmp_path, interval_s=0.05)
    log.add(call(0), CONFIG)
    end = time.monotonic() + 60
    while not list((tmp_path / "requests").glob("*.parquet")):
        assert time.monotonic() < end
        time.sleep(0.02)
    log.close()
    assert {file.suffix for file in (tmp_path / "requests").iterdir()} == {".parquet"}


def test_a_file_has_as_many_requests_whatever_their_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests count, not calls: a file is written when enough of them wait, and has no more of them."""
    counted: list[tuple[int, int]] = []
    monkeypatch.setattr(served_log, "FILE_REQUESTS", 4)
    log = ServedLog(tmp_path, interval_s=60, counted=lambda written, lost: counted.append((written, lost)))
    for seed, requests in enumerate((1, 1, 2)):
        log.add(call(seed, requests), CONFIG)
    end = time.monotonic() + 30
    while not counted and time.monotonic() < end:
        time.sleep(0.02)
    assert counted == [(4, 0)], "the file did not wait for the interval"
    with log._changed:
        # The thread finds all of these at once.
        for seed, requests in enumerate((3, 3, 1, 3, 1, 1)):
            log.add(call(seed, requests), CONFIG)
    log.close()
    files = sorted((tmp_path / "requests").glob("*.parquet"))
    assert [pq.read_metadata(file).num_rows for file in files] == [4, 3, 4, 4, 1]
    assert [written for written, _ in counted] == [4, 3, 4, 4, 1]


def test_what_cannot_be_written_is_counted_and_the_next_file_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    counted: list[tuple[int, int]] = []
    monkeypatch.setattr(served_log, "FILE_REQUESTS", 3)
    log = ServedLog(tmp_path, interval_s=60, counted=lambda written, lost: counted.append((written, lost)))
    (tmp_path / "requests").rmdir()
    log.add(call(0), CONFIG)
    end = time.monotonic() + 60
    while not counted and time.monotonic() < end:
        time.sleep(0.02)
    assert counted == [(0, 3)]
    (tmp_path / "requests").mkdir()
    log.add(call(1), CONFIG)
    log.close()
    assert counted == [(0, 3), (3, 0)]


def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[int, int]] = []
    log = ServedLog(tmp_path, interval_s=60, counted=lambda written, lost: counted.append((written, lost)))
    one = call(0)
    monkeypatch.setattr(served_log, "MOST_CANDIDATES", one.call.candidates)
    log.add(one, CONFIG)
    log.add(one, CONFIG)
    log.close()
    assert counted == [(0, 3), (3, 0)]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"--log {tmp_path}/file: cannot be written: Not a directory"):
        ServedLog(tmp_path / "file", interval_s=1)
