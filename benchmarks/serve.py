"""How much does `easq-rec serve` answer, how fast, and what does a request cost?

    python -m benchmarks.serve --packages DIR [--seconds 10] [--connections 1 8] [--candidates 12 100]
        [--forms json arrow] [--processes 1] [--out FILE]

Starts a server on the loopback interface for a directory of `easq-rec export`. Clients hold connections open and send
the next request when they have the answer, one request with random ids each. The CPU time is that of all processes of
the server; the clients share the cores with it, so rates are those of a machine that also runs its load. Every answer
must have as many scores as candidates.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.report import hardware, publish
from easq_rec.export.manifest import Manifest
from easq_rec.export.versions import current_of

NOW_MS = 1_767_225_600_000
BODIES = 50
"""Different requests, sent in turn."""
KINDS = {"json": "application/json", "arrow": "application/vnd.apache.arrow.stream"}
TICKS = os.sysconf("SC_CLK_TCK")


def body_of(manifest: Manifest, rng: np.random.Generator, candidates: int, form: str) -> bytes:
    """A call with one request, with the longest history."""
    values = values_of(manifest, rng, candidates)
    if form == "json":
        return json.dumps(values).encode()
    dtypes = {one.name: pa.int64() if one.dtype == "int64" else pa.float32() for one in manifest.inputs}
    for one in manifest.inputs:
        if one.width is not None:
            dtypes[one.name] = pa.list_(dtypes[one.name], one.width)
    lists = {name: pa.array([column], pa.list_(dtypes[name])) for name, column in values.items()}
    table, sink = pa.table(lists), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def values_of(manifest: Manifest, rng: np.random.Generator, candidates: int) -> dict[str, Any]:
    """The columns of such a call."""
    sizes = {"requests": 1, "history": manifest.max_history, "candidates": candidates}
    values: dict[str, Any] = {}
    for one in manifest.inputs:
        if one.name.endswith("_slots"):
            continue
        if one.name.startswith("lengths:"):
            axis = one.name.removeprefix("lengths:")
            length = sizes.get(axis, 2)
            values[one.name] = [length] * sizes[one.axis]
            sizes[axis] = length * sizes[one.axis]
            continue
        rows = sizes[one.axis]
        if one.count:
            shown = rng.integers(0, 100, rows)
            values[one.name] = np.stack([shown, shown * rng.random(rows), rng.random(rows)], 1).round(4).tolist()
        elif one.name.endswith("timestamp_ms"):
            values[one.name] = (NOW_MS - 60_000 * np.arange(rows)[::-1]).tolist()
        elif one.dtype == "int64":
            values[one.name] = rng.integers(0, manifest.bounds.get(one.name, 2**40), rows).tolist()
        else:
            shape = (rows,) if one.width is None else (rows, one.width)
            values[one.name] = rng.random(shape).round(4).tolist()
    return values


def scores_in(content: bytes, form: str) -> int:
    """Number of scores in an answer."""
    return len(json.loads(content)["scores"]) if form == "json" else pa.ipc.open_stream(content).read_all().num_rows


async def client(port: int, bodies: list[bytes], form: str, candidates: int, end: float, took: list[float]) -> None:
    """Sends requests on one connection until `end`, and notes the seconds of each."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    number = 0
    while time.monotonic() < end:
        body = bodies[number % len(bodies)]
        number += 1
        begin = time.perf_counter()
        head = f"POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: {KINDS[form]}\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer)
        assert answer.startswith(b"HTTP/1.1 200") and length is not None, answer
        content = await reader.readexactly(int(length[1]))
        took.append(time.perf_counter() - begin)
        assert scores_in(content, form) == candidates, content
    writer.close()


def ready_port(server: subprocess.Popen[str]) -> int:
    """Waits until a server answers; returns its port."""
    assert server.stdout is not None
    found = re.search(r":(\d+)(?: in \d+ processes)?$", server.stdout.readline().strip())
    assert found is not None, "the server did not start"
    with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/ready", timeout=60) as answer:
        assert answer.status == 200
    return int(found[1])


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its children, user and system."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pids = [pid, *map(int, children)]
    fields = [Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split() for one in pids]
    return sum(int(one[11]) + int(one[12]) for one in fields) / TICKS


async def load(
    port: int, pid: int, bodies: list[bytes], *, form: str, candidates: int, connections: int, seconds: float
) -> dict[str, Any]:
    """A row of the result."""
    end = time.monotonic() + 1
    await asyncio.gather(*(client(port, bodies, form, candidates, end, []) for _ in range(connections)))
    took: list[float] = []
    before, begin = cpu_seconds(pid), time.monotonic()
    end = begin + seconds
    await asyncio.gather(*(client(port, bodies, form, candidates, end, took) for _ in range(connections)))
    wall, cpu = time.monotonic() - begin, cpu_seconds(pid) - before
    ms = np.array(took) * 1e3
    return {
        "form": form,
        "candidates": candidates,
        "connections": connections,
        "requests": len(took),
        "requests_per_s": round(len(took) / wall, 1),
        "p50_ms": round(float(np.percentile(ms, 50)), 3),
        "p99_ms": round(float(np.percentile(ms, 99)), 3),
        "server_cpu_ms_per_request": round(1e3 * cpu / len(took), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--candidates", type=int, nargs="+", default=[12, 100])
    parser.add_argument("--forms", nargs="+", choices=tuple(KINDS), default=["json", "arrow"])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    manifest, rng = Manifest.read(current_of(args.packages)), np.random.default_rng(0)
    command = [sys.executable, "-m", "easq_rec.cli", "serve", str(args.packages), "--port", "0"]
    command += ["--processes", str(args.processes)]
    begin = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server,
        contextlib.ExitStack() as stack,
    ):
        # However this ends, the server does not outlive it.
        stack.callback(server.kill)
        port = ready_port(server)
        ready = time.monotonic() - begin
        rows = []
        for form, candidates in itertools.product(args.forms, args.candidates):
            bodies = [body_of(manifest, rng, candidates, form) for _ in range(BODIES)]
            for connections in args.connections:
                how = {"form": form, "candidates": candidates, "connections": connections, "seconds": args.seconds}
                rows.append(asyncio.run(load(port, server.pid, bodies, **how)))
        server.send_signal(signal.SIGTERM)
        code = server.wait()
    result: dict[str, object] = {"benchmark": "serve", "recipe": manifest.recipe, "processes": args.processes}
    result["ready_s"] = round(ready, 2)
    publish({**result, "exit_code": code, "rows": rows, **hardware()}, args.out)


if __name__ == "__main__":
    main()
