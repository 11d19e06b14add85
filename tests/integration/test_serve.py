"""`easq-rec serve` as a process, called over HTTP while packages come and go."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import httpx
import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openapi_spec_validator import validate

from easq_rec.data.dataset import RequestDataset
from easq_rec.data.layout import Layout
from easq_rec.export.inputs import Input
from easq_rec.export.manifest import Manifest
from easq_rec.export.package import Package, read_golden
from easq_rec.export.package_copies import PackageCopies
from easq_rec.export.versions import current_of, set_current
from easq_rec.run_directory.config_file import load_config
from tests.conftest import Warm
from tests.s3_server import KEYS, s3_server

Call = Callable[..., subprocess.CompletedProcess[str]]
READY_S = 60


class Server:
    """A server process and a client of it."""

    def __init__(self, warm: Warm, packages: Path | str, errors: Path, *options: str) -> None:
        self.errors = errors
        command = (warm.python, "-m", "easq_rec.cli", "serve", str(packages), "--port", "0")
        command = (*command, "--watch-ms", "50", "--deadline-ms", "60000")
        with errors.open("w") as file:
            self.process = subprocess.Popen(
                [*command, *options], env=warm.environment, stdout=subprocess.PIPE, stderr=file, text=True
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found is not None, line + errors.read_text()
        self.client = httpx.Client(base_url=found[0], timeout=READY_S)

    def score(self, values: dict[str, Any]) -> httpx.Response:
        return self.client.post("/score", json=values)

    def version(self) -> str:
        return str(self.client.get("/ready").json()["versions"]["first"])

    def wait_for(self, version: str) -> None:
        end = time.monotonic() + READY_S
        while self.version() != version:
            assert time.monotonic() < end, self.errors.read_text()
            time.sleep(0.02)

    def metric(self, name: str) -> float:
        pattern = re.escape(name) if "{" in name else rf"{name}(?:{{.*}})?"
        return float(re.search(rf"^{pattern} (\S+)$", self.client.get("/metrics").text, re.M)[1])  # type: ignore[index]

    def stop(self) -> int:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        with self.process:
            return self.process.wait(READY_S)


@pytest.fixture(scope="module")
def packages(exported: tuple[Path, Path], call: Call, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions with different scores; the first one is current."""
    run, packages = exported
    folder = tmp_path_factory.mktemp("served") / "packages"
    shutil.copytree(packages, folder)
    first = current_of(folder).name
    call("export", "--run", run, "--output", folder, "--fuse", "0.9")
    set_current(folder, first)
    return folder


@pytest.fixture(scope="module")
def versions(packages: Path) -> tuple[str, str]:
    first = current_of(packages).name
    (second,) = {path.name for path in packages.iterdir() if path.is_dir()} - {first}
    return first, second


@pytest.fixture(scope="module")
def server(warm: Warm, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(warm, packages, tmp_path_factory.mktemp("server") / "stderr")
    yield server
    assert server.stop() == 0, server.errors.read_text()


def golden(packages: Path, version: str) -> tuple[dict[str, list[Any]], np.ndarray]:
    """(columns of requests, their scores) of a version."""
    folder = packages / version
    inputs = Manifest.read(folder).inputs
    columns, scores = read_golden(inputs, folder)
    named = zip(inputs, columns, strict=True)
    return {one.name: column.tolist() for one, column in named if not _is_slots(one)}, scores.numpy()


def _is_slots(one: Input) -> bool:
    return one.name.endswith("_slots")


@pytest.mark.integration
def test_json_and_arrow_score_as_the_package(server: Server, packages: Path, versions: tuple[str, str]) -> None:
    values, expected = golden(packages, versions[0])
    answer = server.score(values).json()
    assert answer["versions"] == {"first": versions[0]}
    assert answer["arms"] == ["first"] * len(values["timestamp_ms"])
    np.testing.assert_allclose(answer["scores"], expected, atol=1e-5)
    body = (packages / versions[0] / "golden.arrow").read_bytes()
    table = pa.ipc.open_file(body).read_all()
    sent = table.select([name for name in table.column_names if name in values])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, sent.schema) as writer:
        writer.write_table(sent)
    kind = {"content-type": "application/vnd.apache.arrow.stream"}
    found = server.client.post("/score", content=bytes(sink.getvalue()), headers=kind)
    scores = pa.ipc.open_stream(found.content).read_all()
    said = {name.decode(): json.loads(value) for name, value in scores.schema.metadata.items()}
    assert said == {"versions": answer["versions"], "arms": answer["arms"]}
    np.testing.assert_allclose(scores["score"].to_numpy(), expected, atol=1e-5)


