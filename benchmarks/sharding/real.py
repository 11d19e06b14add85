"""Real ranks: verifies and times every case under torchrun, with results as JSON and figures."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sharding.plots import case_bars, heat_map, rank_bars
from benchmarks.torchrun import REPOSITORY, environment

PHASES = ("forward", "backward", "optimizer")
MB = 10**6


def real(
    shapes: list[str],
    *,
    rounds: int,
    steps: int,
    proof_steps: int,
    out: Path | None,
    cases: list[str] | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Runs cases on every shape, hosts x ranks. Hosts are separate launches on this machine.

    Args:
        cases: names of cases; None: all.

    Raises:
        ValueError: an invalid shape.
        RuntimeError: the ranks of a shape failed; the message has the end of their output.
    """
    runs = []
    for shape in shapes:
        hosts, ranks = _shape(shape)
        print(f"{shape}: {hosts * ranks} ranks", flush=True)
        arguments = [device, str(rounds), str(steps), str(proof_steps), *(cases or [])]
        runs.append({"shape": shape, **_launch(hosts, ranks, arguments)})
        print("\n".join(lines(runs[-1])), flush=True)
    report = {"benchmark": "sharding real", "runs": runs}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "real.json").write_text(json.dumps(report, indent=1) + "\n")
        for run in runs:
            if run["ranks"] > 1:
                draw(run, out)
    return report


def lines(run: dict[str, Any]) -> Iterator[str]:
    """A run as a table for a terminal."""
    for name, proof in run["proofs"].items():
        if proof and not proof.get("equal"):
            yield f"  not equal to the unsharded model, not timed: {name} ({proof.get('error', proof)})"
    head = f"{'case':<28}{'step ms':>9}{'CPU ms':>8}{'MB sent':>9}{'memory':>8}"
    yield f"  {head}{'strayed by step 1':>20}{'in the end':>12}"
    for name, case in run["cases"].items():
        sent = sum(case["bytes_per_rank"].values()) / MB
        first, end = (f"{case[f'strayed_{when}']:.1e}" if "strayed_end" in case else "" for when in ("first", "end"))
        yield (
            f"  {name:<28}{case['step_ms']:>9}{case['cpu_ms']:>8}{sent:>9.2f}{case['balance_memory']:>8}"
            f"{first:>20}{end:>12}"
        )


def draw(run: dict[str, Any], out: Path) -> None:
    """OUT/SHAPE-{cases, planner-tables, planner-ranks}.png."""
    shape, cases = run["shape"], run["cases"]
    phases = {name: {phase: case["ms"][phase] for phase in PHASES} for name, case in cases.items()}
    sent = {
        name: {KINDS.get(kind, kind): size / MB for kind, size in case["bytes_per_rank"].items() if size > 10_000}
        for name, case in cases.items()
    }
    panels = {"ms per step, slowest rank": phases, "MB handed to collectives per rank": sent}
    case_bars(panels, out / f"{shape}-cases.png", title=f"Sharded training steps, {shape} {run['backend']} ranks")
    if "planner" not in cases:
        return
    planner = cases["planner"]
    tables = planner["bytes_by_table_and_rank"]
    order = sorted(tables, key=lambda name: -sum(tables[name]))
    bytes_TK = np.array([tables[name] for name in order]) / MB
    kinds = [planner["plan"][name][0] for name in order]
    heat_map(
        order, kinds, bytes_TK, out / f"{shape}-planner-tables.png", title=f"The planner's choice, {shape}", unit="MB"
    )
    rank_bars(
        {
            "tables, MB": {"tables": [size / MB for size in planner["table_bytes_by_rank"]]},
            "ms per step": planner["ms_by_rank"],
        },
        out / f"{shape}-planner-ranks.png",
        title=f"Memory and measured time under the planner's choice, {shape}",
    )


KINDS = {
    "alltoall_base": "all-to-all",
    "allreduce": "all-reduce (dense gradients)",
    "reduce_scatter_base": "reduce-scatter",
    "allgather_base": "all-gather",
}
"""PyTorch's names of collectives, in words."""


def _shape(shape: str) -> tuple[int, int]:
    hosts, cross, ranks = shape.partition("x")
    if not cross or not hosts.isdigit() or not ranks.isdigit() or not int(hosts) * int(ranks):
        raise ValueError(f"--shapes {shape} is not allowed: HOSTSxRANKS, such as 1x2")
    return int(hosts), int(ranks)


def _launch(hosts: int, ranks: int, arguments: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory, socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
        free.close()
        out = Path(directory) / "result.json"
        command = [
            *(sys.executable, "-m", "torch.distributed.run", f"--nnodes={hosts}", f"--nproc_per_node={ranks}"),
            *("--rdzv_backend=c10d", f"--rdzv_endpoint=localhost:{port}"),
            *("-m", "benchmarks.sharding.worker", str(out), *arguments),
        ]
        logs = [Path(directory) / f"{host}.log" for host in range(hosts)]
        agents = []
        try:
            for log in logs:
                with log.open("w") as file:
                    agents.append(
                        subprocess.Popen(command, env=environment(), cwd=REPOSITORY, stdout=file, stderr=file)
                    )
            failed = [agent.wait() for agent in agents]
        finally:
            for agent in agents:
                agent.kill()
                agent.wait()
        if any(failed) or not out.exists():
            raise RuntimeError("\n".join(log.read_text()[-4_000:] for log in logs))
        found: dict[str, Any] = json.loads(out.read_text())
        return found
