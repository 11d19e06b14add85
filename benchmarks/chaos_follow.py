"""Does continuous training learn from every request exactly once, however often it is killed?

A job trains on a folder into which files are committed while it runs. It is killed with SIGKILL at random moments, the
whole job or one worker, and starts again on one or two ranks. Training that a later start took back does not count:
what remains must have every request exactly once. Then the same on a folder that is complete from the start, at one
number of ranks: the last checkpoint must equal that of an undisturbed run, bit for bit. Prints one JSON line.

    python -m benchmarks.chaos_follow [--kills 100] [--exact 20] [--seed 0] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import torch

from benchmarks.chaos import tensors, workers
from benchmarks.report import hardware, publish
from easq_rec.config import World
from easq_rec.run_directory.checkpoint_files import latest_of
from easq_rec.tools.simulation.world import generate

REPOSITORY = Path(__file__).parents[1]
WORLD = World(requests=2_400, users=200, videos=400, density=500.0)
FILE, ROW_GROUP = 100, 32
"""Requests of a file and of a row group."""
BATCH, EVERY = 16, 3
"""Requests per step and rank; steps between checkpoints."""
COMMIT_S = 0.2
"""Time between two files."""
KILL_S = (0.5, 12.0)
"""Shortest and longest time between the start of a job and its kill: some hit the start, most hit training."""
LONGEST_S = 600


@dataclass(kw_only=True)
class Outcome:
    """What was done to a run, and what was found."""

    kills: Counter[str] = field(default_factory=Counter)
    starts: Counter[int] = field(default_factory=Counter)
    """By number of ranks."""
    lost: int = 0
    repeated: int = 0
    taken_back: int = 0
    """Requests of steps that a later start has taken back."""
    seconds: float = 0.0


def start(live: Path, run_dir: Path, records: Path, ranks: int, log: Path) -> subprocess.Popen[bytes]:
    """Starts the job in a new process group, so that all of its processes can be killed."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks), "--max_restarts", "100"]
    command = [
        sys.executable, *launcher, "benchmarks/follow_worker.py", str(records), "quickstart", "--follow", str(live),
        "--run-dir", str(run_dir), "--follow.stop-when-idle-seconds", "4", "--follow.wait-seconds", "1.5",
        "--follow.poll-seconds", "0.05", "--trainer.batch-size", str(BATCH), "--trainer.threads", "1",
        "--checkpoint.every-steps", str(EVERY), "--logging.every-steps", "10", "--logging.tensorboard", "False",
        "--losses.warmup-steps", "5",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with log.open("ab") as output:
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=output, stderr=output, start_new_session=True
        )


def cut(data: Path, out: Path) -> None:
    """Writes the requests of a world as small files, and its answers as one."""
    (out / "requests").mkdir(parents=True)
    table = pq.read_table(data / "requests")
    for number, begin in enumerate(range(0, len(table), FILE)):
        pq.write_table(table.slice(begin, FILE), out / "requests" / f"{number:05d}.parquet", row_group_size=ROW_GROUP)
    shutil.copytree(data / "answers", out / "answers")


@contextlib.contextmanager
def committing(complete: Path, live: Path) -> Iterator[None]:
    """Commits the files one by one while the block runs."""
    (live / "requests").mkdir(parents=True)
    shutil.copytree(complete / "answers", live / "answers")
    over = threading.Event()

    def commit() -> None:
        for file in sorted((complete / "requests").iterdir()):
            if over.wait(COMMIT_S):
                return
            partial = live / "requests" / f".{file.name}"
            shutil.copy(file, partial)
            partial.rename(live / "requests" / file.name)

    thread = threading.Thread(target=commit)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def run(live: Path, run_dir: Path, *, kills: int, ranks: Sequence[int], rng: random.Random) -> Outcome:
    """Trains to the end of what arrives, with so many kills, or fewer if it ends before."""
    outcome, begin = Outcome(), time.monotonic()
    records, log = run_dir.with_name(f"{run_dir.name}-records"), run_dir.with_suffix(".log")
    records.mkdir()
    while True:
        count = rng.choice(ranks)
        outcome.starts[count] += 1
        job = start(live, run_dir, records, count, log)
        while outcome.kills.total() < kills and job.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.wait(rng.uniform(*KILL_S))
            found = workers(run_dir)
            if job.poll() is not None or not found:
                continue
            victim = rng.choice(["worker", "job"])
            outcome.kills[victim] += 1
            if victim == "worker":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(found), signal.SIGKILL)
                continue
            os.killpg(job.pid, signal.SIGKILL)
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            job.wait()
        code = job.wait(timeout=LONGEST_S)
        if code == 0:
            break
        if code != -signal.SIGKILL:
            raise RuntimeError(f"the job ended with exit code {code}:\n{log.read_text(errors='replace')[-4_000:]}")
    outcome.seconds = round(time.monotonic() - begin, 1)
    survived, outcome.taken_back = surviving(records)
    counts = Counter(survived)
    outcome.repeated = sum(count - 1 for count in counts.values())
    outcome.lost = sum(number not in counts for number in request_ids(live))
    return outcome


