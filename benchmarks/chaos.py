"""Does a run that is killed repeatedly end like an undisturbed run?

Trains the same few hundred requests twice: undisturbed, and with kill -9 at random moments, of one worker (torchrun
restarts all workers) or of the whole job (the same command runs again), every third time during a save. Both must end,
with every step in the log exactly once, and the last checkpoints must be equal: weights, optimizers, position of the
stream and replayed answers, bit for bit. Prints one JSON line.

    python -m benchmarks.chaos [--kills 50] [--ranks 2 4] [--seed 0] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from benchmarks.report import hardware, publish
from easq_rec.config import World
from easq_rec.data.position import StreamPosition
from easq_rec.run_directory.checkpoint_files import latest_of
from easq_rec.run_directory.checksums import damage
from easq_rec.run_directory.metrics_file import TRAIN, Record, read_records
from easq_rec.run_directory.paths import RunDirectory, published
from easq_rec.tools.simulation.world import generate
from easq_rec.upstream.torch_checkpoint import CheckpointReader

REPOSITORY = Path(__file__).parents[1]
WORLD = World(requests=600, users=100, videos=200, density=500.0)
STEPS, EVERY = 30, 3
LONGEST_S = 300
"""Seconds after which a start of the job that has not ended counts as hung."""
MOMENTS = ("anywhen", "in training", "in a save")
"""Moments of the kills, in turn. A kill at any time is mostly at process start, which takes most of a short run."""
ANYWHEN_S, STEP_S, PATIENCE_S = 6.0, 0.3, 60.0
"""Maximum wait before a kill at any time, and before a kill after a logged step; time limit for a step or a save."""
FARTHEST = 6
"""Maximum number of steps between two kills in training or in a save."""


@dataclass(kw_only=True)
class KilledRun:
    """The kills of a run, and its end."""

    ranks: int
    kills: Counter[str] = field(default_factory=Counter)
    """Target and moment of each kill, for example `worker, in a save`."""
    starts: int = 0
    """Number of starts of the job, without torchrun's restarts of its workers."""
    hung: int = 0
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return self.kills.total()


