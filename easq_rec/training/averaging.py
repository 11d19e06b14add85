"""Gradients of the dense network, averaged over the ranks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from easq_rec.training.process import Exchange


class Averaging:
    """Replaces gradients by their means over all ranks, by one all-reduce in the order of the parameters.

    It is on its way from `start` to `finish`, while the tables' gradients are. A parameter without a gradient counts as
    one of 0, so that every rank sends equally much, and has one afterwards. Where none has one, nothing was
    differentiated, on any rank: then nothing is done.

    DistributedDataParallel would do it in buckets, beside the backward pass. But after the first step of a process it
    lays its buckets out anew, in the order in which gradients came, and a sum of more than two ranks is rounded
    according to its place in a bucket: a resumed run would not be the run that it goes on from. And it wants the same
    graph in every step, which steps that do not align do not have. The network is small beside the tables, a few MB.
    """

    def __init__(self) -> None:
        self._sent: list[tuple[nn.Parameter, Tensor | None, int]] = []
        self._whole: Tensor | None = None
        self._exchange: Exchange | None = None

    @property
    def started(self) -> bool:
        return bool(self._sent)

    def start(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sends the gradients as they are."""
        self._sent = [(parameter, parameter.grad, _version(parameter.grad)) for parameter in parameters]
        if all(gradient is None for _, gradient, _ in self._sent):
            return
        self._whole = torch.cat(
            [
                gradient.flatten() if gradient is not None else parameter.new_zeros(parameter.numel())
                for parameter, gradient, _ in self._sent
            ]
        )
        self._exchange = Exchange("all_reduce", dist.all_reduce(self._whole, async_op=True))

    def finish(self) -> None:
        """Puts the means in their place.

        Raises:
            RuntimeError: a gradient came, or changed, after they were sent.
        """
        sent, self._sent = self._sent, []
        late = sum(p.grad is not gradient or _version(gradient) != version for p, gradient, version in sent)
        if late:
            raise RuntimeError(f"{late} gradients of the network came after it had sent them to the other ranks")
        if self._exchange is None or self._whole is None:
            return
        self._exchange.wait()
        self._whole /= dist.get_world_size()
        means = self._whole.split([parameter.numel() for parameter, _, _ in sent])
        for (parameter, _, _), mean in zip(sent, means, strict=True):
            parameter.grad = mean.view_as(parameter)
        self._whole = self._exchange = None


def _version(gradient: Tensor | None) -> int:
    """Counts how often a tensor was written to."""
    return -1 if gradient is None else gradient._version
