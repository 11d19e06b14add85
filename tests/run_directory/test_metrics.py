"""metrics.jsonl has one consistent timeline, also if the run was killed and resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from easq_rec.config import Logging
from easq_rec.disk_failures import Lost, LostWrites
from easq_rec.run_directory.metrics_file import Metrics, Record, append_record, read_metrics, rewind
from easq_rec.run_directory.run_log import RunLog
from tests.full_disk import files_of_at_most


def records(run_dir: Path) -> list[tuple[int, str]]:
    """(step, split) of each line."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["split"]) for line in lines]


def open_log(run_dir: Path, first_step: int, *, speaks: bool = True) -> RunLog:
    lost = LostWrites(speaks=speaks)
    config = Logging(tensorboard=False)
    return RunLog(run_dir, config, first_step=first_step, total_steps=10, speaks=speaks, lost=lost)


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

    lost = LostWrites(speaks=True)
    log = RunLog(tmp_path, Logging(), first_step=0, total_steps=10, speaks=True, lost=lost)
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


def test_incomplete_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    """Two starts of the run were killed while they wrote a line. Later lines are whole."""
    file = tmp_path / "metrics.jsonl"
    append_record(file, 1, "train", {"loss": 1.0})
    for begin in ('{"step": 2, "split": "tr', '{"step": 2, "split": "train", "loss": 0.'):
        with file.open("a") as out:
            out.write(begin)
        assert read_metrics(file).torn == (0 if begin.endswith("tr") else 1), "the last line may be in the making"
        append_record(file, 2, "train", {"loss": 2.0})
    found = [Record(step=step, split="train", values={"loss": float(step)}) for step in (1, 2, 2)]
    assert read_metrics(file) == Metrics(records=found, torn=2)
    condensed = read_metrics(file, condensed=True)
    assert condensed.records[-1] == found[-1] and condensed.torn == 2


def test_lines_that_were_joined_count_as_one_incomplete_line(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "split": "tr{"step": 2, "split": "train", "loss": 2.0}\n')
    append_record(file, 3, "train", {"loss": 3.0})
    assert read_metrics(file) == Metrics(records=[Record(step=3, split="train", values={"loss": 3.0})], torn=1)


def test_a_full_disk_costs_lines_and_curves_and_is_reported_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """When there is room again, lines and points follow whole."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lost = LostWrites(speaks=True)
    log = RunLog(tmp_path, Logging(), first_step=0, total_steps=10, speaks=True, lost=lost)
    log.metrics(1, "train", {"loss": 1.0})
    (board,) = (tmp_path / "tensorboard").iterdir()
    room = max((tmp_path / "metrics.jsonl").stat().st_size, board.stat().st_size) + 5
    with files_of_at_most(room):
        for step in range(2, 10):
            log.metrics(step, "train", {"loss": float(step)})
    log.metrics(10, "train", {"loss": 10.0})
    log.close()
    found = {one.kind: one for one in lost.all()}
    why = "File too large (EFBIG)"
    assert found["TensorBoard"] == Lost(kind="TensorBoard", reason=why, count=8)
    assert found["metrics"].reason == why and 1 <= found["metrics"].count <= 8
    said = capsys.readouterr().err.splitlines()
    assert [line.count("a line of metrics") for line in said] == [1, 0] or len(said) == 2
    assert [step for step, _ in records(tmp_path)][:1] == [1] and records(tmp_path)[-1] == (10, "train")
    curves = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/loss")
    assert [(point.step, point.value) for point in curves] == [(1, 1.0), (10, 10.0)]


def test_a_full_disk_does_not_lose_earlier_metrics_when_the_run_is_resumed(tmp_path: Path) -> None:
    """The file is shortened in place; if its lines are not in order it is rewritten, or stays as it is."""
    file = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3):
        append_record(file, step, "train", {"loss": float(step)})
    with files_of_at_most(10):
        rewind(file, 2)
    assert [record.step for record in read_metrics(file).records] == [1, 2]
    append_record(file, 1, "holdout", {"ndcg": 0.5})
    before = file.read_text()
    with files_of_at_most(10), pytest.raises(OSError, match="File too large"):
        rewind(file, 1)
    assert file.read_text() == before and [entry.name for entry in tmp_path.iterdir()] == [file.name]
    rewind(file, 1)
    assert records(tmp_path) == [(1, "train"), (1, "holdout")]
