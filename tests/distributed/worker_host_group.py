"""Makes the same random collectives through a group of one host's ranks and through gloo. Run by torchrun.

Usage: worker_host_group.py OUT_DIR; writes OUT_DIR/RANK.json: how many of each were made, and what differed.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from easq_rec.config import Trainer
from easq_rec.training import host_group
from easq_rec.training.runtime import running

CALLS = 400
BROADCASTS = 2_000
"""Enough for a deadlock between gloo's thread and Python's interpreter lock, if there is one."""
DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.uint8, torch.bool),
)
Call = Callable[[dist.ProcessGroup], tuple[Tensor, dist.Work]]
"""Starts a collective in a group; returns what it writes to."""


class Program:
    """The same calls in the same order on every rank, with numbers of its own.

    Args:
        rank: draws numbers; what all ranks must agree on is drawn by `shared`.
    """

    def __init__(self, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks
        self.shared = random.Random(0)
        self._own = torch.Generator().manual_seed(rank)

    def values(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return (torch.randn(shape, generator=self._own) * 50).abs().to(dtype)

    def all_to_all(self) -> Call:
        dtype, width = self.shared.choice(DTYPES), self.shared.choice(((), (1,), (3,), (2, 5)))
        most = self.shared.choice((0, 1, 30, 3_000))
        # rows[from][to]
        rows = [[self.shared.randint(0, most) for _ in range(self.ranks)] for _ in range(self.ranks)]
        equal = self.shared.random() < 0.3
        if equal:
            rows = [[most] * self.ranks] * self.ranks
        mine, theirs = rows[self.rank], [rows[peer][self.rank] for peer in range(self.ranks)]
        sent = self.values(sum(mine), *width, dtype=dtype)

        def call(group: dist.ProcessGroup) -> tuple[Tensor, dist.Work]:
            found = torch.empty((sum(theirs), *width), dtype=dtype)
            splits = {} if equal else {"output_split_sizes": theirs, "input_split_sizes": mine}
            work = dist.all_to_all_single(found, sent, **splits, group=group, async_op=True)
            assert work is not None
            return found, work

        return call

    def all_reduce(self) -> Call:
        # Whole numbers: gloo may add them up in another order.
        operation = self.shared.choice((dist.ReduceOp.SUM, dist.ReduceOp.MAX, dist.ReduceOp.MIN))
        dtype = self.shared.choice((torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8))
        shape = self.shared.choice(((), (1,), (0,), (7,), (100, 300)))
        mine = self.values(*shape, dtype=torch.float32).round().clamp(max=60).to(dtype)

        def call(group: dist.ProcessGroup) -> tuple[Tensor, dist.Work]:
            found = mine.clone()
            work = dist.all_reduce(found, op=operation, group=group, async_op=True)
            assert work is not None
            return found, work

        return call

    def all_gather(self) -> Call:
        dtype = self.shared.choice(DTYPES)
        mine = self.values(*self.shared.choice(((), (5,), (40, 60))), dtype=dtype)

        def call(group: dist.ProcessGroup) -> tuple[Tensor, dist.Work]:
            found = torch.empty((self.ranks, *mine.shape), dtype=dtype)
            work = dist.all_gather(list(found.unbind()), mine, group=group, async_op=True)
            assert work is not None
            return found, work

        return call


def differences(rank: int, ranks: int, host: dist.ProcessGroup, gloo: dist.ProcessGroup) -> dict[str, object]:
    """Some calls are waited for at once, some by others that come later, some out of turn, and many at the end."""
    program = Program(rank, ranks)
    made: Counter[str] = Counter()
    wrong: list[str] = []
    open_: list[tuple[str, Tensor, dist.Work, Tensor]] = []

    def close(index: int) -> None:
        what, found, work, expected = open_.pop(index)
        work.wait()
        if not torch.equal(found, expected):
            wrong.append(f"{what} of {found.dtype} {tuple(found.shape)}")

    for number in range(CALLS):
        kind = program.shared.choice(("all_to_all", "all_reduce", "all_gather"))
        call = getattr(program, kind)()
        expected, reference = call(gloo)
        reference.wait()
        found, work = call(host)
        open_.append((f"{kind} {number}", found, work, expected))
        made[kind] += 1
        while len(open_) > 2 * host_group.IN_FLIGHT or (
            number < CALLS // 2 and open_ and program.shared.random() < 0.7
        ):
            close(program.shared.randrange(len(open_)))
    most = len(open_)
    while open_:
        close(program.shared.randrange(len(open_)))
    return {"made": made, "wrong": wrong, "open": most}


def others(rank: int, ranks: int) -> dict[str, object]:
    """Of what goes through gloo, and of sums that are no whole numbers: what was found, and what is right."""
    gathered: list[object] = [None] * ranks
    dist.all_gather_object(gathered, {"rank": rank, "text": "x" * rank * 1_000})
    told = [f"of {rank}"]
    dist.broadcast_object_list(told, src=1)
    scattered = torch.empty(2)
    dist.reduce_scatter_tensor(scattered, torch.arange(2.0 * ranks))
    numbers = torch.randn(1_001, generator=torch.Generator().manual_seed(rank))
    total = numbers.clone()
    dist.all_reduce(total)
    parts = [torch.randn(1_001, generator=torch.Generator().manual_seed(peer)) for peer in range(ranks)]
    expected = parts[0]
    for part in parts[1:]:
        expected = expected + part
    pairs = [dist.new_group([peer, peer + 1], backend=host_group.BACKEND) for peer in range(0, ranks, 2)]
    near = torch.tensor([float(rank)])
    dist.all_reduce(near, group=pairs[rank // 2])
    for _ in range(BROADCASTS):
        # Nobody but gloo's thread has the tensor when it is done with it.
        dist.broadcast(torch.zeros(1), src=0)
    dist.barrier()
    return {
        "objects": gathered == [{"rank": peer, "text": "x" * peer * 1_000} for peer in range(ranks)],
        "broadcast": told == ["of 1"],
        "reduce_scatter": scattered.tolist() == [2.0 * rank * ranks, (2.0 * rank + 1) * ranks],
        "sum_in_order": torch.equal(total, expected),
        "subgroup": near.item() == 2 * (rank // 2 * 2) + 1,
    }


def main() -> None:
    with running(Trainer(device="cpu", timeout_s=60)) as runtime:
        assert dist.get_backend() == host_group.BACKEND
        host, gloo = dist.group.WORLD, dist.new_group(backend="gloo")
        assert host is not None
        found = differences(runtime.rank, runtime.world_size, host, gloo)
        found["others"] = others(runtime.rank, runtime.world_size)
        (Path(sys.argv[1]) / f"{runtime.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
