"""A run with a backbone that is not the default, from the recipe to the evaluation of its checkpoint."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from easq_rec.config import HSTU
from easq_rec.config.variants import hstu
from easq_rec.evaluation.metrics.intervals import estimates
from easq_rec.serving.evaluate import evaluate
from easq_rec.tools.simulation.default_data import prepare_data
from easq_rec.tools.studies.base import base_config
from easq_rec.training.session import train

STEPS = 40


@pytest.mark.integration
def test_a_run_with_hstu_trains_and_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = base_config("small")
    trainer = dataclasses.replace(base.trainer, max_steps=STEPS, epochs=2)
    logging = dataclasses.replace(base.logging, every_steps=1)
    config = dataclasses.replace(hstu(base), trainer=trainer, logging=logging, run_dir=str(tmp_path / "run"))
    assert isinstance(config.model.backbone, HSTU)
    train(config, prepare_data)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["backbone"]["kind"] == "HSTU"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss_main"] for line in lines if line["split"] == "train"]
    assert len(losses) == STEPS and np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.01
    evaluated = evaluate(tmp_path / "run", None)
    assert 0 <= estimates(evaluated.sums(), resamples=20)["answer_auc"].value <= 1
