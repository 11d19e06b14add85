"""The process: device, process group, threads, memory allocator, seeds, and silence from upstream libraries."""

from __future__ import annotations

import contextlib
import datetime
import functools
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from easq_rec.config import TrainerConfig
from easq_rec.disk_failures import LostWrites
from easq_rec.errors import UserError
from easq_rec.losses.ranks import Pending
from easq_rec.training import cores
from easq_rec.training.launch import Launch, launch
from easq_rec.training.memory import keep_freed_memory
from easq_rec.training.phases import WAITING, Phases
from easq_rec.upstream.torch_tensors import holders

T = TypeVar("T")
GRACE_S = 15
"""Seconds that a collective waits longer than `trainer.timeout_s`: the watchdog's report names the rank that hangs, and
must come before the error of a collective that gives up."""

REPORT_S = 30
"""Seconds after which a rank says that the others have not come."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """This process among the ranks, and the device on which it computes."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device
    phases: Phases = field(default_factory=Phases, compare=False, repr=False)
    lost: LostWrites = field(default_factory=lambda: LostWrites(speaks=True), compare=False, repr=False)
    """What this rank could not write because a disk failed."""

    @property
    def leads(self) -> bool:
        """Whether this rank writes logs, tables and configuration."""
        return self.rank == 0

    def barrier(self) -> None:
        """Waits for all ranks."""
        self.agree(0)

    def agree(self, *values: int) -> list[int]:
        """The maximum of each value over the ranks."""
        # On the host, through gloo: a collective on a GPU would wait for all work that is queued there.
        return [int(value) for value in self._start(torch.tensor(values), dist.ReduceOp.MAX)().tolist()]

    def any_rank(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return flag if self.world_size == 1 else bool(self.agree(flag)[0])

    def start_sum(self, value: Tensor) -> Pending:
        """Starts to add a tensor up over the ranks, on its device.

        The first call of what it returns waits for the exchange.
        """
        if self.world_size == 1:
            return lambda: value
        return functools.cache(self._start(value.clone(), dist.ReduceOp.SUM))

    def share(self, value: str) -> str:
        """Rank 0's string, on every rank."""
        with self.phases(WAITING):
            return shared_text(value if self.leads else None)

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, on every rank. They are pickled, and come from processes of this run."""
        values: list[Any] = [None] * self.world_size
        with self.phases(WAITING):
            dist.all_gather_object(values, value)
        return values

    def _start(self, value: Tensor, reduction: dist.ReduceOp.RedOpType) -> Pending:
        """Starts to reduce each value over the ranks, in place."""
        exchange = Exchange(dist.all_reduce(value, op=reduction, async_op=True), self.phases)

        def wait() -> Tensor:
            exchange.wait()
            # Gloo's thread releases the tensor a moment later and needs the interpreter for it. If the interpreter had
            # begun to shut down by then, the process would abort.
            while value.device.type == "cpu" and holders(value) > 1:
                time.sleep(1e-4)
            return value

        return wait


def shared_text(value: str | None, group: dist.ProcessGroup | None = None) -> str:
    """Rank 0's string, on every rank of a group; None: of the default one.

    Args:
        value: None on other ranks than rank 0.
    """
    content = torch.frombuffer(bytearray((value or "").encode()), dtype=torch.uint8) if value else torch.zeros(0)
    size = torch.tensor(content.numel())
    dist.broadcast(size, src=0, group=group)
    if not size:
        return ""
    if value is None:
        content = torch.zeros(int(size), dtype=torch.uint8)
    dist.broadcast(content, src=0, group=group)
    return content.numpy().tobytes().decode()


class Exchange:
    """A running collective of the default process group."""

    def __init__(self, work: dist.Work | None, phases: Phases) -> None:
        assert work is not None, "every rank is a member of the default group"
        self._work: dist.Work | None = work
        self._phases = phases

    def wait(self) -> None:
        """Returns when it is done; on CUDA, when later work of this stream can rely on it."""
        if self._work is not None:
            with self._phases(WAITING):
                self._work.wait()
        # The work holds the tensors.
        self._work = None


class ProcessGroupRanks:
    """`easq_rec.losses.ranks.Ranks` over the default process group."""

    def __init__(self, runtime: Runtime) -> None:
        self.size = runtime.world_size
        self._phases = runtime.phases

    def sum(self, value: Tensor) -> Tensor:
        return self.start_sum(value)()

    def start_sum(self, value: Tensor) -> Pending:
        if self.size == 1:
            return lambda: value
        total = value.clone()
        exchange = Exchange(dist.all_reduce(total, async_op=True), self._phases)

        def wait() -> Tensor:
            exchange.wait()
            return total

        return wait

    def start_gather(self, value_XA: Tensor, room: int, fill: float) -> Pending:
        if self.size == 1:
            return lambda: value_XA
        mine = value_XA.new_full((len(value_XA), room), fill)
        mine[:, : value_XA.shape[1]] = value_XA
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        exchange = Exchange(dist.all_gather(parts, mine, async_op=True), self._phases)

        def wait() -> Tensor:
            exchange.wait()
            return torch.cat(parts, dim=1)

        return wait


@contextlib.contextmanager
def running(config: TrainerConfig) -> Iterator[Runtime]:
    """Sets the process up for training or evaluation, from torchrun's environment where there is one."""
    ranks = launch()
    device = _device(config.device, ranks.local_rank)
    threads = config.threads or cores.threads(ranks)
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(config.matmul)
    torch.manual_seed(config.seed)
    keep_freed_memory()
    quiet()
    own = (
        cores.pinned_to_share(ranks, threads) if config.pin_cores and device.type == "cpu" else contextlib.nullcontext()
    )
    with own, _process_group(ranks, device, config.timeout_s + GRACE_S):
        runtime = Runtime(
            rank=ranks.rank,
            local_rank=ranks.local_rank,
            world_size=ranks.world_size,
            device=device,
            lost=LostWrites(speaks=ranks.rank == 0),
        )
        yield runtime
        # After this collective, which is the last, no thread of gloo holds a tensor.
        runtime.barrier()


@contextlib.contextmanager
def _process_group(ranks: Launch, device: torch.device, timeout_s: int) -> Iterator[None]:
    """The default process group: all processes that torchrun has started, or this single process."""
    # Values that the host needs are exchanged on the host, also by ranks that train on GPUs.
    backend, timeout = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", datetime.timedelta(seconds=timeout_s)
    if ranks.world_size > 1:
        with _reported_wait(ranks, timeout_s):
            dist.init_process_group(backend, timeout=timeout)
    else:
        try:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)
        except RuntimeError as error:
            if "Unable to find interface" not in str(error):
                raise
            raise UserError(
                "no network interface is up, not even the loopback interface, which gloo needs, too: "
                "bring it up (ip link set lo up), or start the container with a network namespace that has one"
            ) from error
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _reported_wait(ranks: Launch, timeout_s: int) -> Iterator[None]:
    """Says what this rank waits for, if the block takes long."""
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    text = (
        f"easq-rec: rank {ranks.rank} still waits for the other ranks (WORLD_SIZE={ranks.world_size}) at {where} after "
        f"{REPORT_S} s, and gives up after {timeout_s} s"
    )
    timer = threading.Timer(REPORT_S, print, (text,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def quiet() -> None:
    """Keeps known chatter of upstream libraries out of the output; everything else still warns."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch(rec)?\.")
    warnings.filterwarnings(
        "ignore", category=DeprecationWarning, module=r"(torch|torchrec|fbgemm_gpu|pyre_extensions)\.?"
    )
    # TorchRec 1.6 asks torch for the device of a process group.
    warnings.filterwarnings("ignore", message="(`_get_pg_default_device` will be|Multiple backends are registered)")
    warnings.filterwarnings("ignore", message=r".*(_all_gather_base|_reduce_scatter_base|TypedStorage|is_fx_tracing).*")
    warnings.filterwarnings("ignore", message=r".*(ShardedTensor|sharded_tensor).*", category=FutureWarning)
    for name in ("torchrec", "fbgemm_gpu", "torch.fx._symbolic_trace", "torch.distributed.nn.jit", "root"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _device(choice: str, local_rank: int) -> torch.device:
    if choice == "cpu" or (choice == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("trainer.device='cuda' is not allowed: torch sees no CUDA device; run `easq-rec doctor`")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
