"""The example examples/own_loss.py trains, and docs/how-to/own-loss.md shows its code."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from easq_rec.run_directory.metrics_file import read_records
from easq_rec.training.training_model import TrainingModel
from tests.builders import excite, random_batch, small_config
from tests.conftest import Warm
from tests.docs.pages import DOCS, REPOSITORY, run_command

EXAMPLE = REPOSITORY / "examples" / "own_loss.py"


@pytest.fixture
def example() -> Iterator[ModuleType]:
    """The example, imported as the module `own_loss`: its loss refers to its term by the name of the module."""
    spec = importlib.util.spec_from_file_location("own_loss", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["own_loss"] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules["own_loss"]


def test_the_page_shows_the_code_of_the_example() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / "how-to" / "own-loss.md").read_text(), re.M | re.S)
    code = EXAMPLE.read_text()
    assert len(blocks) >= 3
    for block in blocks:
        assert block in code


def test_the_loss_is_the_mean_over_pairs(example: ModuleType) -> None:
    """The loss is equal to a loop over pairs of candidates, and the objective adds it with its weight."""
    config = example.with_hinge(small_config("main_only"), example.Hinge(weight=0.25, margin=0.5))
    batch = random_batch(config)
    model = TrainingModel(config, torch.device("cpu"))
    excite(model)
    loss, output = model(batch)
    utility_N = (batch.outcome_NO @ torch.tensor([outcome.weight for outcome in config.schema.outcomes])).tolist()
    score_N = output.network.main.score_N.tolist()
    costs = [
        max(0.0, 0.5 - (score_N[i] - score_N[j]))
        for start, end in itertools.pairwise(batch.candidate_offsets_R1.tolist())
        for i, j in itertools.permutations(range(start, end), 2)
        if utility_N[i] > utility_N[j]
    ]
    assert int(output.pairs["hinge"]) == len(costs) > 1
    assert float(output.losses["hinge"]) == pytest.approx(sum(costs) / len(costs), rel=1e-5)
    engagement = float(output.losses["pointwise"]) + float(output.losses["main"])
    total = engagement + 0.25 * float(output.losses["hinge"])
    assert float(loss.detach()) == pytest.approx(total, rel=1e-5)


def test_variants_keep_the_added_loss(example: ModuleType) -> None:
    losses = example.with_hinge(small_config(), example.Hinge(weight=0.25)).losses
    assert dataclasses.replace(losses.without_reference(), align_every=2).terms["hinge"].weight == 0.25


@pytest.mark.integration
def test_the_example_trains(tmp_path: Path, warm: Warm) -> None:
    run_command(f"python {EXAMPLE} --requests 1500 --max-steps 10 --run-dir run", tmp_path, warm)
    trained = [record for record in read_records(tmp_path / "run" / "metrics.jsonl") if record.split == "train"]
    assert trained and all(record.values["loss_hinge"] > 0 for record in trained)
