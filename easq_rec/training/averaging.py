"""Gradients of the dense network, averaged over the ranks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces each gradient by its mean over all ranks, by one all-reduce in the order of the parameters.

    A parameter without a gradient counts as one of 0, so that every rank sends equally much, and has one afterwards.
    Where none has one, nothing was differentiated, on any rank: then nothing is done.

    DistributedDataParallel would do it in buckets, beside the backward pass. But after the first step of a process it
    lays its buckets out anew, in the order in which gradients came, and a sum of more than two ranks is rounded
    according to its place in a bucket: a resumed run would not be the run that it goes on from. And it wants the same
    graph in every step, which steps that do not align do not have. The network is small beside the tables, a few MB.
    """
    found = list(parameters)
    if all(parameter.grad is None for parameter in found):
        return
    parts = [
        parameter.grad.flatten() if parameter.grad is not None else parameter.new_zeros(parameter.numel())
        for parameter in found
    ]
    whole = torch.cat(parts)
    dist.all_reduce(whole)
    whole /= dist.get_world_size()
    for parameter, mean in zip(found, whole.split([part.numel() for part in parts]), strict=True):
        parameter.grad = mean.view_as(parameter)
