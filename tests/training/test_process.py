"""The process group holds no tensor when a collective has returned."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
import torch.distributed as dist

from easq_rec.config import TrainerConfig
from easq_rec.training.process import running
from easq_rec.upstream.torch_tensors import holders


def test_no_thread_holds_a_tensor_after_agree_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gloo's thread needs the interpreter to release a tensor. If it does so during shutdown, the process aborts."""
    passed: list[torch.Tensor] = []
    all_reduce = dist.all_reduce

    def spy(tensor: torch.Tensor, **named: Any) -> Any:
        passed.append(tensor)
        return all_reduce(tensor, **named)

    monkeypatch.setattr(dist, "all_reduce", spy)
    interval = sys.getswitchinterval()
    with running(TrainerConfig(device="cpu")) as runtime:
        # With this interval, Gloo's thread runs only while this thread sleeps or waits.
        sys.setswitchinterval(100)
        try:
            for value in range(5_000):
                assert runtime.agree(value) == [value]
                assert holders(passed.pop()) == 1
        finally:
            sys.setswitchinterval(interval)
