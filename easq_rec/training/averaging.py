"""Gradients of the dense network, averaged over the ranks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from easq_rec.training.phases import Phases
from easq_rec.training.process import Exchange
from easq_rec.upstream.torch_tensors import version


class Averaging:
    """Replaces gradients by their means over all ranks, with one all-reduce in the order of the parameters.

    The all-reduce runs from `start` to `finish`, in parallel with the backward pass of the tables. A parameter without
    a gradient counts as zero, so that every rank sends the same number of values, and has a gradient afterwards. If no
    parameter has a gradient, no rank had a backward pass, and nothing is sent.

    DistributedDataParallel is not used. It rebuilds its buckets after the first step of a process, in the order in
    which gradients arrived. The rounding of a sum over more than two ranks depends on the position in a bucket, so a
    resumed run would differ from an uninterrupted one. DistributedDataParallel also needs the same graph in every step,
    but steps that do not align lack the satisfaction pathway. The dense network has a few MB, little compared with the
    tables.
    """

    def __init__(self, phases: Phases) -> None:
        self._phases = phases
        self._sent: list[tuple[nn.Parameter, Tensor | None, int]] = []
        self._flat: Tensor | None = None
        self._exchange: Exchange | None = None

    @property
    def started(self) -> bool:
        return bool(self._sent)

    def start(self, parameters: Iterable[nn.Parameter]) -> None:
        """Starts the all-reduce of the current gradients."""
        self._sent = [(parameter, parameter.grad, _version(parameter.grad)) for parameter in parameters]
        if all(gradient is None for _, gradient, _ in self._sent):
            return
        self._flat = torch.cat(
            [
                gradient.flatten() if gradient is not None else parameter.new_zeros(parameter.numel())
                for parameter, gradient, _ in self._sent
            ]
        )
        self._exchange = Exchange(dist.all_reduce(self._flat, async_op=True), self._phases)

    def finish(self) -> None:
        """Waits for the all-reduce and writes the means to the parameters.

        Raises:
            RuntimeError: a gradient was added or changed after `start`.
        """
        sent, self._sent = self._sent, []
        late = sum(p.grad is not gradient or _version(gradient) != before for p, gradient, before in sent)
        if late:
            raise RuntimeError(f"{late} gradients of the network changed after they were sent to the other ranks")
        if self._exchange is None or self._flat is None:
            return
        self._exchange.wait()
        self._flat /= dist.get_world_size()
        means = self._flat.split([parameter.numel() for parameter, _, _ in sent])
        for (parameter, _, _), mean in zip(sent, means, strict=True):
            parameter.grad = mean.view_as(parameter)
        self._flat = self._exchange = None


def _version(gradient: Tensor | None) -> int:
    """Number of in-place changes of a tensor."""
    return -1 if gradient is None else version(gradient)
