"""Two ranks of one host train the same, bit for bit, through shared memory and through gloo."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.chaos import tensors
from tests.integration.conftest import metrics

Train = Callable[..., subprocess.CompletedProcess[str]]
STEPS = 14


@pytest.mark.integration
def test_training_is_the_same_through_gloo(train: Train, tmp_path: Path) -> None:
    """And a run may go on through the other."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = ("--trainer.max-steps", str(STEPS), "--evaluation.every-steps", "5")
    train(whole, *options, "--trainer.cpu-backend", "gloo", ranks=2)
    train(parts, *options, "--trainer.stop-at-step", "7", ranks=2)
    assert "from step 7" in train(parts, *options, "--trainer.cpu-backend", "gloo", ranks=2).stdout
    for split in ("train", "holdout"):
        lines = [[timeless(line) for line in metrics(run, split)] for run in (parts, whole)]
        assert lines[0] == lines[1] != []
    checkpoint = f"checkpoints/step_{STEPS:08d}"
    one, other = (dict(tensors(run / checkpoint)) for run in (parts, whole))
    assert one.keys() == other.keys() and len(one) > 20
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def timeless(line: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in line.items() if not name.startswith(("ms_", "impressions_"))}
