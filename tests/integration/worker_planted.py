"""`easq-rec train` with planted faults in one rank.

    worker_planted.py WHAT@STEP[,WHAT@STEP...] RANK [arguments of train]

- loss: a float feature of the batch is NaN, and so is the loss.
- network: only the gradient of the backbone's output is NaN.
- embeddings: only the gradient of the embeddings is NaN.
- error: reading the batch fails.
- hang: reading the batch never ends.
- slow: reading this batch and every later batch takes two seconds.
- evaluation: every batch of an evaluation takes a second. STEP is ignored.
- start, end: the rank hangs before the first step, or after the last evaluation. STEP is ignored.
- late: every rank reads the flags of a step after it has made the next step, as on a GPU.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from easq_rec import train
from easq_rec.data.batch import RequestBatch
from easq_rec.data.loader import LoaderState, TrainLoader
from easq_rec.model.backbones.transformer import TransformerBackbone
from easq_rec.model.lora import Stream
from easq_rec.model.network import NetworkOutput, RankingNetwork
from easq_rec.model.ranker import Scores
from easq_rec.model.tokens import Tokens
from easq_rec.run_directory.run_log import RunLog
from easq_rec.tools.simulation import default_data
from easq_rec.training.health import finite_check
from easq_rec.training.holdout_evaluation import HoldoutEvaluation
from tests.poison import Poison

SLOW_S, FOREVER_S = 2, 3_600


def plant(what: str, at: int) -> None:
    """Plants a fault in step number `at` of this process."""
    batches, network, backbone = TrainLoader.batches, RankingNetwork.forward, TransformerBackbone.forward
    forward = 0

    def poisoned_batches(self: TrainLoader, *args: Any, **named: Any) -> Iterator[tuple[RequestBatch, LoaderState]]:
        for number, (batch, state) in enumerate(batches(self, *args, **named), 1):
            if number == at:
                batch = dataclasses.replace(batch, float_NF=torch.full_like(batch.float_NF, float("nan")))
            yield batch, state

    def disturbed_batches(self: TrainLoader, *args: Any, **named: Any) -> Iterator[tuple[RequestBatch, LoaderState]]:
        for number, item in enumerate(batches(self, *args, **named), 1):
            if number == at and what == "error":
                raise RuntimeError(f"the disk of rank {os.environ['RANK']} is gone")
            if number >= at:
                time.sleep(SLOW_S if what == "slow" else FOREVER_S)
            yield item

    def slow_score(self: HoldoutEvaluation, batch: RequestBatch) -> Scores:
        time.sleep(1)
        with torch.no_grad():
            return self.ranker.score(batch)

    def hang(*args: Any) -> None:
        time.sleep(FOREVER_S)

    def poisoned_embeddings(self: RankingNetwork, *args: Any) -> NetworkOutput:
        nonlocal forward
        output = network(self, *args)
        forward += self.training
        if forward == at and self.training:
            for embedded in output.embedded:
                # The gradient hook of the training step is registered later, so it gets what this one returns.
                embedded.register_hook(lambda gradient: torch.full_like(gradient, float("nan")))
        return output

    def poisoned_network(self: TransformerBackbone, tokens: Tokens, stream: Stream) -> Tensor:
        nonlocal forward
        value = backbone(self, tokens, stream)
        # In a step that aligns, the satisfaction stream also passes through the backbone.
        forward += stream is Stream.MAIN and self.training
        return Poison.apply(value, "nan") if forward == at and stream is Stream.MAIN else value

    match what:
        case "loss":
            TrainLoader.batches = poisoned_batches  # type: ignore[method-assign,assignment]
        case "error" | "hang" | "slow":
            TrainLoader.batches = disturbed_batches  # type: ignore[method-assign,assignment]
        case "start":
            default_data.prepare_data = hang  # type: ignore[assignment]
        case "end":
            RunLog.close = hang  # type: ignore[assignment]
        case "evaluation":
            HoldoutEvaluation.score = slow_score  # type: ignore[method-assign]
        case "embeddings":
            RankingNetwork.forward = poisoned_embeddings  # type: ignore[method-assign]
        case "network":
            TransformerBackbone.forward = poisoned_network  # type: ignore[method-assign]


if __name__ == "__main__":
    planted, rank, *rest = sys.argv[1:]
    if "late" in planted.split(","):
        finite_check.read_delay = lambda device: 1
    if os.environ.get("RANK", "0") == rank:
        for one in planted.split(","):
            what, _, step = one.partition("@")
            plant(what, int(step or 1))
    sys.exit(train.script(lambda: train.main(rest)))
