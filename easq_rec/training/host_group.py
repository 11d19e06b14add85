"""A process group for ranks of one host that compute on its cores: gloo, with what every step exchanges through shared
memory instead of TCP.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from easq_rec.training import host_channel
from easq_rec.training.host_channel import Channel, Gone

BACKEND = "host"
"""Its name for `torch.distributed.init_process_group`, once this module is imported."""

KINDS = ALL_TO_ALL, ALL_REDUCE, ALL_GATHER = "all_to_all_single", "all_reduce", "all_gather"
FORWARDED = (
    *("_allgather_base", "_reduce_scatter_base", "all_gather_single", "all_gather_single_coalesced"),
    *("allgather_coalesced", "allgather_into_tensor_coalesced", "allreduce_coalesced", "alltoall", "alltoall_base"),
    *("barrier", "broadcast", "gather", "monitored_barrier", "recv", "recv_anysource", "reduce", "reduce_scatter"),
    *("reduce_scatter_single", "reduce_scatter_single_coalesced", "reduce_scatter_tensor_coalesced", "scatter", "send"),
)
"""Methods of torch's class that are left to gloo."""
REDUCTIONS: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    dist.ReduceOp.SUM: lambda total, other: total.add_(other),
    dist.ReduceOp.MAX: lambda total, other: torch.maximum(total, other, out=total),
}
ADDED_BY_EACH, SMALL = 8, 64 << 10
"""Up to so many ranks, or bytes, each rank adds up what it gets from all others; gloo sends less beyond."""
IN_FLIGHT = 64
"""Collectives under way at most, since a socket holds some hundred packets; one more first waits for the oldest."""

_RANK = struct.Struct("=Q")
_CREDENTIALS = struct.Struct("iII")
"""Process, user and group of the other end of a Unix socket."""


def available() -> bool:
    """Whether one launcher has started all ranks, on this host, and the system lets them share memory."""
    ranks = os.environ.get("WORLD_SIZE", "1")
    return ranks != "1" and os.environ.get("LOCAL_WORLD_SIZE") == ranks and host_channel.available()


class HostGroup(dist.ProcessGroup):
    """All-to-all, all-gather and most all-reduces (sums and maxima) go through shared memory, all else through gloo.

    A collective sends when it is called, and receives when it or a later one is waited for, in the thread that waits:
    none is woken. An all-reduce adds up in the order of the ranks, so that all get the same bits.

    Every rank makes the same calls in the same order, from one thread. RuntimeError names what is amiss: a rank that
    has ended, that has come with another call, or that does not come within `timeout`.
    """

    def __init__(self, store: dist.Store, rank: int, size: int, timeout: datetime.timedelta) -> None:
        super().__init__(rank, size)  # type: ignore[call-arg]  # the stub lacks this one
        self._own, self._ranks, self._timeout_s = rank, size, timeout.total_seconds()
        backend = dist.ProcessGroupGloo(dist.PrefixStore("gloo", store), rank, size, timeout=timeout)
        backend._set_sequence_number_for_group()
        self._gloo = dist.ProcessGroup(store, rank, size)
        for group in (self, self._gloo):
            group._set_default_backend(dist.ProcessGroup.BackendType.GLOO)
            group._register_backend(torch.device("cpu"), dist.ProcessGroup.BackendType.GLOO, backend)
        self._channels = connect(dist.PrefixStore("host", store), rank, size, self._timeout_s)
        self._under_way: deque[_HostWork] = deque()
        self._failure: str | None = None

    def all_to_all_single(
        self,
        output: Tensor,
        input: Tensor,
        output_split_sizes: Sequence[int],
        input_split_sizes: Sequence[int],
        opts: object = None,
    ) -> dist.Work:
        mine = self._parts(ALL_TO_ALL, input.contiguous(), input_split_sizes)
        theirs = self._parts(ALL_TO_ALL, output, output_split_sizes)
        return self._exchange(ALL_TO_ALL, mine, theirs)

    def allgather(  # type: ignore[override]
        self, output_tensors: list[list[Tensor]], input_tensors: list[Tensor], opts: object = None
    ) -> dist.Work:
        ((outputs,), (input,)) = output_tensors, input_tensors
        mine = _bytes(ALL_GATHER, input.contiguous())
        return self._exchange(ALL_GATHER, [mine] * self._ranks, [_bytes(ALL_GATHER, output) for output in outputs])

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> dist.Work:  # type: ignore[override]
        opts = opts or dist.AllreduceOptions()
        reduce = next((function for known, function in REDUCTIONS.items() if opts.reduceOp == known), None)
        many = self._ranks > ADDED_BY_EACH and tensors[0].nbytes > SMALL
        if reduce is None or len(tensors) != 1 or many:
            return self._gloo.allreduce(tensors, opts)
        content = _bytes(ALL_REDUCE, tensors[0])
        total = content.view(tensors[0].dtype)

        def finish() -> None:
            own = total.clone()
            for rank in range(self._ranks):
                part = own if rank == self._own else self._receive(ALL_REDUCE, rank, len(content)).view(total.dtype)
                if rank == 0:
                    total.copy_(part)
                else:
                    reduce(total, part)

        return self._start(ALL_REDUCE, [content] * self._ranks, finish)

    def getBackendName(self) -> str:
        """What it is to torch's sharded tensors, which take the groups of unknown names for those of GPUs."""
        return "gloo"

    def finish(self, work: dist.Work) -> None:
        """Receives for all collectives up to this one.

        Raises:
            RuntimeError: as the class says; the group cannot be used any more.
        """
        while not work.is_completed():
            if self._failure is not None:
                raise RuntimeError(self._failure)
            self._under_way[0].receive()
            self._under_way.popleft()

    def shutdown(self) -> None:
        for channel in self._channels.values():
            channel.close()
        self._gloo.shutdown()

    def _exchange(self, kind: str, mine: list[Tensor], theirs: list[Tensor]) -> dist.Work:
        """Sends to each rank its part, and receives one from each, as bytes."""

        def finish() -> None:
            for rank in self._channels:
                theirs[rank].copy_(self._receive(kind, rank, len(theirs[rank])))

        theirs[self._own].copy_(mine[self._own])
        return self._start(kind, mine, finish)

    def _start(self, kind: str, mine: list[Tensor], finish: Callable[[], None]) -> dist.Work:
        while len(self._under_way) >= IN_FLIGHT:
            self.finish(self._under_way[0])
        for rank, channel in self._channels.items():
            with self._told(kind, rank):
                channel.send(KINDS.index(kind), mine[rank])
        self._under_way.append(work := _HostWork(self, finish))
        return work

    def _receive(self, kind: str, rank: int, size: int) -> Tensor:
        """(size,) uint8, valid until the next exchange with this rank."""
        with self._told(kind, rank):
            message = self._channels[rank].receive()
        if message.tag != KINDS.index(kind) or len(message.content) != size:
            self._fail(
                f"rank {self._own} waits for {size:,} bytes of rank {rank} in {kind}, but that came with "
                f"{len(message.content):,} in {KINDS[message.tag]}: they do not make the same calls"
            )
        return message.content

    @contextlib.contextmanager
    def _told(self, kind: str, rank: int) -> Iterator[None]:
        try:
            yield
        except Gone:
            self._fail(f"rank {rank} has ended while rank {self._own} was with it in {kind}")
        except TimeoutError:
            self._fail(f"rank {rank} did not come to {kind} within {self._timeout_s:g} s, where rank {self._own} waits")

    def _fail(self, problem: str) -> NoReturn:
        self._failure = problem
        raise RuntimeError(problem)

    def _parts(self, kind: str, tensor: Tensor, rows: Sequence[int]) -> list[Tensor]:
        """The bytes of each rank's rows; `rows`: how many, [] for an equal share."""
        content = _bytes(kind, tensor)
        if not rows:
            if len(tensor) % self._ranks:
                raise ValueError(f"{kind} of {len(tensor)} rows: {self._ranks} ranks have no equal share")
            return list(content.view(self._ranks, -1))
        if sum(rows) != len(tensor) or len(rows) != self._ranks:
            raise ValueError(f"{kind} of {len(tensor)} rows over {self._ranks} ranks: {list(rows)} does not add up")
        row = tensor.shape[1:].numel() * tensor.element_size()
        return list(content.split([count * row for count in rows]))


