"""`easq-rec serve` as a process, called over HTTP while packages come and go."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from easq_rec.export.inputs import Input
from easq_rec.export.manifest import Manifest
from easq_rec.export.package import read_golden
from easq_rec.export.versions import current_of, set_current
from tests.conftest import Warm

Call = Callable[..., subprocess.CompletedProcess[str]]
READY_S = 60


class Server:
    """A server process and a client of it."""

    def __init__(self, warm: Warm, packages: Path, errors: Path, *options: str) -> None:
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
        return str(self.client.get("/ready").json()["version"])

    def wait_for(self, version: str) -> None:
        end = time.monotonic() + READY_S
        while self.version() != version:
            assert time.monotonic() < end, self.errors.read_text()
            time.sleep(0.02)

    def metric(self, name: str) -> float:
        return float(re.search(rf"^{name}(?:{{.*}})? (\S+)$", self.client.get("/metrics").text, re.M)[1])  # type: ignore[index]

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
    assert answer["version"] == versions[0]
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
    assert scores.schema.metadata == {b"version": versions[0].encode()}
    np.testing.assert_allclose(scores["score"].to_numpy(), expected, atol=1e-5)


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
def test_the_server_says_what_it_is(server: Server, versions: tuple[str, str]) -> None:
    model = server.client.get("/model").json()
    assert model["version"] == versions[0] and model["gate"]["pair_order"] == 1
    assert {"name": "timestamp_ms", "dtype": "int64", "axis": "requests", "width": None, "count": False} in model[
        "inputs"
    ]
    assert server.client.get("/live").json() == {"live": True}
    before = server.metric("easq_answer_seconds_count")
    server.score({})
    assert server.metric("easq_answer_seconds_count") == before + 1
    assert server.metric("easq_packages_served_total") == 1


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
                seen.append(found["version"])
                np.testing.assert_allclose(found["scores"], scores[found["version"]], atol=1e-5)

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
        return True

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(answered, number) for number in range(40)]
        time.sleep(0.2)
        assert server.stop() == 0
        assert any(call.result() for call in calls)


@pytest.mark.integration
def test_what_cannot_be_served_is_one_line(server: Server, packages: Path, call: Call, tmp_path: Path) -> None:
    port = str(server.client.base_url).rsplit(":", 1)[1].strip("/")
    for words, message in (
        ((packages, "--port", port), "cannot listen there: Address already in use"),
        ((tmp_path,), "holds no package: current.json is missing or torn"),
        ((tmp_path / "nothing",), "no such directory"),
        ((packages, "--port", "70000"), "--port=70000 is not allowed: 0 to 65535"),
        ((packages, "--watch-ms", "0"), "--watch-ms=0 is not allowed: at least 1"),
    ):
        done = call("serve", *words, code=2)
        assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_an_error_has_the_form_that_clients_read() -> None:
    from easq_rec.serving.server.app import _problem

    answer = _problem(503, "busy", {"Retry-After": "1"})
    assert json.loads(bytes(answer.body)) == {"error": "busy"} and answer.headers["retry-after"] == "1"
