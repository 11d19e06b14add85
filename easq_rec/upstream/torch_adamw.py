"""The state of torch's fused AdamW, and its flag that skips an update."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchrec.optim.keyed import KeyedOptimizerWrapper


def initial_state(parameter: nn.Parameter) -> dict[str, Tensor]:
    """The state that fused AdamW creates at the first gradient of a parameter."""
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
    }


def step_unless(adamw: KeyedOptimizerWrapper, skip: Tensor) -> None:
    """Updates the parameters and the state of a wrapped fused AdamW.

    Args:
        skip: FP32, 1 to change nothing, else 0. It is read on the device, as the overflow flag of GradScaler is.
    """
    adamw._optimizer.found_inf = skip
    adamw.step()