class _HostWork(dist.Work):
    """A collective under way."""

    def __init__(self, group: HostGroup, finish: Callable[[], None]) -> None:
        super().__init__()
        self._group = group
        self._finish: Callable[[], None] | None = finish

    def receive(self) -> None:
        """Called once, in the order in which collectives were started."""
        assert self._finish is not None
        self._finish()
        # It holds the tensors.
        self._finish = None

    def is_completed(self) -> bool:
        return self._finish is None

    def wait(self, timeout: object = None) -> bool:
        self._group.finish(self)
        return True


def connect(store: dist.Store, rank: int, ranks: int, timeout_s: float) -> dict[int, Channel]:
    """A channel to each of the other ranks, which call this as well; by their order."""
    found: dict[int, socket.socket] = {}
    with _socket(timeout_s) as listener:
        # In the abstract namespace: no file is left behind. No other user gets in, see below.
        address = f"\0easq-rec-{secrets.token_hex(16)}"
        listener.bind(address)
        listener.listen(ranks)
        store.set(f"address-{rank}", address)
        for peer in range(rank):
            found[peer] = _socket(timeout_s)
            found[peer].connect(store.get(f"address-{peer}"))
            found[peer].send(_RANK.pack(rank))
        while len(found) < ranks - 1:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                missing = ", ".join(str(peer) for peer in range(ranks) if peer not in {rank, *found})
                raise RuntimeError(f"ranks {missing} did not come to rank {rank} within {timeout_s:g} s") from None
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            if _CREDENTIALS.unpack(credentials)[1] != os.geteuid():
                connection.close()
                continue
            connection.settimeout(timeout_s)
            found[_RANK.unpack(connection.recv(_RANK.size))[0]] = connection
    return {peer: Channel(found[peer]) for peer in sorted(found)}


def _socket(timeout_s: float) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.settimeout(timeout_s)
    return made


def _bytes(kind: str, tensor: Tensor) -> Tensor:
    """(bytes,) uint8, the memory of the tensor itself."""
    if not tensor.is_contiguous():
        raise ValueError(f"{kind} writes into a tensor of shape {tuple(tensor.shape)} that is not contiguous")
    return tensor.detach().view(-1).view(torch.uint8)


def _forward(name: str) -> None:
    """Has a group of its own make a collective: a method that a Python class inherits from torch's keeps the
    interpreter's lock while it waits for gloo's, which gloo's thread may hold while it waits for the interpreter's.
    """
    setattr(HostGroup, name, lambda self, *args, **options: getattr(self._gloo, name)(*args, **options))


for _name in FORWARDED:
    _forward(_name)
dist.Backend.register_backend(BACKEND, HostGroup, devices=["cpu"])
