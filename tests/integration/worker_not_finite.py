"""`easq-rec train`, with a NaN planted in one step of one rank.

    worker_not_finite.py loss|network|embeddings RANK [arguments of train]

loss: in a float feature of the batch, so that the loss is NaN. network, embeddings: in the gradient alone, of what the
network computes or of what the tables returned.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from easq_rec import arguments, train
from easq_rec.data.batch import RequestBatch
from easq_rec.data.loader import LoaderState, TrainLoader
from easq_rec.nn.backbone import Backbone
from easq_rec.nn.lora import Stream
from easq_rec.nn.network import RankingNetwork

STEP = 3


class Poison(torch.autograd.Function):
    """The value as it is, and NaN for its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.full_like(gradient, float("nan"))


def plant(where: str) -> None:
    """In step STEP of this process."""
    batches, whole, backbone = TrainLoader.batches, RankingNetwork._whole, Backbone.forward
    steps = {"forward": 0}

    def poisoned_batches(self: TrainLoader, *args: Any, **named: Any) -> Iterator[tuple[RequestBatch, LoaderState]]:
        for number, (batch, state) in enumerate(batches(self, *args, **named), 1):
            if number == STEP:
                batch = dataclasses.replace(batch, float_NF=torch.full_like(batch.float_NF, float("nan")))
            yield batch, state

    def poisoned_embeddings(self: RankingNetwork, user: Any, *args: Any) -> Any:
        part = whole(self, user, *args)
        steps["forward"] += 1
        if steps["forward"] == STEP and self.training:
            embedded = part.embedded
            # Between the tables and the network: what comes from here reaches the tables alone.
            return dataclasses.replace(
                part, embedded=dataclasses.replace(embedded, user_RM=Poison.apply(embedded.user_RM))
            )
        return part

    def poisoned_network(self: Backbone, *args: Any) -> Tensor:
        value = backbone(self, *args)
        # The satisfaction stream passes through it as well, in a step that aligns.
        steps["forward"] += Stream.MAIN in args and self.training
        return Poison.apply(value) if steps["forward"] == STEP and Stream.MAIN in args else value

    match where:
        case "loss":
            TrainLoader.batches = poisoned_batches  # type: ignore[method-assign,assignment]
        case "embeddings":
            RankingNetwork._whole = poisoned_embeddings  # type: ignore[method-assign]
        case "network":
            Backbone.forward = poisoned_network  # type: ignore[method-assign]


if __name__ == "__main__":
    what, rank, *rest = sys.argv[1:]
    if os.environ.get("RANK", "0") == rank:
        plant(what)
    sys.exit(arguments.run(lambda: train.main(rest)))