@pytest.mark.integration
def test_the_example_of_a_client_scores_a_file(
    server: Server, packages: Path, versions: tuple[str, str], world: Path
) -> None:
    config = load_config(packages / versions[0])
    layout = Layout.of(config.schema, outcomes=False)
    dataset = RequestDataset(str(world / "requests"), layout, max_history=config.data.max_history)
    expected = Package(packages / versions[0]).score(dataset.read(dataset.row_groups[0]))
    file = sorted((world / "requests").glob("*.parquet"))[0]
    path = Path(__file__).parents[2] / "examples" / "client.py"
    url = str(server.client.base_url)
    done = subprocess.run(
        [sys.executable, path, file, "--url", url, "--first", "7"], capture_output=True, text=True, check=True
    )
    scores = json.loads(done.stdout)
    assert len(scores) > 7
    np.testing.assert_allclose(scores, expected[: len(scores)], atol=1e-5)


@pytest.mark.integration
def test_what_cannot_be_scored_is_named(server: Server, packages: Path, versions: tuple[str, str]) -> None:
    values, _ = golden(packages, versions[0])
    wrong = server.score({**values, "user_id": ["x"]})
    assert wrong.status_code == 400 and wrong.json()["column"] == "user_id"
    assert wrong.json()["expected"] == "a list of integers of 64 bits" and "'x'" in wrong.json()["found"]
    post, text = server.client.post, {"content-type": "text/plain"}
    assert post("/score", content=b" " * (5 * 2**20)).status_code == 413
    assert post("/score", content=iter([b" " * 2**20] * 5)).status_code == 413
    assert post("/score", content=b"{}", headers=text).status_code == 415
    assert server.client.get("/score").status_code == 405 and server.client.get("/nothing").status_code == 404
    assert server.score(values).status_code == 200


