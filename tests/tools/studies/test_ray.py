"""Studies on Ray: real clusters on this machine, which run stand-ins of cells.

`tests/launch/test_easq.py` trains real cells on a cluster, and compares them with those of local processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from easq_rec.errors import UserError
from easq_rec.tools.studies import ray_runner, ray_tasks
from tests.ray_processes import servers
from tests.tools.studies.builders import cells, is_running, started, wait_for

ray_is_missing = "studies on Ray need the package ray (extra `cluster`)"
REPOSITORY = Path(__file__).parents[3]
PROGRAM = """
import json, sys
from pathlib import Path
from easq_rec.errors import exit_code
from easq_rec.tools.studies.ray_runner import RayRunner
from easq_rec.tools.studies.store import opened
from tests.ray_processes import servers
from tests.tools.studies.builders import PROGRAM, cells

def main():
    out, data, address, *weights = sys.argv[1:]
    with opened(Path(out), study="test", budget="small", resume=True) as store:
        runner = RayRunner(store, address=address, jobs=1, program=PROGRAM)
        runs, failed = runner.run(cells(Path(data), *map(float, weights)))
    print(json.dumps([{run.cell.name: run.metrics["satisfaction_ndcg5"] for run in runs}, failed]))
    return 0

sys.exit(exit_code(main))
"""
"""Runs stand-ins of cells, because these wait until a test has killed a process."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of every process: one thread, and a token of this module, which Ray would otherwise write to HOME."""
    pytest.importorskip("ray", reason=ray_is_missing)
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@pytest.fixture(scope="module")
def cluster(environment: dict[str, str]) -> Iterator[str]:
    """The address of a cluster with one node and three CPUs, which are not bound to cores."""
    port, client = unused_ports(2)
    options = ["--head", "--block", "--port", str(port), "--ray-client-server-port", str(client)]
    options += ["--num-cpus", "3", "--include-dashboard", "false"]
    head = subprocess.Popen(
        [str(Path(sys.executable).with_name("ray")), "start", *options, "--object-store-memory", "100000000"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=REPOSITORY,
    )
    try:
        wait_for(lambda: answers(port))
        assert len(servers(environment["RAY_AUTH_TOKEN"])) >= 1
        yield f"127.0.0.1:{port}"
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(timeout=60)
        wait_for(lambda: not servers(environment["RAY_AUTH_TOKEN"]))


def unused_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def start(environment: dict[str, str], *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[dict[str, float], list[str], str]:
    """Results and failures of a study that ended well, and its output."""
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output + errors
    found, failed = json.loads(output.splitlines()[-1])
    return found, failed, output


@pytest.mark.integration
def test_local_starts_a_cluster_for_the_time_of_the_study(
    tmp_path: Path, data: Path, environment: dict[str, str]
) -> None:
    (data / "go").touch()
    own = environment | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    found, failed, said = ended(start(own, tmp_path / "out", data, "local", 1.0))
    assert found == {"main_only--seed_0": 0.5, "dense_1--seed_0": 0.6} and not failed
    assert "2/2 " in said and "seed 0: satisfaction ." in said
    wait_for(lambda: not servers(own["RAY_AUTH_TOKEN"]))


@pytest.mark.integration
def test_cells_whose_worker_or_process_dies_are_tried_again(
    tmp_path: Path, data: Path, environment: dict[str, str], cluster: str
) -> None:
    study = start(environment, tmp_path / "out", data, cluster, 1.0, 2.0)
    wait_for(lambda: (data / "started").exists() and len(started(data)) == 3)
    (trained,), (other,) = started(data)["dense_1--seed_0"], started(data)["dense_2--seed_0"]
    worker = parent(trained)
    os.kill(worker, signal.SIGKILL)
    os.kill(other, signal.SIGKILL)
    wait_for(lambda: [len(pids) for _, pids in sorted(started(data).items())] == [2, 2, 1])
    # The process of a dead worker ends with it.
    wait_for(lambda: not is_running(trained))
    (data / "go").touch()
    found, failed, _ = ended(study)
    assert found == {"main_only--seed_0": 0.5, "dense_1--seed_0": 0.6, "dense_2--seed_0": 0.7} and not failed
    again, _, said = ended(start(environment, tmp_path / "out", data, cluster, 1.0, 2.0))
    assert again == found and "3 of 3 cells are already finished" in said


@pytest.mark.integration
def test_a_cell_that_fails_is_not_tried_again(
    tmp_path: Path, data: Path, environment: dict[str, str], cluster: str
) -> None:
    (data / "go").touch()
    found, failed, said = ended(start(environment, tmp_path / "out", data, cluster, 13.0, 1.0))
    assert set(found) == {"main_only--seed_0", "dense_1--seed_0"} and failed == ["dense_13--seed_0"]
    assert "dense 13 seed 0: failed with exit code 3; the end of" in said and "\n    the table is gone" in said
    assert [len(pids) for _, pids in sorted(started(data).items())] == [1, 1, 1]


@pytest.mark.integration
def test_cells_of_a_killed_study_end(tmp_path: Path, data: Path, environment: dict[str, str], cluster: str) -> None:
    killed = start(environment, tmp_path / "out", data, cluster, 1.0)
    wait_for(lambda: (tmp_path / "out" / "cells" / "main_only--seed_0.json").exists() and len(started(data)) == 2)
    killed.kill()
    killed.communicate()
    (orphan,) = started(data)["dense_1--seed_0"]
    wait_for(lambda: not is_running(orphan))
    (data / "go").touch()
    found, _, said = ended(start(environment, tmp_path / "out", data, cluster, 1.0))
    assert len(found) == 2 and "1 of 2 cells are already finished" in said


@pytest.mark.integration
def test_a_worker_that_does_not_see_the_directory_is_named(
    tmp_path: Path, data: Path, environment: dict[str, str], cluster: str
) -> None:
    """The driver writes to a file system that only its own mount namespace has, as a driver on another host does."""
    out = tmp_path / "out"
    out.mkdir()
    private = ["unshare", "--mount", "--map-root-user"]
    if subprocess.run([*private, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system does not let a test mount a file system of its own")
    mounted = ["sh", "-c", f'mount -t tmpfs none "{out}" && exec "$@"', "sh"]
    done = subprocess.run(
        [*private, *mounted, sys.executable, "-c", PROGRAM, str(out), str(data), cluster, "1.0"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("easq-rec: ")]
    assert done.returncode == 2 and f"--out {out}: node {socket.gethostname()} of the Ray cluster" in error
    assert error.endswith("does not see this directory: choose one on storage that all nodes share")


def test_a_task_refuses_a_directory_of_another_study(tmp_path: Path, data: Path) -> None:
    (tmp_path / ".lock").write_text("process 1 on here a\n")
    for writer in ("process 1 on here b\n", ""):
        with pytest.raises(UserError, match="does not see this directory"):
            ray_tasks.run_cell(str(tmp_path), writer, cells(data)[0], str(data), 0.0)


def test_an_address_without_a_cluster_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason=ray_is_missing)
    (port,) = unused_ports(1)
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        with pytest.raises(UserError, match=r"no cluster answers .* start one with `ray start --head`"):
            ray_runner.require_cluster(address)
    with monkeypatch.context() as patch:
        patch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        with pytest.raises(UserError, match=rf"--ray 127.0.0.1:{port}: no cluster answers"):
            ray_runner.require_cluster("auto")
    for address in ("somewhere", "host:port", ":1"):
        with pytest.raises(UserError, match=r"is not allowed: local, auto, HOST:PORT or ray://HOST:PORT"):
            ray_runner.require_cluster(address)


def test_without_ray_the_error_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_runner.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--ray auto needs the package ray: pip install 'easq-rec\[cluster\]'"):
        ray_runner.require_cluster("auto")


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
