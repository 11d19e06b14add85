"""Operators still have the names and schemas that the counters of work and of collectives read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from easq_rec.upstream import torch_dispatch

CHANGED = "torch has changed {}: adapt easq_rec/upstream/torch_dispatch.py"


class Seen(torch_dispatch.TorchDispatchMode):
    """Records the operators that run within the context."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators.append(func)
        return func(*args, **(kwargs or {}))


def operators(call: Callable[[], object]) -> list[Any]:
    with Seen() as seen:
        call()
    return seen.operators


def test_operators_have_the_expected_names() -> None:
    x = torch.ones(2, 2)
    found = operators(lambda: torch.addmm(x, x, x))
    assert [torch_dispatch.name(one) for one in found] == ["addmm"], CHANGED.format("OpOverload._opname")
    assert [torch_dispatch.overload_packet(one) for one in found] == ["aten.addmm"], CHANGED.format(
        "OpOverload._overloadpacket"
    )


def test_views_are_recognized_by_their_schema() -> None:
    x = torch.ones(2, 2)
    calls = {lambda: x.t(): True, lambda: x[0]: True, lambda: x + x: False, lambda: x.add_(1): False}
    for call, expected in calls.items():
        found = any(torch_dispatch.returns_view(one) for one in operators(call))
        assert found == expected, CHANGED.format("OpOverload._schema or its alias_info")


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.max().item(),
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
        lambda x: x.unique_consecutive(),
        lambda x: torch.tensor(1.0),
    ],
)
def test_reads_by_the_host_are_detected(call: Callable[[Tensor], object]) -> None:
    x = torch.tensor([2.0, 0.0, 1.0])
    found = set(operators(lambda: call(x))) & set(torch_dispatch.HOST_READS)
    assert found, CHANGED.format("the operators for which the host waits")
    assert not set(operators(lambda: x + x)) & set(torch_dispatch.HOST_READS)