def surviving(records: Path) -> tuple[list[int], int]:
    """Ids of the requests of all steps that no later start has taken back, and how many were taken back."""
    lines = [
        json.loads(line)
        for file in records.iterdir()
        # A process that is killed may leave half a line: of a step that no checkpoint has.
        for line in file.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]
    starts = [(line["time"], line["start"]) for line in lines if "start" in line]
    kept, taken_back = list[int](), 0
    for line in lines:
        if "ids" in line:
            if any(when > line["time"] and step < line["step"] for when, step in starts):
                taken_back += len(line["ids"])
            else:
                kept += line["ids"]
    return kept, taken_back


def request_ids(live: Path) -> list[int]:
    found: list[int] = pq.read_table(live / "requests", columns=["request_id"]).column("request_id").to_pylist()
    return found


def differences(run_dir: Path, other: Path) -> list[str]:
    """What differs between the last checkpoints of two runs."""
    one, two = latest_of(run_dir), latest_of(other)
    found = []
    states = [json.loads(checkpoint.progress.read_text()) for checkpoint in (one, two)]
    found += [name for name in states[0] if states[0][name] != states[1][name]]
    for (name, value), (_, expected) in zip(tensors(one.path), tensors(two.path), strict=True):
        if not torch.equal(value, expected):
            found.append(name)
    return found


def elastic(folder: Path, complete: Path, *, kills: int, seed: int, most: int = 10) -> list[Outcome]:
    """Runs on a growing folder with `kills` kills in total, on one or two ranks."""
    outcomes: list[Outcome] = []
    while (done := sum(one.kills.total() for one in outcomes)) < kills:
        number = len(outcomes)
        live, rng = folder / f"live-{number}", random.Random(seed + number)
        with committing(complete, live):
            outcomes.append(run(live, folder / f"run-{number}", kills=min(most, kills - done), ranks=(1, 2), rng=rng))
        killed, lost = sum(one.kills.total() for one in outcomes), sum(one.lost for one in outcomes)
        repeated = sum(one.repeated for one in outcomes)
        print(f"{killed} of {kills} kills: {lost} requests lost, {repeated} repeated", file=sys.stderr)
    return outcomes


def exact(folder: Path, complete: Path, *, ranks: int, kills: int, seed: int) -> tuple[Outcome, list[str]]:
    """A killed and an undisturbed run on a complete folder; the kills, and the differences."""
    rng = random.Random(seed)
    run(complete, folder / f"alone-{ranks}", kills=0, ranks=(ranks,), rng=rng)
    killed = run(complete, folder / f"killed-{ranks}", kills=kills, ranks=(ranks,), rng=rng)
    return killed, differences(folder / f"killed-{ranks}", folder / f"alone-{ranks}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--exact", type=int, default=10, help="kills for each number of ranks on a complete folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(WORLD, folder / "world")
        complete = folder / "complete"
        cut(folder / "world", complete)
        grown = elastic(folder, complete, kills=args.kills, seed=args.seed)
        same = {ranks: exact(folder, complete, ranks=ranks, kills=args.exact, seed=args.seed) for ranks in (1, 2)}
    publish(
        {
            "benchmark": "chaos_follow",
            "requests": WORLD.requests,
            "seed": args.seed,
            "growing": _summary(grown),
            "complete": {
                f"{ranks} ranks": {**_summary([killed]), "differences": found}
                for ranks, (killed, found) in same.items()
            },
            **hardware(),
        },
        args.out,
    )


def _summary(outcomes: Sequence[Outcome]) -> dict[str, object]:
    return {
        "runs": len(outcomes),
        "kills": dict(sorted(sum((one.kills for one in outcomes), Counter()).items())),
        "starts by ranks": {str(k): v for k, v in sorted(sum((one.starts for one in outcomes), Counter()).items())},
        "lost": sum(one.lost for one in outcomes),
        "repeated": sum(one.repeated for one in outcomes),
        "taken back": sum(one.taken_back for one in outcomes),
        "seconds": round(sum(one.seconds for one in outcomes)),
    }


if __name__ == "__main__":
    main()
