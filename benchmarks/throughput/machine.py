"""Limits of the machine with as many busy ranks as in training: matrix products and memory bandwidth."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from easq_rec.kernels.linear import product

SIDE = 1_024
"""Size of the square matrices on CPU: 4 MiB each in FP32, larger than a core's cache and fast enough."""
CUDA_SIDE = 8_192
STREAMED = 256 * 2**20
"""Bytes to copy: larger than any cache of a CPU, and of a GPU."""


def ceilings(device: torch.device, *, seconds: float) -> dict[str, float]:
    """GFLOP/s of FP32 and BF16 products, by the kernels that the model uses, and GB/s read and written by a copy.

    Medians over repetitions, for about `seconds` seconds each.
    """
    side = CUDA_SIDE if device.type == "cuda" else SIDE
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        x, weight = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        took = _median_seconds(lambda x=x, weight=weight: product(x, weight, None), device, seconds)
        found[f"gemm_{name}_gflops"] = round(2 * side**3 / took / 1e9, 1)
    source = torch.ones(STREAMED // 4, device=device)
    target = torch.empty_like(source)
    took = _median_seconds(lambda: target.copy_(source), device, seconds)
    found["bandwidth_gb_per_s"] = round(2 * STREAMED / took / 1e9, 1)
    return found


def _median_seconds(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    taken: list[float] = []
    _call(call, device)
    begin = time.perf_counter()
    while len(taken) < 3 or time.perf_counter() - begin < seconds:
        taken.append(_call(call, device))
    return statistics.median(taken)


def _call(call: Callable[[], object], device: torch.device) -> float:
    begin = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin
