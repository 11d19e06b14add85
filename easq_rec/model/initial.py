"""Initial weights with the same bits on every CPU, on any number of ranks and in any shard.

torch's random numbers depend on the instruction set of the CPU. Here element i of a parameter is a function of (seed,
name of the parameter, i): word i of a counter-based generator (Philox, Salmon et al. 2011), which exact arithmetic
turns into a number. So a rank computes its shard without the rest of the table, and parameters of the same name start
equal in every variant of the model.

Most modules state the laws of their parameters in a method `laws`; those of torch are here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

BLOCK = 1 << 16
"""Elements that are drawn at once; a multiple of the 4 words that Philox makes from one counter."""


@dataclass(frozen=True)
class Constant:
    """The same value everywhere."""

    value: float


@dataclass(frozen=True)
class Uniform:
    """Uniform between -bound and bound."""

    bound: float


@dataclass(frozen=True)
class Normal:
    """Close to normal, of mean 0: the sum of four uniform numbers, which has no values beyond 3.46 `std`.

    A true normal number needs a logarithm, which is not exact, or an approximation of it, which costs several times as
    much. Weights need the standard deviation and few large values, not the shape of far tails.
    """

    std: float


Law = Constant | Uniform | Normal


@runtime_checkable
class HasLaws(Protocol):
    """A module that knows how its parameters start."""

    def laws(self) -> Mapping[str, Law]:
        """Laws by the parameters' names within the module; those of children may be among them and count."""
        ...


def fan_in(inside: int) -> Uniform:
    """torch's default for a linear of `inside` inputs, and Kaiming's law with a = sqrt(5)."""
    return Uniform(1 / math.sqrt(inside))


def kaiming(inside: int) -> Uniform:
    """Keeps the variance of activations behind a ReLU (He et al. 2015)."""
    return Uniform(math.sqrt(6 / inside))


def xavier(inside: int, outside: int) -> Uniform:
    """Keeps the variance of activations and gradients about equal (Glorot and Bengio 2010)."""
    return Uniform(math.sqrt(6 / (inside + outside)))


@torch.no_grad()
def initialise(module: nn.Module, *, seed: int, prefix: str = "") -> None:
    """Gives every parameter of a module its initial value, except those on the meta device.

    Args:
        prefix: where the module stands in the whole model, as `ranker`. Parameters are named by it and their own names.
    """
    laws = _laws(module)
    for name, parameter in module.named_parameters():
        assert name in laws, f"{name} has no law for its initial values"
        if not parameter.is_meta:
            parameter.copy_(values(laws[name], seed, f"{prefix}.{name}" if prefix else name, parameter.shape))


def values(law: Law, seed: int, name: str, shape: tuple[int, ...], *, rows: slice | None = None) -> Tensor:
    """Initial values of a parameter, or of some of its rows; float32.

    Args:
        shape: of the whole parameter.
        rows: a range of its first dimension; None: all.
    """
    width = math.prod(shape[1:])
    first, last, _ = (rows or slice(None)).indices(shape[0] if shape else 1)
    if isinstance(law, Constant):
        found = np.full((last - first) * width, law.value, dtype=np.float32)
    else:
        found = np.empty((last - first) * width, dtype=np.float32)
        begin, key = first * width, int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "little")
        for start in range(0, len(found), BLOCK):
            part = found[start : start + BLOCK]
            part[:] = _numbers(law, _words(key, begin + start, len(part)))
    return torch.from_numpy(found).reshape(last - first if shape else (), *shape[1:])


def _words(key: int, start: int, count: int) -> NDArray[np.uint64]:
    """Words `start` to `start + count` of the sequence that belongs to `key`."""
    skipped = start % 4
    words: NDArray[np.uint64] = np.random.Philox(key=key, counter=start // 4).random_raw(skipped + count)
    return words[skipped:]


def _numbers(law: Uniform | Normal, word_N: NDArray[np.uint64]) -> NDArray[np.float64]:
    match law:
        case Uniform(bound):
            # 53 bits to [0, 1), without rounding.
            return ((word_N >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1) * bound
        case Normal(std):
            # Four uniform numbers of 16 bits: two sums side by side in one word, then the sum of both.
            halves = np.uint64(0x0000FFFF_0000FFFF)
            sums_N = (word_N & halves) + ((word_N >> np.uint64(16)) & halves)
            total_N = (sums_N & np.uint64(0xFFFFFFFF)) + (sums_N >> np.uint64(32))
            return (total_N.astype(np.float64) - 2 * 65_535) * (std / math.sqrt((65_536**2 - 1) / 3))


def _laws(module: nn.Module) -> dict[str, Law]:
    """The law of every parameter by its name."""
    laws: dict[str, Law] = {}
    # Children first: what a module says of its children's parameters counts.
    for path, part in reversed(list(module.named_modules())):
        laws |= {f"{path}.{name}" if path else name: law for name, law in _laws_of(part).items()}
    return laws


def _laws_of(module: nn.Module) -> Mapping[str, Law]:
    match module:
        case HasLaws():
            return module.laws()
        case nn.Linear():
            return {"weight": fan_in(module.in_features), "bias": fan_in(module.in_features)}
        case nn.LayerNorm():
            return {"weight": Constant(1.0), "bias": Constant(0.0)}
        case _:
            return {}
