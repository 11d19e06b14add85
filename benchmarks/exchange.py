"""What does an exchange between ranks of one host cost, through shared memory and through gloo?

Starts ranks under torchrun, one thread each; the two groups take turns within them. Prints one JSON line with
milliseconds of wall time and of CPU time of a rank, all of its threads together, per collective: medians over rounds.

    python -m benchmarks.exchange [--ranks 2] [--rounds 9] [--calls 100] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.report import hardware, publish
from benchmarks.torchrun import environment
from easq_rec.config import Trainer
from easq_rec.training import host_group
from easq_rec.training.runtime import running

SIZES = (256, 64 << 10, 512 << 10, 1 << 20, 4 << 20)
"""Bytes that a rank puts in."""
WARM_UP = 10
LONGEST_S = 900


def all_to_all(size: int) -> Callable[[dist.ProcessGroup], object]:
    sent, found = torch.randn(size // 4), torch.empty(size // 4)
    return lambda group: dist.all_to_all_single(found, sent, group=group)


def all_reduce(size: int) -> Callable[[dist.ProcessGroup], object]:
    total = torch.zeros(size // 4)
    return lambda group: dist.all_reduce(total, group=group)


COLLECTIVES = {"all_to_all_single": all_to_all, "all_reduce": all_reduce}


def measure(rounds: int, calls: int) -> dict[str, Any]:
    """Of this rank, by collective, size and group."""
    host, gloo = dist.group.WORLD, dist.new_group(backend="gloo")
    assert host is not None and gloo is not None and dist.get_backend(host) == host_group.BACKEND
    groups = {"shared_memory": host, "gloo": gloo}
    found: dict[str, Any] = {}
    for name, make in COLLECTIVES.items():
        for size in SIZES:
            call = make(size)
            taken: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
            for number in range(rounds + 1):
                for kind, group in groups.items():
                    dist.barrier()
                    cpu, wall = time.process_time(), time.perf_counter()
                    for _ in range(calls if number else WARM_UP):
                        call(group)
                    if number:
                        taken[kind].append((time.perf_counter() - wall, time.process_time() - cpu))
            found[f"{name} {size}"] = {
                kind: {
                    "ms": 1_000 * statistics.median(wall for wall, _ in times) / calls,
                    "cpu_ms": 1_000 * statistics.median(cpu for _, cpu in times) / calls,
                }
                for kind, times in taken.items()
            }
    return found


def together(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the ranks, and how many times less shared memory takes."""
    result: dict[str, Any] = {}
    for name in ranks[0]:
        means = {
            kind: {value: statistics.fmean(rank[name][kind][value] for rank in ranks) for value in ("ms", "cpu_ms")}
            for kind in ranks[0][name]
        }
        ratios = {value: means["gloo"][value] / means["shared_memory"][value] for value in ("ms", "cpu_ms")}
        result[name] = {
            **{kind: {value: round(number, 4) for value, number in one.items()} for kind, one in means.items()},
            "less_by": {value: round(number, 2) for value, number in ratios.items()},
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=100, help="of a round")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rank-in", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank_in is not None:
        with running(Trainer(device="cpu")) as runtime:
            found = measure(args.rounds, args.calls)
            (args.rank_in / f"{runtime.rank}.json").write_text(json.dumps(found))
        return
    if args.ranks < 2:
        parser.error(f"--ranks {args.ranks} is not allowed: at least 2, for one exchanges nothing")
    with tempfile.TemporaryDirectory() as folder:
        launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={args.ranks}")
        numbers = (f"--rounds={args.rounds}", f"--calls={args.calls}", f"--rank-in={folder}")
        command = [sys.executable, *launcher, "-m", "benchmarks.exchange", *numbers]
        subprocess.run(command, env=environment(), timeout=LONGEST_S, check=True)
        ranks = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(args.ranks)]
    torch.set_num_threads(1)
    publish({"benchmark": "exchange", "ranks": args.ranks, "collectives": together(ranks), **hardware()}, args.out)


if __name__ == "__main__":
    main()