def command(data: Path, run_dir: Path, ranks: int) -> list[str]:
    """The command of the job, with one thread per rank and enough worker restarts for all kills."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks), "--max_restarts", "1000"]
    sizes = ["--trainer.batch-size", "8", "--trainer.max-steps", str(STEPS), "--trainer.threads", "1"]
    saves = ["--checkpoint.every-steps", str(EVERY), "--logging.every-steps", "1", "--logging.tensorboard", "False"]
    run = ["easq_rec/train.py", "quickstart", "--data", str(data), "--run-dir", str(run_dir)]
    return [sys.executable, *launcher, *run, *sizes, *saves, "--evaluation.every-steps", "0"]


def start(data: Path, run_dir: Path, ranks: int, log: Path) -> subprocess.Popen[bytes]:
    """Starts the job in a new process group, so that all of its processes can be killed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with log.open("ab") as output:
        return subprocess.Popen(
            command(data, run_dir, ranks),
            cwd=REPOSITORY,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def workers(run_dir: Path) -> list[int]:
    """Process ids of the ranks of this run, without the launcher."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(run_dir).encode() in words and b"--nproc_per_node" not in words:
                found.append(int(entry.name))
    return found


def run_with_kills(data: Path, run_dir: Path, *, ranks: int, kills: int, seed: int, before: int = 0) -> KilledRun:
    """Trains to the end with `kills` kills, or fewer if the run ends first.

    Args:
        before: number of kills in earlier runs; moments alternate over all runs.
    """
    rng, run, begin = random.Random(seed), KilledRun(ranks=ranks), time.monotonic()
    log = run_dir.with_suffix(".log")
    while True:
        job = start(data, run_dir, ranks, log)
        run.starts += 1
        while run.total < kills and job.poll() is None:
            victim, moment = rng.choice(["worker", "job"]), MOMENTS[(before + run.total) % len(MOMENTS)]
            if not _wait_for(moment, job, run_dir, rng):
                continue
            pids = workers(run_dir)
            if victim == "worker" and not pids:
                continue
            run.kills[f"{victim}, {moment}"] += 1
            if victim == "worker":
                _kill(rng.choice(pids))
            else:
                os.killpg(job.pid, signal.SIGKILL)
                for pid in pids:
                    _kill(pid)
                job.wait()
        try:
            code: int | None = job.wait(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            run.hung += 1
            code = None
            os.killpg(job.pid, signal.SIGKILL)
            for pid in workers(run_dir):
                _kill(pid)
            job.wait()
        if code == 0:
            run.seconds = round(time.monotonic() - begin, 1)
            return run
        if code is not None and code != -signal.SIGKILL:
            raise RuntimeError(f"the job ended with exit code {code}:\n{log.read_text(errors='replace')[-4_000:]}")


def _wait_for(moment: str, job: subprocess.Popen[bytes], run_dir: Path, rng: random.Random) -> bool:
    """Waits for the moment of the kill; False: the job has ended, or the moment did not occur."""
    saves = RunDirectory(run_dir).checkpoints
    # After the last step of earlier starts; otherwise every kill could hit the first save.
    aim = _last_step(run_dir) + rng.randint(1, FARTHEST)
    match moment:
        case "in a save":
            return _until(job, PATIENCE_S, lambda: any(_number(path) >= aim for path in saves.glob(".step_*.partial")))
        case "in training":
            if not _until(job, PATIENCE_S, lambda: _last_step(run_dir) >= aim):
                return False
            wait = rng.uniform(0, STEP_S)
        case _:
            wait = rng.uniform(0, ANYWHEN_S)
    _until(job, wait, lambda: False)
    return job.poll() is None


def _last_step(run_dir: Path) -> int:
    """The last step in the log."""
    log = RunDirectory(run_dir).metrics
    return max((record.step for record in read_records(log)), default=0) if log.exists() else 0


def _number(partial: Path) -> int:
    return int(partial.name.removeprefix(".step_").removesuffix(".partial"))


def _until(job: subprocess.Popen[bytes], seconds: float, come: Callable[[], bool]) -> bool:
    """Waits for a condition while the job runs; returns whether it became true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and job.poll() is None:
        if come():
            return True
        time.sleep(0.002)
    return False


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def differences(run_dir: Path, other: Path) -> list[str]:
    """Differences between the final states of two runs."""
    found = []
    for directory in (run_dir, other):
        steps = [record.step for record in _metrics(directory) if record.split == TRAIN]
        if steps != list(range(1, STEPS + 1)):
            found.append(f"{directory.name}: its log has the steps {steps}")
        found += [
            f"{checkpoint.path.name}: {problem}"
            for checkpoint in published(RunDirectory(directory).checkpoints)
            if (problem := damage(checkpoint))
        ]
    one, two = latest_of(run_dir), latest_of(other)
    progress = [in_plain_terms(json.loads(checkpoint.progress.read_text())) for checkpoint in (one, two)]
    found += [f"{one.progress.name}: {name}" for name in progress[0] if progress[0][name] != progress[1][name]]
    for (name, value), (_, expected) in zip(tensors(one.path), tensors(two.path), strict=True):
        if not torch.equal(value, expected):
            found.append(name)
    return found


def in_plain_terms(progress: dict[str, Any]) -> dict[str, Any]:
    """Content of a checkpoint's progress.json with the remaining requests of the epoch, in a form that does not depend
    on their distribution.

    A resumed run has distributed the remaining requests again; the rank and step of each request are the same.
    """
    loader = dict(progress["loader"])
    position = StreamPosition.from_dict(loader.pop("position"))
    left = {"epoch": position.epoch, "left": position.left(TRAINED), "ranks": position.ranks}
    return {**progress, "loader": loader, "position": left}


TRAINED = 479
"""Requests of an epoch: those of WORLD that are not held out."""


def _metrics(run_dir: Path) -> list[Record]:
    return read_records(RunDirectory(run_dir).metrics)


def tensors(checkpoint: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of model and optimizers, unsharded, by name."""
    reader = CheckpointReader(checkpoint)
    metadata = reader.read_metadata().state_dict_metadata
    found = {
        name: torch.empty(stored.size, dtype=stored.properties.dtype)
        for name, stored in metadata.items()
        if isinstance(stored, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(found, storage_reader=reader, no_dist=True)
    yield from sorted(found.items())


def undisturbed(data: Path, run_dir: Path, ranks: int) -> None:
    """Trains to the end."""
    log = run_dir.with_suffix(".log")
    code = start(data, run_dir, ranks, log).wait(timeout=LONGEST_S)
    if code:
        raise RuntimeError(
            f"the undisturbed run ended with exit code {code}:\n{log.read_text(errors='replace')[-4_000:]}"
        )


def kill_runs(
    folder: Path, *, ranks: int, kills: int, seed: int, most_per_run: int = 10
) -> tuple[list[KilledRun], list[str]]:
    """Makes runs with `kills` kills in total, at most `most_per_run` each; returns them and their differences from an
    undisturbed run."""
    data = folder / "data"
    if not data.exists():
        generate(WORLD, data)
    alone = folder / f"alone-{ranks}"
    undisturbed(data, alone, ranks)
    runs: list[KilledRun] = []
    found: list[str] = []
    while (done := sum(run.total for run in runs)) < kills:
        run_dir = folder / f"run-{ranks}-{len(runs)}"
        most = min(kills - done, most_per_run)
        runs.append(run_with_kills(data, run_dir, ranks=ranks, kills=most, seed=seed + len(runs), before=done))
        found += [f"{run_dir.name}: {line}" for line in differences(run_dir, alone)]
    return runs, found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="kills for each number of ranks")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    result: dict[str, object] = {"benchmark": "chaos", "steps": STEPS, "seed": args.seed}
    with tempfile.TemporaryDirectory() as folder:
        for ranks in args.ranks:
            runs, found = kill_runs(Path(folder), ranks=ranks, kills=args.kills, seed=args.seed)
            kills = dict(sorted(sum((one.kills for one in runs), Counter()).items()))
            result[f"{ranks} ranks"] = {
                "runs": len(runs),
                "kills": kills,
                "starts": sum(one.starts for one in runs),
                "hung": sum(one.hung for one in runs),
                "seconds": round(sum(one.seconds for one in runs)),
                "differences": found,
            }
    publish({**result, **hardware()}, args.out)


if __name__ == "__main__":
    main()
