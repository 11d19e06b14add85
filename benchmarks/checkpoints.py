"""How much does a checkpoint slow down training?

The trainer on the reference workload (tables of 2.1M rows). Windows of steps take turns within one process: without a
checkpoint, with one written in the background from its first step on, and with one for which training waits. A window
ends when its checkpoint is complete.

    python -m benchmarks.checkpoints [--rounds 7] [--steps 60] [--out FILE.json]
    torchrun --nproc_per_node 2 -m benchmarks.checkpoints

Prints one JSON line, milliseconds as medians over rounds: the delay of training by the call, the extra time of
the window, and the interval in steps at which this is 5% of the training time; the same in CPU time; and the content of
a checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from benchmarks.reference_files import write
from benchmarks.report import hardware, publish
from benchmarks.train_step import reference_config
from easq_rec.run_directory.checkpoint_files import latest_of
from easq_rec.training.loop import Trainer
from easq_rec.training.memory import HostMemory
from easq_rec.training.process import running

REQUESTS = 32_768
WARM_UP = 20
ALLOWED = 0.05
"""Share of the training time that checkpoints may take."""
WAYS = ("none", "background", "foreground")


def window(trainer: Trainer, stepping: Iterator[int], steps: int, way: str) -> dict[str, float]:
    """Milliseconds of `steps` steps, with a checkpoint after the first."""
    trainer.runtime.barrier()
    cpu, begin = time.process_time(), time.perf_counter()
    next(stepping)
    called = time.perf_counter()
    if way != "none":
        trainer.save(background=way == "background")
    held = time.perf_counter() - called
    for _ in range(steps - 1):
        next(stepping)
    trained = time.perf_counter()
    trainer.setup.checkpoints.wait()
    return {
        "held": 1_000 * held,
        "window": 1_000 * (trained - begin),
        "waited_at_the_end": 1_000 * (time.perf_counter() - trained),
        "cpu": 1_000 * (time.process_time() - cpu),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=60, help="steps of a window: enough to write a checkpoint")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    pa.set_cpu_count(1)
    config = reference_config()
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as own, running(config.trainer) as runtime:
        folder = Path(runtime.share(own))
        if runtime.leads:
            write(folder, REQUESTS)
        runtime.barrier()
        config = dataclasses.replace(
            config,
            trainer=dataclasses.replace(config.trainer, max_steps=10**9),
            checkpoint=dataclasses.replace(config.checkpoint, every_steps=0, keep=1),
            logging=dataclasses.replace(config.logging, every_steps=10**9, tensorboard=False),
        )
        trainer = Trainer(config, runtime, directory=str(folder), run_dir=folder)
        stepping = trainer.steps(10**9)
        with HostMemory() as memory:
            for number in range(1, WARM_UP + 1):
                next(stepping)
                memory.step(number)
            for _ in range(args.rounds):
                for way, found in rounds.items():
                    found.append(window(trainer, stepping, args.steps, way))
        stepping.close()
        trainer.log.close()
        checkpoint = latest_of(folder)
        size = sum(file.stat().st_size for file in checkpoint.path.iterdir())
        runtime.barrier()
        if runtime.leads:
            found = summary(rounds)
            default = reference_config().checkpoint.every_steps
            step = found["none"]["window"] / args.steps
            shares = {way: round(found[way]["longer"] / (default * step), 4) for way in WAYS if way != "none"}
            result: dict[str, object] = {
                "benchmark": "checkpoints",
                "ranks": runtime.world_size,
                "mib": round(size / 2**20),
                "step_ms": round(step, 1),
                "steps_of_a_window": args.steps,
                "ms": found,
                f"share_of_training_at_one_in_{default}": shares,
                "steps_between_at_5_percent": {
                    way: math.ceil(found[way]["longer"] / (ALLOWED * step)) for way in WAYS if way != "none"
                },
            }
            publish({**result, **hardware()}, args.out)


def summary(rounds: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """By way: medians, and the extra time compared with windows without a checkpoint in the same round."""
    found = {
        way: {name: round(statistics.median(window[name] for window in windows), 1) for name in windows[0]}
        for way, windows in rounds.items()
    }
    for way, windows in rounds.items():
        if way != "none":
            for name, of in (("longer", "window"), ("more_cpu", "cpu")):
                differences = [one[of] - none[of] for one, none in zip(windows, rounds["none"], strict=True)]
                found[way][name] = round(statistics.median(differences), 1)
    return found


if __name__ == "__main__":
    main()
