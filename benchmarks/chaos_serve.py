"""Does a server keep every promise while everything around it fails?

    python -m benchmarks.chaos_serve --packages DIR [--swaps 200] [--bodies 10000] [--seed 0] [--out FILE]

Copies the current package of DIR (written by `easq-rec export`) and makes a second version of it with other weights.
Then it serves them in two processes, and while clients call without a pause it

- names the other version, again and again, and between them packages that are torn, truncated, of a wrong shape, or
  that score their golden requests differently;
- kills processes;
- opens connections that send slowly, stop in the middle, or send what is no HTTP;
- calls from ten times as many connections as may wait;
- sends bodies that are damaged.

Every answer must have the scores of the version that it names. A call may fail only with the process that it was sent
to, when that was killed. After each disturbance the server must answer as before, without help. Prints one JSON line,
and ends with 1 if anything was otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save

from benchmarks.report import hardware, publish
from benchmarks.serve import ready_port
from easq_rec.export.manifest import DENSE, GOLDEN, Manifest
from easq_rec.export.package import Package, read_golden, sums, write_golden
from easq_rec.export.versions import current_of, set_current

CLIENTS = 4
WITHIN = 1e-5
BAD = ("torn", "truncated", "shape", "golden", "manifest")
MOST_WAITING = 24
WAIT_S = 120
"""Seconds in which the server must have recovered."""


@dataclass(kw_only=True)
class Promises:
    """What was seen."""

    answered: int = 0
    wrong: int = 0
    """Scores that are not those of the version, and answers that are none."""
    failed: int = 0
    """Calls without an answer although no process was killed."""
    lost_with_process: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    """Of overload and damaged bodies."""
    swap_ms: list[float] = field(default_factory=list)
    kills: int = 0


class Chaos:
    """A server, its packages, and what is known about them."""

    def __init__(self, folder: Path, packages: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.packages = folder / "packages"
        self.packages.mkdir()
        shutil.copytree(current_of(packages), self.packages / "a")
        other_weights(self.packages / "a", self.packages / "b")
        for kind in BAD:
            spoil(self.packages / "b", self.packages / kind, kind)
        set_current(self.packages, "a")
        manifest = Manifest.read(self.packages / "a")
        golden = {name: read_golden(manifest.inputs, self.packages / name) for name in ("a", "b")}
        self.scores = {name: scores.numpy() for name, (_, scores) in golden.items()}
        assert np.abs(self.scores["a"] - self.scores["b"]).max() > 100 * WITHIN
        named = zip(manifest.inputs, golden["a"][0], strict=True)
        self.values = {one.name: column.tolist() for one, column in named if not one.name.endswith("_slots")}
        self.body = json.dumps(self.values).encode()
        self.seen = Promises()
        self.port = 0
        self.killing = False

    async def load(self, stop: asyncio.Event) -> None:
        """Calls without a pause, on one connection after the other."""
        while not stop.is_set():
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    while not stop.is_set():
                        kills = self.seen.kills
                        try:
                            self.check(*await ask(reader, writer, self.body))
                        except (OSError, asyncio.IncompleteReadError) as error:
                            if self.killing or kills != self.seen.kills:
                                self.seen.lost_with_process += 1
                            else:
                                self.fail(error)
                            raise
                finally:
                    writer.close()

    def fail(self, error: BaseException) -> None:
        """A call has no answer."""
        self.seen.failed += 1
        print(f"no answer: {error!r}", file=sys.stderr)

    def check(self, status: int, content: bytes) -> None:
        """An answer that must be good, or a refusal for lack of time."""
        if status in (503, 504):
            self.seen.statuses[status] += 1
            return
        found = json.loads(content) if status == 200 else {}
        expected = self.scores.get(found.get("versions", {}).get("first", ""))
        scores = np.array(found.get("scores", []))
        good = expected is not None and scores.shape == expected.shape and np.abs(scores - expected).max() <= WITHIN
        self.seen.answered += 1
        if not good:
            self.seen.wrong += 1
            print(f"wrong: {status} {content[:200]!r}", file=sys.stderr)

    async def swaps(self, count: int, server: subprocess.Popen[str]) -> None:
        """Names other versions; every fifth time a bad package comes between, every twentieth a process is killed."""
        for number in range(count):
            if number % 5 == 4:
                set_current(self.packages, self.rng.choice(BAD))
                await asyncio.sleep(0.3)
            if number % 20 == 19:
                await self.kill(server)
            name = "b" if number % 2 == 0 else "a"
            begin = time.monotonic()
            set_current(self.packages, name)
            await self.until(name)
            self.seen.swap_ms.append(1e3 * (time.monotonic() - begin))

    async def until(self, name: str) -> None:
        """Waits until new connections meet a version, several times in a row: there are two processes."""
        end, met = time.monotonic() + WAIT_S, 0
        while met < 4:
            assert time.monotonic() < end, f"version {name} never served"
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                status, content = await ask(reader, writer, b"", "GET /ready")
                writer.close()
                met = met + 1 if status == 200 and json.loads(content)["versions"]["first"] == name else 0
            await asyncio.sleep(0.005)

    async def kill(self, server: subprocess.Popen[str]) -> None:
        """Kills a process, and waits until there are two again."""
        self.killing = True
        killed = self.rng.choice(workers(server))
        os.kill(killed, signal.SIGKILL)
        self.seen.kills += 1
        end = time.monotonic() + WAIT_S
        while killed in (now := workers(server)) or len(now) < 2:
            assert time.monotonic() < end, "a killed process was not started again"
            await asyncio.sleep(0.05)
        self.killing = False

    async def bad_clients(self, stop: asyncio.Event) -> int:
        """Connections that are slow, that end in the middle, and that do not speak HTTP; returns their number."""
        count = 0
        while not stop.is_set():
            count += 1
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                head = f"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: {len(self.body)}\r\n\r\n".encode()
                match count % 3:
                    case 0:
                        writer.write(head)
                        for byte in self.body[:20]:
                            writer.write(bytes([byte]))
                            await asyncio.sleep(0.02)
                    case 1:
                        writer.write(head + self.body[: len(self.body) // 2])
                    case 2:
                        writer.write(self.rng.randbytes(200))
                await asyncio.sleep(0.02)
                writer.close()
        return count

    async def overload(self, connections: int) -> None:
        """Calls at once from many connections. Each is answered, refused, or too late."""

        async def one() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            self.check(*await ask(reader, writer, self.body))
            writer.close()

        for problem in await asyncio.gather(*(one() for _ in range(connections)), return_exceptions=True):
            if isinstance(problem, BaseException):
                self.fail(problem)

    async def damaged(self, count: int) -> None:
        """Damaged bodies: they are refused, or happen to be good."""
        reader = writer = None
        for number in range(count):
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            assert reader is not None
            kind = "application/json" if number % 4 else "application/vnd.apache.arrow.stream"
            try:
                status, _ = await ask(reader, writer, damage(self.body, self.rng), kind=kind)
                self.seen.statuses[status] += 1
            except (OSError, asyncio.IncompleteReadError) as error:
                self.fail(error)
                writer = None
        if writer is not None:
            writer.close()


async def ask(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    body: bytes,
    line: str = "POST /score",
    kind: str = "application/json",
) -> tuple[int, bytes]:
    """(status, content) of an answer."""
    head = f"{line} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
    length = re.search(rb"content-length: (\d+)", answer)
    assert length is not None, answer
    return int(answer.split(b" ", 2)[1]), await reader.readexactly(int(length[1]))


def damage(body: bytes, rng: random.Random) -> bytes:
    """A body with some bytes changed, removed or added."""
    found = bytearray(body)
    for _ in range(rng.choice((1, 2, 10))):
        at = rng.randrange(len(found))
        match rng.randrange(4):
            case 0:
                found[at] = rng.randrange(256)
            case 1:
                del found[at : at + rng.randrange(1, 2_000)]
            case 2:
                found[at:at] = rng.choice((b"9", b"-", b"[", b'"', b"\x00", b"e999", b"null", b"1e39", b"true"))
            case 3:
                found[at:at] = b"9" * rng.randrange(1, 400)
        found = found or bytearray(b"{")
    return bytes(found)


def other_weights(source: Path, target: Path) -> None:
    """A version with other weights, complete with scores and checksums."""
    shutil.copytree(source, target)
    dense = {
        name: value * 1.1 if value.is_floating_point() else value for name, value in load_file(target / DENSE).items()
    }
    (target / DENSE).write_bytes(save(dense))
    renewed(target)


def renewed(folder: Path) -> None:
    """Writes a package's golden scores and checksums again, for what its files are now."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = sums(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    package = Package(folder, verify=False)
    columns, _ = read_golden(package.manifest.inputs, folder)
    write_golden(package.manifest.inputs, columns, package(columns), folder)
    manifest["files"] = sums(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def spoil(source: Path, target: Path, kind: str) -> None:
    """A package that must be refused."""
    shutil.copytree(source, target)
    table = next((target / "tables").iterdir())
    match kind:
        case "torn":
            next((target / "code").iterdir()).unlink()
        case "truncated":
            content = table.read_bytes()
            table.write_bytes(content[: len(content) // 2])
        case "shape":
            array = np.load(table)
            np.save(table, array[:-1])
        case "golden":
            columns, scores = read_golden(Manifest.read(target).inputs, target)
            (target / GOLDEN).unlink()
            write_golden(Manifest.read(target).inputs, columns, scores + 1, target)
        case "manifest":
            (target / "manifest.json").write_text("{")
    if kind in ("shape", "golden"):
        manifest = json.loads((target / "manifest.json").read_text())
        manifest["files"] = sums(target)
        (target / "manifest.json").write_text(json.dumps(manifest))


def workers(server: subprocess.Popen[str]) -> list[int]:
    """The processes that serve."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    found = []
    for pid in children:
        with contextlib.suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found


async def disturb(chaos: Chaos, server: subprocess.Popen[str], args: argparse.Namespace) -> int:
    """All disturbances; returns the number of bad clients."""
    await chaos.until("a")
    stop = asyncio.Event()
    loads = [asyncio.create_task(chaos.load(stop)) for _ in range(CLIENTS)]
    bad = asyncio.create_task(chaos.bad_clients(stop))
    await chaos.swaps(args.swaps, server)
    await chaos.overload(10 * MOST_WAITING)
    before = workers(server)
    await chaos.damaged(args.bodies)
    assert workers(server) == before, "a process ended with a damaged body"
    stop.set()
    await asyncio.gather(*loads)
    await chaos.overload(1)
    return await bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--swaps", type=int, default=200)
    parser.add_argument("--bodies", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as temp:
        chaos = Chaos(Path(temp), args.packages, args.seed)
        command = [sys.executable, "-m", "easq_rec.cli", "serve", str(chaos.packages), "--port", "0"]
        command += [
            "--processes",
            "2",
            "--watch-ms",
            "20",
            "--most-waiting",
            str(MOST_WAITING),
            "--deadline-ms",
            "5000",
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (
            (Path(temp) / "stderr").open("w") as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as server,
            contextlib.ExitStack() as stack,
        ):
            stack.callback(server.kill)
            chaos.port = ready_port(server)
            bad_clients = asyncio.run(disturb(chaos, server, args))
            server.send_signal(signal.SIGTERM)
            code = server.wait(60)
    seen = chaos.seen
    allowed = {200, 400, 413, 503, 504}
    kept = not (seen.wrong or seen.failed or code or set(seen.statuses) - allowed)
    result: dict[str, object] = {"benchmark": "chaos_serve", "swaps": args.swaps, "kills": seen.kills}
    result |= {"answered": seen.answered, "wrong": seen.wrong, "failed": seen.failed}
    result |= {"lost_with_a_killed_process": seen.lost_with_process, "bad_clients": bad_clients}
    result |= {"damaged_bodies": args.bodies, "statuses": dict(sorted(seen.statuses.items())), "exit_code": code}
    middle, most = np.percentile(seen.swap_ms, [50, 99]).round(1).tolist()
    result |= {"swap_ms_p50": middle, "swap_ms_p99": most, "seconds": round(time.monotonic() - begin, 1), "kept": kept}
    publish({**result, **hardware()}, args.out)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
