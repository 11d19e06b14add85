"""The nodes of a sweep's Ray cluster. `test_easq.py` runs a sweep with two of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ray_processes import servers
from tests.tools.studies.builders import wait_for
from torchx_components import ray_node

REPOSITORY = Path(__file__).parents[2]


def test_all_nodes_find_the_same_secret_and_only_this_user_reads_it(tmp_path: Path) -> None:
    out = tmp_path / "not" / "there yet"
    nodes = [subprocess.Popen([sys.executable, "-c", SECRET, str(out)], stdout=subprocess.PIPE, cwd=REPOSITORY)
             for _ in range(4)]  # fmt: skip
    found = {node.communicate(timeout=60)[0] for node in nodes}
    assert len(found) == 1 and len(found.pop()) == 64
    assert [path.name for path in out.iterdir()] == [ray_node.TOKEN]
    assert (out / ray_node.TOKEN).stat().st_mode & 0o777 == 0o600
    assert ray_node.shared_token(tmp_path) != ray_node.shared_token(out)


SECRET = "import sys; from pathlib import Path; from torchx_components.ray_node import shared_token; " \
    "print(shared_token(Path(sys.argv[1])), end='')"  # fmt: skip


@pytest.mark.parametrize("out", [["--out", "a b"], ["--out=a b"]])
def test_the_directory_of_the_study_is_found_among_its_arguments(out: list[str]) -> None:
    options = ray_node.parsed([*node(1, 6400)[3:-4], "--", "rank", "--seeds", "2", *out])
    assert options.out == Path("a b") and options.study == ["rank", "--seeds", "2", *out]


def test_a_node_without_a_head_leaves(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(ray_node, "HEAD_S", 0.2)
    port = unused_port()
    assert ray_node.serve(ray_node.parsed(node(1, port)[3:])) == 0
    assert f"node 1: no head at 127.0.0.1:{port} after 0 s" in capsys.readouterr().err


def test_processes_end_with_their_context() -> None:
    with ray_node.started([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        assert process.poll() is None
    assert process.returncode == -signal.SIGTERM


def node(replica: int, port: int, out: str = "o") -> list[str]:
    where = ["--replica", str(replica), "--nodes", "2", "--head", "127.0.0.1", "--port", str(port)]
    return [sys.executable, "-m", "torchx_components.ray_node", *where, "--cpus", "1", "--gpus", "0",
            "--", "rank", "--out", out]  # fmt: skip


def unused_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.integration
def test_a_head_that_is_stopped_ends_its_study_and_its_cluster(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="sweeps need the package ray (extra `cluster`)")
    words = [*node(0, unused_port())[3:-4], "--nodes", "1", "--", "rank", "--budget", "small", "--out", "out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "torchx_components.ray_node", *words]
    with (tmp_path / "log").open("w") as log:
        head = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: "cells, on Ray 127.0.0.1:" in (tmp_path / "log").read_text())
        token = (tmp_path / "out" / ray_node.TOKEN).read_text()
        assert servers(token)
        head.send_signal(signal.SIGTERM)
        assert head.wait(timeout=60) == 128 + signal.SIGTERM
        assert not servers(token)
    finally:
        head.kill()
        head.wait()