@pytest.mark.integration
def test_the_server_says_what_it_is(server: Server, packages: Path, versions: tuple[str, str]) -> None:
    model = server.client.get("/model").json()
    assert model["versions"] == {"first": versions[0]} and model["packages"]["first"]["gate"]["pair_order"] == 1
    assert {"name": "timestamp_ms", "dtype": "int64", "axis": "requests", "width": None, "count": False} in model[
        "inputs"
    ]
    assert server.client.get("/live").json() == {"live": True}
    before = server.metric("easq_answer_seconds_count")
    server.score({})
    assert server.metric("easq_answer_seconds_count") == before + 1
    assert server.metric("easq_packages_served_total") == 1
    openapi = server.client.get("/openapi.json").json()
    validate(openapi)
    call = openapi["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    values, _ = golden(packages, versions[0])
    jsonschema.validate(values, call)
    for wrong in ({**values, "user_id": ["x"]}, {**values, "speed": [1]}, {"user_id": [1]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, call)


@pytest.mark.integration
def test_packages_change_under_load(server: Server, packages: Path, versions: tuple[str, str]) -> None:
    """Every answer has the scores of the version that it names, no call fails, and bad packages are not taken."""
    values, _ = golden(packages, versions[0])
    scores = {version: golden(packages, version)[1] for version in versions}
    assert np.abs(scores[versions[0]] - scores[versions[1]]).max() > 1e-3
    stop, seen = False, []

    def load() -> None:
        with httpx.Client(base_url=server.client.base_url, timeout=READY_S) as client:
            while not stop:
                answer = client.post("/score", json=values)
                assert answer.status_code == 200, answer.text
                found = answer.json()
                seen.append(found["versions"]["first"])
                np.testing.assert_allclose(found["scores"], scores[seen[-1]], atol=1e-5)

    bad = packages / "bad"
    shutil.copytree(packages / versions[1], bad)
    table = bad / "tables" / "video.row.npy"
    content = bytearray(table.read_bytes())
    content[-2] ^= 1
    table.write_bytes(bytes(content))
    with ThreadPoolExecutor(3) as pool:
        loads = [pool.submit(load) for _ in range(3)]
        try:
            for version in (versions[1], versions[0], versions[1]):
                set_current(packages, version)
                server.wait_for(version)
            refused = server.metric("easq_packages_refused_total")
            set_current(packages, "bad")
            end = time.monotonic() + READY_S
            while server.metric("easq_packages_refused_total") == refused and time.monotonic() < end:
                time.sleep(0.02)
            assert server.version() == versions[1]
            # A package whose files are right, and whose manifest is not: its error is none that is expected.
            shutil.copytree(packages / versions[1], packages / "strange")
            manifest = json.loads((packages / "strange" / "manifest.json").read_text())
            manifest["constants"].popitem()
            (packages / "strange" / "manifest.json").write_text(json.dumps(manifest))
            set_current(packages, "strange")
            while server.metric("easq_packages_refused_total") == refused + 1 and time.monotonic() < end:
                time.sleep(0.02)
            assert server.version() == versions[1]
            (packages / "current.json").write_text("{")
            time.sleep(0.2)
            assert server.version() == versions[1]
            set_current(packages, versions[0])
            server.wait_for(versions[0])
        finally:
            stop = True
            set_current(packages, versions[0])
        for one in loads:
            one.result()
    assert set(seen) == set(versions) and len(seen) > 20
    assert "does not match its checksum" in server.errors.read_text()
    assert server.metric("easq_packages_refused_total") == refused + 2, "a refused package is read once"


@pytest.mark.integration
def test_accepted_calls_are_answered_before_the_server_ends(
    warm: Warm, packages: Path, versions: tuple[str, str], tmp_path: Path
) -> None:
    server = Server(warm, packages, tmp_path / "stderr")
    values, expected = golden(packages, versions[0])

    def answered(_: int) -> bool:
        try:
            found = httpx.post(f"{server.client.base_url}/score", json=values, timeout=READY_S)
        except httpx.TransportError:
            # Not accepted: it came when the server had ended, or was about to.
            return False
        np.testing.assert_allclose(found.json()["scores"], expected, atol=1e-5)
        begun.set()
        return True

    begun = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(answered, number) for number in range(40)]
        assert begun.wait(READY_S)
        assert server.stop() == 0
        assert any(call.result() for call in calls)


def with_all_columns(values: dict[str, list[Any]], inputs: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The columns of a call, with those that only the log needs: zeros, and request ids that count from 0."""
    sizes = {"requests": len(values["timestamp_ms"])}
    for name, column in values.items():
        if name.startswith("lengths:"):
            sizes[name.removeprefix("lengths:")] = sum(column)
    found = dict(values)
    for one in inputs:
        if one["name"] not in values:
            number = 0 if one["dtype"] == "int64" else 0.0
            zero = [number] * one["width"] if one["width"] else number
            found[one["name"]] = [zero] * sizes[one["axis"]]
    found["request_id"] = list(range(sizes["requests"]))
    return found


def logged(folder: Path, count: int) -> list[dict[str, Any]]:
    """The requests of a log, when it has as many."""
    end = time.monotonic() + READY_S
    while True:
        files = sorted((folder / "requests").glob("*.parquet"))
        rows = [row for file in files for row in pq.read_table(file).to_pylist()]
        if len(rows) >= count:
            return rows
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.integration
def test_users_are_split_and_answers_are_logged(
    warm: Warm, packages: Path, versions: tuple[str, str], exported: tuple[Path, Path], tmp_path: Path
) -> None:
    """Two processes. Every request is scored by the package of its user, and the log is a data directory."""
    served = tmp_path / "served"
    options = ("--processes", "2", "--second", str(packages / versions[1]), "--share", "0.4", "--experiment", "e1")
    server = Server(warm, packages, tmp_path / "stderr", *options, "--log", str(served), "--log-seconds", "0.2")
    model = server.client.get("/model").json()
    assert model["experiment"] == {"share": 0.4, "name": "e1"}
    values, _ = golden(packages, versions[0])
    scores = {arm: golden(packages, version)[1] for arm, version in zip(("first", "second"), versions, strict=True)}
    values = with_all_columns(values, model["inputs"])
    length = np.array(values["lengths:candidates"])
    arms: dict[str, Any] = {}
    for number in range(6):
        values["request_id"] = [1_000 * number + one for one in range(len(length))]
        # A client of its own: another connection, which the other process may take.
        with httpx.Client(base_url=server.client.base_url, timeout=READY_S) as client:
            answer = client.post("/score", json=values).json()
        arms = dict(zip(values["user_id"], answer["arms"], strict=True))
        # All requests of a user have the same arm.
        assert [arms[user] for user in values["user_id"]] == answer["arms"] and len(set(answer["arms"])) == 2
        second_N = np.repeat([arm == "second" for arm in answer["arms"]], length)
        expected = np.where(second_N, scores["second"], scores["first"])
        np.testing.assert_allclose(answer["scores"], expected, atol=1e-5)
    rows = logged(served, 6 * len(length))
    assert server.metric("easq_log_requests_total") == len(rows) and server.metric("easq_log_requests_lost_total") == 0
    assert server.stop() == 0, server.errors.read_text()
    assert {(row["user_id"], row["served"]["arm"], row["served"]["version"]) for row in rows} == {
        (user, arm, versions[arm == "second"]) for user, arm in arms.items()
    }
    first = next(row for row in rows if row["request_id"] == 0)
    np.testing.assert_allclose([c["score"] for c in first["candidates"]], expected[: length[0]], atol=1e-5)
    # The trainer's reader takes the files, and the package scores them as it did.
    config = load_config(packages / versions[0])
    layout = Layout.of(config.schema, outcomes=False)
    found = RequestDataset(str(served / "requests"), layout, max_history=config.data.max_history).read_all()
    again = Package(packages / versions[0]).score(found)
    order = np.argsort(found.scalars["request_id"], kind="stable")
    starts = np.concatenate([[0], np.cumsum(found.candidates.lengths)])
    by_request = np.concatenate([again[starts[row] : starts[row + 1]] for row in order[: len(length)]])
    np.testing.assert_allclose(by_request, scores["first"], atol=1e-5)


@pytest.mark.integration
def test_a_second_package_scores_in_the_shadow_and_a_killed_process_is_started_again(
    warm: Warm, packages: Path, versions: tuple[str, str], tmp_path: Path
) -> None:
    served = tmp_path / "served"
    options = ("--second", str(packages / versions[1]), "--log", str(served), "--log-seconds", "0.2")
    server = Server(warm, packages, tmp_path / "stderr", *options, "--processes", "2")
    try:
        values, expected = golden(packages, versions[0])
        values = with_all_columns(values, server.client.get("/model").json()["inputs"])
        answer = server.score(values).json()
        assert set(answer["arms"]) == {"first"}
        np.testing.assert_allclose(answer["scores"], expected, atol=1e-5)
        rows = logged(served, len(values["timestamp_ms"]))
        found = [candidate["second_score"] for row in rows for candidate in row["candidates"]]
        np.testing.assert_allclose(found, golden(packages, versions[1])[1], atol=1e-5)
        # A bad package is current when a process dies: the new one serves what the others do.
        (packages / "torn").mkdir()
        set_current(packages, "torn")
        (file, *_) = (served / "requests").glob("*.parquet")
        os.kill(int(file.name.split("-")[1]), signal.SIGKILL)
        serving = f'easq_package{{arm="first",version="{versions[0]}"}}'
        end = time.monotonic() + READY_S
        # The other process has refused the bad package, and so has the new one, which serves nevertheless.
        done = False
        while not done:
            assert time.monotonic() < end, server.errors.read_text()
            time.sleep(0.1)
            # The client's connection may be one to the process that was killed.
            with contextlib.suppress(httpx.TransportError):
                done = server.metric("easq_packages_refused_total") >= 2 and server.metric(serving) >= 2
        for _ in range(8):
            answer = httpx.post(f"{server.client.base_url}/score", json=values, timeout=READY_S).json()
            np.testing.assert_allclose(answer["scores"], expected, atol=1e-5)
    finally:
        set_current(packages, versions[0])
        code = server.stop()
    assert code == 0, server.errors.read_text()


@pytest.mark.integration
@pytest.mark.parametrize("when", ["loading", "serving"])
def test_no_server_outlives_the_process_that_started_it(
    warm: Warm, packages: Path, tmp_path: Path, when: Literal["loading", "serving"]
) -> None:
    """It would hold the port, and answer with a package that nobody changes any more."""
    # The real interpreter: a kill of the one that imports nothing would not be one of the server.
    command = [sys.executable, "-m", "easq_rec.cli", "serve", str(packages), "--port", "0", "--processes", "2"]
    errors, folder = tmp_path / "stderr", tmp_path / "tmp"
    folder.mkdir()
    environment = {**warm.environment, "TMPDIR": str(folder)}
    with (
        errors.open("w") as file,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=file, text=True) as server,
    ):
        assert server.stdout is not None
        found = re.search(r"http://127.0.0.1:(\d+) in 2 processes", server.stdout.readline())
        assert found is not None, errors.read_text()
        if when == "serving":
            assert httpx.get(f"http://127.0.0.1:{found[1]}/ready", timeout=READY_S).status_code == 200
        else:
            time.sleep(1)
        server.kill()
        # All processes have the end of the pipe that is read here, and it ends with the last of them.
        server.communicate(timeout=READY_S)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int(found[1])))
        other.listen()
    assert when == "loading" or not list(folder.glob("easq-rec-serve-*"))


@pytest.mark.integration
def test_more_connections_than_may_wait_are_answered(warm: Warm, packages: Path, tmp_path: Path) -> None:
    """Each gets scores, or is told to come again. None is reset, which looks like a failure."""
    server = Server(warm, packages, tmp_path / "stderr", "--most-waiting", "1")
    port = server.client.base_url.port
    body = b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"

    async def one() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(body)
        line = await reader.readline()
        writer.close()
        return line

    async def all_at_once() -> list[bytes]:
        return await asyncio.gather(*(one() for _ in range(300)))

    assert {line.split()[1] for line in asyncio.run(all_at_once())} == {b"400"}
    assert server.stop() == 0


@pytest.mark.integration
def test_packages_of_an_object_store(
    warm: Warm, packages: Path, versions: tuple[str, str], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server takes over what was uploaded, goes back, and keeps its package when the store is gone."""
    for name, value in KEYS.items():
        monkeypatch.setitem(warm.environment, name, value)
    first, second = versions
    with s3_server(tmp_path / "s3.log") as options:
        location, cache = f"s3://bucket/packages?{options}", tmp_path / "cache"
        PackageCopies(location).upload(packages)
        assert "--cache=None is not allowed" in call("serve", location, code=2).stderr
        server = Server(warm, location, tmp_path / "stderr", "--cache", str(cache))
        assert server.version() == first and sorted(os.listdir(cache)) == sorted([first, "current.json"])
        mine = tmp_path / "packages"
        shutil.copytree(packages, mine)
        set_current(mine, second)
        PackageCopies(location).upload(mine, keep=2)
        server.wait_for(second)
        done = call("rollback", location)
        assert f"s3://bucket/packages: {first} in place of {second}" in done.stdout
        server.wait_for(first)
        assert "--second-cache=None is not allowed" in call("serve", packages, "--second", location, code=2).stderr
        nested = ("serve", location, "--cache", cache, "--second", location, "--second-cache", cache / "second")
        assert f"--second-cache {cache}/second: lies in {cache}" in call(*nested, code=2).stderr
        options = ("--second", location, "--second-cache", str(tmp_path / "others"))
        both = Server(warm, packages, tmp_path / "both", *options)
        assert set(both.client.get("/model").json()["packages"]) == {"first", "second"}
        assert both.stop() == 0
    values, expected = golden(packages, first)
    np.testing.assert_allclose(server.score(values).json()["scores"], expected, atol=1e-5)
    end = time.monotonic() + READY_S
    while "the package on this disk stays" not in server.errors.read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert server.stop() == 0


@pytest.mark.integration
def test_what_cannot_be_served_is_one_line(server: Server, packages: Path, call: Call, tmp_path: Path) -> None:
    port = str(server.client.base_url).rsplit(":", 1)[1].strip("/")
    for words, message in (
        ((packages, "--port", port), "cannot listen there: Address already in use"),
        ((tmp_path,), "holds no package: current.json is missing or torn"),
        ((tmp_path / "nothing",), "no such directory"),
        ((packages, "--port", "70000"), "--port=70000 is not allowed: 0 to 65535"),
        ((packages, "--share", "0.5"), "--share=0.5 is not allowed: given together with --second"),
        ((packages, "--log", packages / "log"), "--log"),
        ((packages, "--watch-ms", "0"), "--watch-ms=0 is not allowed: at least 1"),
    ):
        done = call("serve", *words, code=2)
        assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_an_error_has_the_form_that_clients_read() -> None:
    from easq_rec.serving.server.app import _problem

    answer = _problem(503, "busy", {"Retry-After": "1"})
    assert json.loads(bytes(answer.body)) == {"error": "busy"} and answer.headers["retry-after"] == "1"
