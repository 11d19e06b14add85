"""How much faster are the project's CPU kernels than the code that they replace?

One thread, shapes of the reference workload; the kernels of a pair alternate within this process. Prints one JSON line
with milliseconds of CPU time (median over rounds) and the ratio of each pair.

    python -m benchmarks.kernels [--rounds 15] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor

from benchmarks.report import hardware, publish
from benchmarks.train_step import CANDIDATES, DIM, HISTORY, REQUESTS, VIDEOS
from easq_rec.config import TrainerConfig
from easq_rec.kernels.attention import attend, attend_reference
from easq_rec.kernels.experts import mix_experts
from easq_rec.kernels.linear import linear
from easq_rec.training.process import running
from easq_rec.training.sharding.host_lookup import pooled_lookup

USER_TOKENS, WIDTH, FFN, HEADS, ANSWERS = 6, 64, 256, 4, 8
TOKENS = REQUESTS * (USER_TOKENS + HISTORY + CANDIDATES)


def feed_forward_step(ours: bool, *, ragged: bool = False) -> Callable[[], None]:
    """Forward and backward of Linear, ReLU and Linear over all tokens; `ragged`: over a different number each time."""
    x = torch.randn(TOKENS, WIDTH, requires_grad=True)
    w1, b1 = torch.randn(FFN, WIDTH, requires_grad=True), torch.zeros(FFN, requires_grad=True)
    w2, b2 = torch.randn(WIDTH, FFN, requires_grad=True), torch.zeros(WIDTH, requires_grad=True)
    grad = torch.randn(TOKENS, WIDTH)
    rows = np.random.default_rng(0)

    def step() -> None:
        count = int(rows.integers(TOKENS * 7 // 8, TOKENS)) if ragged else TOKENS
        if ours:
            y = linear(linear(x[:count], w1, b1, relu=True), w2, b2, rectified=True)
        else:
            y = F.linear(F.relu(F.linear(x[:count], w1, b1)), w2, b2)
        torch.autograd.backward(y, grad[:count])

    return step


def experts_step(ours: bool) -> Callable[[], None]:
    """Forward and backward of the main tower's experts over the candidates."""
    experts, candidates = 8, REQUESTS * CANDIDATES
    x, gate = torch.randn(candidates, WIDTH, requires_grad=True), torch.rand(candidates, experts, requires_grad=True)
    in_KHD, in_KH = torch.randn(experts, 64, WIDTH, requires_grad=True), torch.zeros(experts, 64, requires_grad=True)
    out_KOH, out_KO = torch.randn(experts, 64, 64, requires_grad=True), torch.zeros(experts, 64, requires_grad=True)
    grad = torch.randn(candidates, 64)

    def plain() -> Tensor:
        hidden = F.relu(F.linear(x, in_KHD.flatten(0, 1), in_KH.flatten())).unflatten(-1, in_KH.shape)
        gated = (hidden * gate[..., None]).flatten(1)
        return F.linear(gated, out_KOH.transpose(0, 1).flatten(1)) + gate @ out_KO

    def step() -> None:
        y = mix_experts(x, gate, in_KHD, in_KH, out_KOH, out_KO) if ours else plain()
        torch.autograd.backward(y, grad)

    return step


def attention_step(
    function: Callable[..., Tensor], lists: int = REQUESTS, candidates: int = CANDIDATES, *, times: int = 1
) -> Callable[[], None]:
    """Forward and backward of one layer's attention, a number of times."""
    requests = USER_TOKENS + HISTORY
    query, key, value = (torch.randn(lists, requests + candidates, WIDTH, requires_grad=True) for _ in range(3))
    grad = torch.randn(lists, requests + candidates, WIDTH)

    def step() -> None:
        for _ in range(times):
            torch.autograd.backward(function(query, key, value, requests, None, HEADS), grad)

    return step


def lookup_step(pooled: bool) -> Callable[[], None]:
    """Lookup and fused update of a batch's video ids."""
    kernel = SplitTableBatchedEmbeddingBagsCodegen(
        [(VIDEOS, DIM, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        pooling_mode=PoolingMode.NONE,
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.05,
    )
    lookup = pooled_lookup(kernel) if pooled else kernel.forward
    ids = REQUESTS * (HISTORY + CANDIDATES)
    offsets = torch.tensor([0, ids])
    grad = torch.randn(ids, DIM)

    def step() -> None:
        torch.autograd.backward(lookup(torch.randint(0, VIDEOS, (ids,)), offsets), grad)

    return step


def milliseconds(step: Callable[[], None]) -> float:
    """CPU time of one call."""
    begin = time.process_time()
    step()
    return 1_000 * (time.process_time() - begin)


def measure(rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Milliseconds of each round: (our kernel, the replaced code)."""
    pairs = {
        "feed_forward": (feed_forward_step(True), feed_forward_step(False)),
        "feed_forward_ragged": (feed_forward_step(True, ragged=True), feed_forward_step(False, ragged=True)),
        "experts": (experts_step(True), experts_step(False)),
        "attention": (attention_step(attend), attention_step(attend_reference)),
        "attention_replayed_10_times": (
            attention_step(attend, ANSWERS, 1, times=10),
            attention_step(attend_reference, ANSWERS, 1, times=10),
        ),
        "unpooled_lookup": (lookup_step(True), lookup_step(False)),
    }
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in pairs}
    for round_ in range(rounds + 2):
        for name, steps in pairs.items():
            for step, values in zip(steps, times[name], strict=True):
                value = milliseconds(step)
                if round_ >= 2:
                    values.append(value)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with running(TrainerConfig(threads=1, device="cpu")):
        times = measure(args.rounds)
    result = {
        "benchmark": "kernels",
        "milliseconds": {
            name: {"ours": round(statistics.median(a), 2), "replaced": round(statistics.median(b), 2)}
            for name, (a, b) in times.items()
        },
        "speedup": {
            name: round(statistics.median(y / x for x, y in zip(a, b, strict=True)), 2)
            for name, (a, b) in times.items()
        },
        **hardware(),
    }
    publish(result, args.out)


if __name__ == "__main__":
    main()
