"""Torch's random state on the CPU as a file: a NumPy array of bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def write_random_state(path: Path, state: Tensor) -> None:
    """Writes what `torch.get_rng_state` returned."""
    np.save(path, state.numpy(), allow_pickle=False)


def read_random_state(path: Path) -> Tensor:
    """A state for `torch.set_rng_state`."""
    return torch.from_numpy(np.load(path, allow_pickle=False))
