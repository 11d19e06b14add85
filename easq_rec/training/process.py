"""The process: device, process group, threads, memory allocator, seeds, and silence from upstream libraries."""

from __future__ import annotations

import contextlib
import datetime
import functools
import logging
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from easq_rec.config import Trainer
from easq_rec.losses.ranks import Pending
from easq_rec.training import cores
from easq_rec.training.memory import keep_freed

GRACE_S = 15
"""How much longer than `trainer.timeout_s` a collective waits: whoever watches the ranks says more than one that gives
up, and is to be the first."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where this process stands among the ranks, and on which device it computes."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this rank writes logs, tables and configuration."""
        return self.rank == 0

    def barrier(self) -> None:
        """Waits for all ranks."""
        self.agree(0)

    def agree(self, *values: int) -> list[int]:
        """Of each of the values the largest that any rank passes."""
        # On the host, through gloo: asking a GPU would wait for all that it has been given to do.
        return [int(value) for value in _start_max(torch.tensor(values))().tolist()]

    def start_any(self, flags: Tensor) -> Pending:
        """Of each flag whether any rank has it, by an exchange where the flags are; the first call waits for it."""
        if self.world_size == 1:
            return lambda: flags
        found = _start_max(flags.to(torch.uint8))
        return functools.cache(lambda: found().bool())

    def share(self, value: str) -> str:
        """Rank 0's string, on every rank."""
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]


def _start_max(value: Tensor) -> Pending:
    """The largest of each value over the ranks; `value` is the caller's no more."""
    exchange = Exchange("all_reduce", dist.all_reduce(value, op=dist.ReduceOp.MAX, async_op=True))

    def found() -> Tensor:
        exchange.wait()
        # Gloo's thread lets go of the tensor a moment later, for which it needs the interpreter. If that were
        # coming to its end by then, the process would abort.
        while value.device.type == "cpu" and value._use_count() > 1:  # type: ignore[attr-defined]
            time.sleep(1e-4)
        return value

    return found


class Exchange:
    """A collective of the default process group that is under way.

    Args:
        name: what a rank that is stuck in it is said to wait in.
    """

    def __init__(self, name: str, work: dist.Work | None) -> None:
        self.name = name
        assert work is not None, "every rank is a member of the default group"
        self._work: dist.Work | None = work

    def wait(self) -> None:
        """Returns when it is done; on CUDA, when later work of this stream can rely on it."""
        if self._work is not None:
            self._work.wait()
        # It holds the tensors.
        self._work = None


class ProcessGroupRanks:
    """`easq_rec.losses.ranks.Ranks` over the default process group."""

    def __init__(self, world_size: int) -> None:
        self.size = world_size

    def sum(self, value: Tensor) -> Tensor:
        return self.start_sum(value)()

    def start_sum(self, value: Tensor) -> Pending:
        if self.size == 1:
            return lambda: value
        total = value.clone()
        exchange = Exchange("all_reduce", dist.all_reduce(total, async_op=True))

        def found() -> Tensor:
            exchange.wait()
            return total

        return found

    def start_gather(self, value_XA: Tensor, room: int, fill: float) -> Pending:
        if self.size == 1:
            return lambda: value_XA
        mine = value_XA.new_full((len(value_XA), room), fill)
        mine[:, : value_XA.shape[1]] = value_XA
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        exchange = Exchange("all_gather", dist.all_gather(parts, mine, async_op=True))

        def found() -> Tensor:
            exchange.wait()
            return torch.cat(parts, dim=1)

        return found


@contextlib.contextmanager
def running(config: Trainer) -> Iterator[Runtime]:
    """Sets the process up for training or evaluation, from torchrun's environment where there is one."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local_rank = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    device = _device(config.device, local_rank)
    threads = config.threads or cores.threads()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(config.matmul)
    torch.manual_seed(config.seed)
    keep_freed()
    quiet()
    own = cores.kept_to_share(threads) if config.pin_cores and device.type == "cpu" else contextlib.nullcontext()
    with own, _process_group(device, datetime.timedelta(seconds=config.timeout_s + GRACE_S)):
        runtime = Runtime(rank=rank, local_rank=local_rank, world_size=world_size, device=device)
        yield runtime
        # Whatever collective was the last: after this one no thread holds a tensor.
        runtime.barrier()


@contextlib.contextmanager
def _process_group(device: torch.device, timeout: datetime.timedelta) -> Iterator[None]:
    """The default process group: all processes that torchrun has started, or this single process."""
    # Values that the host needs are exchanged on the host, also by ranks that train on GPUs.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)
    try:
        yield
    finally:
        dist.destroy_process_group()


def quiet() -> None:
    """Keeps known chatter of upstream libraries out of the output; everything else still warns."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch(rec)?\.")
    warnings.filterwarnings(
        "ignore", category=DeprecationWarning, module=r"(torch|torchrec|fbgemm_gpu|pyre_extensions)\.?"
    )
    warnings.filterwarnings("ignore", message=r".*(_all_gather_base|_reduce_scatter_base|TypedStorage|is_fx_tracing).*")
    warnings.filterwarnings("ignore", message=r".*(ShardedTensor|sharded_tensor).*", category=FutureWarning)
    for name in ("torchrec", "fbgemm_gpu", "torch.fx._symbolic_trace", "torch.distributed.nn.jit", "root"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _device(choice: str, local_rank: int) -> torch.device:
    if choice == "cpu" or (choice == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("trainer.device='cuda' is not allowed: torch sees no CUDA device; run `easq-rec doctor`")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
