"""Other questionnaires than the paper's need only configuration.

Covers the raw log, the builder, training, evaluation and inspection.
"""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest

from easq_rec.config import Config, Evaluation, Logging, Losses, Model, Replay, Tower, TrainerConfig, Transformer
from easq_rec.config.answer_scale import FIVE_STARS, NO_OR_YES, AnswerScale
from easq_rec.config.schema_file import schema_to_toml
from easq_rec.evaluation import results
from easq_rec.evaluation.metrics.by_request import answer_columns
from easq_rec.evaluation.metrics.intervals import estimates
from easq_rec.serving.evaluate import evaluate
from easq_rec.tools.inspect.command import inspect
from easq_rec.tools.simulation.default_data import prepare_data
from easq_rec.training.session import train
from tests.tools.builder.logs import config, random_log, read_rows, run_build, write_log
from tests.tools.builder.test_reading import SCHEMA


def built(folder: Path, scale: AnswerScale) -> tuple[Path, set[int]]:
    """Builds a log whose answers are names of the scale. Returns the data and the codes of the answers in them."""
    log, rng = random_log(30, impressions=600, bad=False), random.Random(1)
    log["answers"] = [
        row
        | {"uid": i["uid"], "vid": i["vid"], "at": i["at"] + 1_000, "rid": i["rid"], "said": rng.choice(scale.names)}
        for i in log["impressions"]
        if rng.random() < 0.4
        for row in log["answers"][:1]
    ]
    write_log(folder, log)
    answers = {"names": list(scale.names), "first": scale.first}
    answers |= {"satisfied": list(scale.satisfied), "dissatisfied": list(scale.dissatisfied)}
    data = run_build(
        folder, config(questionnaire={"answers": answers, "options": {}}, output={"file_row_groups": None})
    )
    kept = {entry["answer"] for row in read_rows(data / "answers") for entry in row["candidates"]} - {None}
    return data, kept


@pytest.mark.integration
@pytest.mark.parametrize("scale", [FIVE_STARS, NO_OR_YES], ids=["five stars", "no or yes"])
def test_a_scale_works_from_the_raw_log_to_the_evaluation(
    scale: AnswerScale, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, kept = built(tmp_path, scale)
    assert kept == set(scale.codes.values())
    tower = Tower(experts=1, hidden=8, out=8)
    run = Config(
        schema=dataclasses.replace(SCHEMA, answers=scale),
        model=Model(dim=16, backbone=Transformer(heads=2, layers=1, ffn=16), main=tower, satisfaction=tower),
        losses=Losses(warmup_steps=0).aligned_by(satisfaction=1.0, evidence=1.0, dpo=0.3, dense=0.3),
        replay=Replay(answers_per_step=8),
        trainer=TrainerConfig(batch_size=8, max_steps=4, threads=1, device="cpu"),
        evaluation=Evaluation(every_steps=0),
        logging=Logging(tensorboard=False, every_steps=1),
        run_dir=str(tmp_path / "run"),
    )
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, path=str(data)))
    train(run, prepare_data)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["split"] == "train"]
    assert all(line["loss_satisfaction"] > 0 and line["pairs_answered"] > 0 for line in trained)
    evaluated = evaluate(tmp_path / "run", None)
    intervals = estimates(evaluated.sums(), resamples=20)
    results.write(evaluated, intervals, tmp_path, "evaluation", {})
    again = results.read(tmp_path / "evaluation.parquet")
    assert again.origin.answers == scale
    counts = again.counts()
    assert sum(counts[f"answers_{name}"] for name in scale.names) > 10
    assert 0 <= intervals["answer_auc"].value <= 1
    (tmp_path / "schema.toml").write_text(schema_to_toml(run.schema))
    inspect(data, tmp_path / "inspected", tmp_path / "schema.toml")
    found = json.loads((tmp_path / "inspected" / "report.json").read_text())["questionnaire"]
    assert set(found["answers"]) == set(scale.names) and found["other_answers"] == 0
    assert sum(found["answers"].values()) > 10
    capsys.readouterr()


def test_answer_metrics_compare_satisfied_with_dissatisfied_stars() -> None:
    """Four and five stars are satisfied, one and two are dissatisfied. Three stars are neither."""
    import torch

    score_N = torch.tensor([3.0, 2.0, 1.0, 9.0, 0.0])
    answer_N, lengths_R = torch.tensor([5, 1, 4, 3, 2]), torch.tensor([5])
    found = answer_columns(score_N, answer_N, lengths_R, torch.tensor([7]), scale=FIVE_STARS)
    # The score orders one of 2 x 2 pairs wrongly: 4 stars at 1.0 and 1 star at 2.0. Four answers are compared.
    assert float(found["answer_gauc_won"]) == pytest.approx(4 * 3 / 4)
    assert float(found["answer_gauc_weight"]) == 4
