"""metrics.jsonl has one consistent timeline, also if the run was killed and resumed."""

from __future__ import annotations

import json
from pathlib import Path

from easq_rec.config import Logging
from easq_rec.run_directory.run_log import RunLog


def records(run_dir: Path) -> list[tuple[int, str]]:
    """(step, split) of each line."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["split"]) for line in lines]


def open_log(run_dir: Path, first_step: int, *, speaks: bool = True) -> RunLog:
    return RunLog(run_dir, Logging(tensorboard=False), first_step=first_step, total_steps=10, speaks=speaks)


def test_steps_after_the_checkpoint_and_torn_lines_are_removed(tmp_path: Path) -> None:
    log = open_log(tmp_path, 0)
    for step in range(1, 6):
        log.metrics(step, "train", {"loss": float(step)})
    log.metrics(3, "holdout", {"ndcg": 0.5})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "spl')
    open_log(tmp_path, 3).close()
    assert records(tmp_path) == [(1, "train"), (2, "train"), (3, "train"), (3, "holdout")]


def test_final_metrics_are_written_once(tmp_path: Path) -> None:
    for _ in range(2):
        log = open_log(tmp_path, 10)
        log.metrics(10, "final", {"ndcg": 0.5})
        log.close()
    assert records(tmp_path) == [(10, "final")]


def test_undefined_values_are_null_not_nan(tmp_path: Path) -> None:
    """NaN and infinity are not valid JSON."""
    log = open_log(tmp_path, 0)
    log.metrics(1, "train", {"loss": float("nan"), "rate": float("inf"), "kept": 1.0})
    log.close()
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line) == {"step": 1, "split": "train", "loss": None, "rate": None, "kept": 1.0}


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    log = open_log(tmp_path, 0, speaks=False)
    log.metrics(1, "train", {"loss": 1.0})
    log.progress(1, {"loss": 1.0})
    log.say("hello")
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_shows_the_same_values(tmp_path: Path) -> None:
    """Every named value is a curve under its split."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, Logging(), first_step=0, total_steps=10, speaks=True)
    log.metrics(4, "train", {"loss_main": 0.25, "gate_main_0": 1.0})
    log.metrics(4, "holdout", {"satisfaction_ndcg5": 0.5})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found == {
        "train/loss_main": [(4, 0.25)],
        "train/gate_main_0": [(4, 1.0)],
        "holdout/satisfaction_ndcg5": [(4, 0.5)],
    }
