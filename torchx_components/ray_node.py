"""One node of the Ray cluster of `easq.sweep`: `python -m torchx_components.ray_node ... -- STUDY --out DIR`.

Node 0 starts the head of the cluster, waits for the other nodes, runs `easq-rec study ... --ray` there, and stops the
head. The other nodes join, and leave when the head is gone. Every node stops only the processes that it started, so
several clusters may share a host.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

HEAD_S = 300.0
"""How long a node waits for the head."""
JOIN_S = 120.0
"""How long the head waits for the other nodes. Later ones may still join."""
STOP_S = 30.0
"""How long a process may take to end after SIGTERM."""
POLL_S = 2.0
MISSED = 3
"""Failed connections in a row after which the head counts as gone."""
STARTS = 5
"""How often a node joins before it gives up."""
OBJECT_STORE_BYTES = 100_000_000
"""Memory of Ray's objects per node. Results of cells are small, and /dev/shm of a container often is."""
SETTINGS = {
    # A study reports nothing to Ray's authors.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Otherwise a node that is stopped waits half a minute for a head that is gone.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
}
TOKEN = ".ray-token"
"""File in the directory of the study with the secret that the nodes share."""
RAY = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block")


def main(argv: list[str]) -> int:
    """Returns the exit code: that of the study on node 0, 0 on the other nodes."""
    options = parsed(argv)
    # A signal ends the job through the `finally` clauses below.
    signal.signal(signal.SIGTERM, leave)
    os.environ |= SETTINGS
    if "RAY_AUTH_TOKEN" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": shared_token(options.out)}
    return run_study(options) if options.replica == 0 else serve(options)


def parsed(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ray_node", allow_abbrev=False)
    parser.add_argument("--replica", type=int, required=True, help="number of this node")
    parser.add_argument("--nodes", type=int, required=True, help="number of all nodes")
    parser.add_argument("--head", required=True, help="host of node 0")
    parser.add_argument("--port", type=int, required=True, help="port of the head")
    parser.add_argument("--cpus", type=int, required=True, help="CPUs of this node")
    parser.add_argument("--gpus", type=int, required=True, help="GPUs of this node")
    parser.add_argument("study", nargs="+", help="arguments of easq-rec study")
    options = parser.parse_args(argv)
    study = argparse.ArgumentParser(allow_abbrev=False)
    study.add_argument("--out", type=Path, required=True)
    options.out = study.parse_known_args(options.study)[0].out
    return options


def run_study(options: argparse.Namespace) -> int:
    """Runs the study on a cluster of which this node is the head; returns its exit code."""
    address = f"127.0.0.1:{options.port}"
    how = ["--head", "--port", str(options.port), "--include-dashboard", "false"]
    with started([*RAY, *how, *sizes(options)]) as head:
        until(lambda: head.poll() is not None or answers("127.0.0.1", options.port), HEAD_S)
        if head.poll() is not None:
            print(f"ray start --head failed with exit code {head.returncode}", file=sys.stderr)
            return 1
        await_nodes(address, options.nodes)
        # A job that is started again continues its study.
        study = [sys.executable, "-m", "easq_rec.cli", "study", *options.study, "--resume", "--ray", address]
        with started(study) as process:
            return process.wait()


def serve(options: argparse.Namespace) -> int:
    """Runs the tasks of the head until it is gone; returns 0.

    The exit code of the head tells what became of the study. A node that fails must not end it: some schedulers stop
    the whole job at the first exit code other than 0.
    """
    if not until(lambda: answers(options.head, options.port), HEAD_S):
        print(f"node {options.replica}: no head at {options.head}:{options.port} after {HEAD_S:.0f} s", file=sys.stderr)
        return 0
    for _ in range(STARTS):
        with started([*RAY, "--address", f"{options.head}:{options.port}", *sizes(options)]) as node:
            missed = 0
            while node.poll() is None and missed < MISSED:
                time.sleep(POLL_S)
                missed = 0 if answers(options.head, options.port) else missed + 1
        if not until(lambda: answers(options.head, options.port), POLL_S):
            break
        print(f"node {options.replica}: ray ended with exit code {node.returncode}; it joins again", file=sys.stderr)
    return 0


def sizes(options: argparse.Namespace) -> list[str]:
    return [
        *("--num-cpus", str(options.cpus), "--num-gpus", str(options.gpus)),
        *("--object-store-memory", str(OBJECT_STORE_BYTES)),
        # Any free port: by default all nodes of a host choose from one range.
        *("--min-worker-port", "0", "--max-worker-port", "0"),
    ]


def await_nodes(address: str, count: int) -> None:
    """Waits until the cluster has so many nodes: a short study must not end before a node has found its head."""
    import ray

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    try:
        if not until(lambda: sum(node["Alive"] for node in ray.nodes()) >= count, JOIN_S):
            print(f"fewer than {count} nodes joined within {JOIN_S:.0f} s: the study starts", flush=True)
    finally:
        ray.shutdown()
        # Ray sets handlers of its own.
        signal.signal(signal.SIGTERM, leave)


def shared_token(out: Path) -> str:
    """The secret of the cluster, in a file that the first node creates and only this user reads.

    The environment of a job would show it: schedulers print it, and some pass it on a command line.
    """
    out.mkdir(parents=True, exist_ok=True)
    own = out / f"{TOKEN}.{socket.gethostname()}.{os.getpid()}"
    with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    # A link appears with its whole content, and only one node succeeds.
    with contextlib.suppress(FileExistsError):
        os.link(own, out / TOKEN)
    own.unlink()
    return (out / TOKEN).read_text()


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the context."""
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(condition: Callable[[], bool], limit_s: float) -> bool:
    """Waits for a condition; returns whether it became true in time."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(min(POLL_S, 0.5))
    return True


def answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
