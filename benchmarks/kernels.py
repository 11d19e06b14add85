"""What do the project's own CPU kernels gain over what they replace?

One thread, shapes of the reference workload; each pair takes turns within this process. Prints one JSON line with
milliseconds of CPU time (median over rounds) and the ratio of each pair.

    python -m benchmarks.kernels [--rounds 15] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor

from benchmarks.train_step import CANDIDATES, DIM, HISTORY, REQUESTS, VIDEOS, hardware
from easq_rec.nn.attention import attend, attend_reference
from easq_rec.nn.linear import linear
from easq_rec.training.host_lookup import pooled_lookup

USER_TOKENS, WIDTH, FFN, HEADS = 6, 64, 256, 4
TOKENS = REQUESTS * (USER_TOKENS + HISTORY + CANDIDATES)


def linear_step(product: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[], None]:
    """Forward and backward of Linear and ReLU over all tokens."""
    x = torch.randn(TOKENS, WIDTH, requires_grad=True)
    weight, bias = torch.randn(FFN, WIDTH, requires_grad=True), torch.zeros(FFN, requires_grad=True)
    grad = torch.randn(TOKENS, FFN)
    return lambda: torch.autograd.backward(product(x, weight, bias), grad)


def attention_step(function: Callable[..., Tensor]) -> Callable[[], None]:
    """Forward and backward of one layer's attention."""
    tokens = USER_TOKENS + HISTORY + CANDIDATES
    query, key, value = (torch.randn(REQUESTS, tokens, WIDTH, requires_grad=True) for _ in range(3))
    grad = torch.randn(REQUESTS, tokens, WIDTH)
    requests = USER_TOKENS + HISTORY
    return lambda: torch.autograd.backward(function(query, key, value, requests, None, HEADS), grad)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pairs = {
        "linear_relu": (linear_step(lambda x, w, b: linear(x, w, b, relu=True)), _torch_linear_relu()),
        "attention": (attention_step(attend), attention_step(attend_reference)),
        "unpooled_lookup": (lookup_step(True), lookup_step(False)),
    }
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in pairs}
    for round_ in range(args.rounds + 2):
        for name, steps in pairs.items():
            for step, values in zip(steps, times[name], strict=True):
                value = milliseconds(step)
                if round_ >= 2:
                    values.append(value)
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
    line = json.dumps(result)
    print(line)
    if args.out:
        args.out.write_text(line + "\n")


def _torch_linear_relu() -> Callable[[], None]:
    return linear_step(lambda x, w, b: F.relu(F.linear(x, w, b)))


if __name__ == "__main__":
    main()
