"""One rank of `python -m benchmarks.throughput run`: the trainer itself on real files. Started by torchrun.

torchrun --nproc_per_node N -m benchmarks.throughput.worker SPEC.json OUT_DIR

Writes OUT_DIR/rank-K.json, and with a trace OUT_DIR/trace.json.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import resource
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist

from benchmarks.report import hardware
from benchmarks.throughput.machine import ceilings
from benchmarks.throughput.phases import PHASES, Phases
from benchmarks.throughput.pipelines import PIPELINES
from benchmarks.throughput.spec import Spec
from benchmarks.throughput.work import Work
from easq_rec.tools.simulation.default_data import prepare_data
from easq_rec.training.loop import Trainer
from easq_rec.training.memory import HostMemory
from easq_rec.training.process import Runtime, running

ENDLESS = 10**9
"""More steps than any measurement makes."""
TRACED = 4
"""Number of steps in a trace."""


class Gate:
    """A barrier for the ranks of a launch, also for independent runs."""

    def __init__(self, path: Path, rank: int, ranks: int) -> None:
        self._store, self._ranks, self._number = dist.FileStore(str(path), ranks), ranks, 0
        self.rank = rank

    def __call__(self) -> None:
        """Returns when all ranks have reached it."""
        self._number += 1
        name = f"gate-{self._number}"
        if self._store.add(name, 1) == self._ranks:
            self._store.set(f"{name}-open", "1")
        self._store.wait([f"{name}-open"])


class Measured:
    """A trainer that makes one step at a time."""

    def __init__(self, spec: Spec, runtime: Runtime, pipeline: str, out: Path, gate: Gate) -> None:
        directory = prepare_data(spec.config, runtime)
        # Independent runs have separate directories.
        run_dir = out / f"run-{pipeline}-{gate.rank if spec.independent else 0}"
        run_dir.mkdir(parents=True, exist_ok=True)
        self.trainer = Trainer(spec.config, runtime, directory=directory, run_dir=run_dir, pipeline=PIPELINES[pipeline])
        self._device = runtime.device
        self._gate = gate
        self._stepping: Generator[int, None, None] = self.trainer.steps(ENDLESS)
        self.windows: list[dict[str, float]] = []

    def step(self) -> int:
        return next(self._stepping)

    def window(self, steps: int) -> None:
        """Measures `steps` steps, which all ranks start together."""
        self._gate()
        impressions, cpu, begin = self.trainer.impressions, time.process_time(), time.perf_counter()
        for _ in range(steps):
            self.step()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        wall = time.perf_counter() - begin
        self.windows.append(
            {
                "impressions": self.trainer.impressions - impressions,
                "seconds": wall,
                "cpu_seconds": time.process_time() - cpu,
            }
        )

    def close(self) -> None:
        self._stepping.close()
        self.trainer.log.close()


def measure(spec: Spec, runtime: Runtime, out: Path, gate: Gate) -> dict[str, Any]:
    """All measurements of one rank."""
    found: dict[str, Any] = {"backend": dist.get_backend(), "device": runtime.device.type, **hardware()}
    if runtime.device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(runtime.device)
    gate()
    found["ceilings"] = ceilings(runtime.device, seconds=spec.ceiling_s)
    made = {name: Measured(spec, runtime, name, out, gate) for name in spec.pipelines}
    with HostMemory() as memory:
        for number in range(1, spec.warm_up + 1):
            for one in made.values():
                one.step()
            memory.step(number)
        for _ in range(spec.windows):
            gc.collect()
            for one in made.values():
                one.window(spec.steps)
        found["windows"] = {name: one.windows for name, one in made.items()}
        found["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        if runtime.device.type == "cuda":
            found["peak_device_mib"] = torch.cuda.max_memory_allocated(runtime.device) // 2**20
        first = next(iter(made.values()))
        found |= taken_apart(first, spec, runtime, gate)
        if spec.trace:
            gate()
            write_trace(first, out / "trace.json" if gate.rank == 0 else None)
    for one in made.values():
        one.close()
    return found


def taken_apart(measured: Measured, spec: Spec, runtime: Runtime, gate: Gate) -> dict[str, Any]:
    """Milliseconds per phase and step, and the work of a step, measured in separate steps."""
    phases = Phases(runtime.device)
    steps = spec.steps
    gate()
    with phases.installed(measured.trainer):
        begin = time.perf_counter()
        for _ in range(steps):
            measured.step()
        took = time.perf_counter() - begin
    aligned = measured.trainer.config.losses.align_every if measured.trainer.config.aligned else 1
    gate()
    with Work() as work:
        for _ in range(aligned):
            measured.step()
    return {
        "phases_ms": {name: 1_000 * phases.seconds[name] / steps for name in PHASES},
        "waited_ms": {name: 1_000 * phases.waited[name] / steps for name in PHASES},
        "phases_step_ms": 1_000 * took / steps,
        "flops_per_step": work.flops / aligned,
        "bytes_per_step": work.bytes / aligned,
    }


def write_trace(measured: Measured, path: Path | None) -> None:
    """Profiles some steps on all ranks with torch's profiler, with phases as spans; one rank writes the trace."""
    phases = Phases(torch.device("cpu"))
    with torch.profiler.profile() as profiler, phases.installed(measured.trainer):
        for _ in range(TRACED):
            measured.step()
    if path is not None:
        profiler.export_chrome_trace(str(path))


def main() -> None:
    spec, out = Spec.read(Path(sys.argv[1])), Path(sys.argv[2])
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    gate = Gate(out / "gate", rank, ranks)
    if spec.independent:
        for name in ("RANK", "WORLD_SIZE"):
            del os.environ[name]
        if spec.config.trainer.device == "cuda":
            # On CPU it assigns cores to each rank.
            del os.environ["LOCAL_WORLD_SIZE"]
    trainer = dataclasses.replace(spec.config.trainer, max_steps=ENDLESS)
    spec = dataclasses.replace(spec, config=dataclasses.replace(spec.config, trainer=trainer))
    pa.set_cpu_count(1)
    with running(trainer) as runtime:
        found = measure(spec, runtime, out, gate)
        (out / f"rank-{rank}.json").write_text(json.dumps(found))
        gate()


if __name__ == "__main__":
    main()
