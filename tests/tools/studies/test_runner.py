"""The runner: parallel cells, results that survive SIGKILL, and outputs that are refused."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from easq_rec.tools.studies.comparison import StudyComparison, added_series
from easq_rec.tools.studies.partner import Addition
from easq_rec.tools.studies.runner import Runner
from easq_rec.tools.studies.store import opened
from tests.tools.studies.builders import PROGRAM, cells, fusing, is_running, started, study, wait_for

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def test_every_cell_is_run_and_its_result_is_stored(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "go").touch()
    runs, failed = study(tmp_path / "out", data, 1.0, 2.0)
    assert [run.cell.variant for run in runs] == ["main_only", "dense 1", "dense 2"] and not failed
    assert [run.metrics["engagement_ndcg5"] for run in runs] == [0.5, 0.6, 0.7]
    assert math.isnan(runs[0].metrics["gauc"])
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split("/")[0] for line in lines) == ["1", "2", "3"]
    assert any("/3 main_only seed 0: satisfaction .5000 engagement .5000 (" in line for line in lines)
    stored = json.loads((tmp_path / "out/cells/dense_1--seed_0.json").read_text())
    assert stored["digest"] == runs[1].cell.digest and stored["metrics"]["gauc"] is None


def test_metrics_of_fused_scores_are_stored_with_the_cell(tmp_path: Path, data: Path) -> None:
    (data / "go").touch()
    for resume in (False, True):
        with opened(tmp_path / "out", study="test", budget="small", resume=resume) as store:
            (base, aligned), failed = Runner(store, jobs=2, program=PROGRAM).run(fusing(data))
        assert not failed and base.fused == {}
        assert {weight: metrics["gauc"] for weight, metrics in aligned.fused.items()} == {"0.25": 0.75, "1": 1.5}
    assert len(started(data)) == 2 and all(len(pids) == 1 for pids in started(data).values())


def test_metrics_of_added_scores_are_stored_with_the_cell(tmp_path: Path, data: Path) -> None:
    """They get rows of their own in the comparison."""
    (data / "go").touch()
    additions = tuple(Addition(partner="item_prior", weight=weight) for weight in (0.25, 1.0))
    cell = dataclasses.replace(cells(data)[0], additions=additions, fuse=(0.5,))
    for resume in (False, True):
        with opened(tmp_path / "out", study="test", budget="small", resume=resume) as store:
            (run,), failed = Runner(store, jobs=1, program=PROGRAM).run([cell])
        found = {text: metrics["gauc"] for text, metrics in run.fused.items()}
        assert not failed and found == {"0.5": 1.0, "item_prior=0.25": 0.75, "item_prior=1": 1.5}
    rows = {row.label: row for row in StudyComparison([run]).rows()}
    added = [f"main_only + item_prior {weight}" for weight in ("0.25", "1")]
    assert list(rows) == ["main_only", "main_only, fused 0.5", *added]
    row = rows[added[0]]
    assert (row.series, row.x) == (added_series("main_only", "item_prior"), 0.25) and row.mean["gauc"] == 0.75


def test_a_cell_may_have_a_custom_program(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program gets the arguments of the cell. The metrics that it adds later are stored with those of training."""
    program = tmp_path / "own_program.py"
    program.write_text(
        "import sys, json; from pathlib import Path\n"
        "from easq_rec.tools.studies.cell import add_course, add_metrics, call\n"
        "def main(argv):\n"
        "    run_dir = Path(json.loads(Path(argv[0]).read_text())['run_dir'])\n"
        "    run_dir.mkdir(parents=True)\n"
        "    (run_dir / 'metrics.jsonl').write_text(json.dumps({'step': 9, 'split': 'final', 'gauc': 0.5}) + '\\n')\n"
        "    add_course(run_dir, 'online', [{'day_x': 1.0}, {'day_x': float('nan')}, {'day_x': 3.0}])\n"
        "    add_metrics(run_dir, {'week_x': float(argv[1])})\n"
        "    return 0\n"
        "if __name__ == '__main__': sys.exit(call(main))\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{REPOSITORY}")
    plain = cells(data)[0]
    own = dataclasses.replace(plain, program="own_program", arguments=("2.5",), keep=("day_x",))
    assert len({cell.digest for cell in (plain, own, dataclasses.replace(own, arguments=("2",)))}) == 3
    for resume in (False, True):
        with opened(tmp_path / "out", study="test", budget="small", resume=resume) as store:
            (run,), failed = Runner(store, jobs=1).run([own])
        assert not failed and run.metrics == {"gauc": 0.5, "week_x": 2.5}
        assert list(run.history["day_x"]) == [(0, 1.0), (2, 3.0)]
    with (
        opened(tmp_path / "out", study="test", budget="small", resume=True) as store,
        pytest.raises(ValueError, match="was run with another configuration: its digest differs"),
    ):
        Runner(store, jobs=1).run([dataclasses.replace(own, arguments=("2",))])


def test_a_killed_study_loses_only_the_running_cells(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "out"
    program = (
        "import sys; from pathlib import Path; from tests.tools.studies.builders import study; "
        "study(Path(sys.argv[1]), Path(sys.argv[2]), 1.0, 2.0)"
    )
    killed = subprocess.Popen([sys.executable, "-c", program, str(out), str(data)], cwd=REPOSITORY)
    kept = out / "cells" / "main_only--seed_0.json"
    # One cell is finished, two are running.
    wait_for(lambda: kept.exists() and len(started(data)) == 3)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = kept.stat().st_mtime_ns
    orphans = [pid for pids in started(data).values() for pid in pids]
    wait_for(lambda: not any(is_running(pid) for pid in orphans))
    assert [path.name for path in (out / "cells").glob("*.json")] == [kept.name]

    (data / "go").touch()
    runs, failed = study(out, data, 1.0, 2.0, resume=True)
    assert [run.metrics["satisfaction_ndcg5"] for run in runs] == [0.5, 0.6, 0.7] and not failed
    assert kept.stat().st_mtime_ns == before
    assert {name: len(pids) for name, pids in started(data).items()} == {
        "main_only--seed_0": 1,
        "dense_1--seed_0": 2,
        "dense_2--seed_0": 2,
    }


def test_a_failed_cell_is_reported_and_the_others_continue(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "go").touch()
    runs, failed = study(tmp_path / "out", data, 13.0, 1.0)
    assert [run.cell.variant for run in runs] == ["main_only", "dense 1"] and failed == ["dense_13--seed_0"]
    shown = capsys.readouterr().out
    assert "dense 13 seed 0: failed with exit code 3; the end of" in shown and "\n    the table is gone" in shown
    # A resumed study runs only the failed cell again.
    study(tmp_path / "out", data, 13.0, 1.0, resume=True)
    assert [len(pids) for _, pids in sorted(started(data).items())] == [1, 2, 1]


def test_a_resumed_study_may_have_more_cells(tmp_path: Path, data: Path) -> None:
    (data / "go").touch()
    study(tmp_path / "out", data, 1.0)
    runs, _ = study(tmp_path / "out", data, 1.0, 2.0, resume=True)
    assert len(runs) == 3 and all(len(pids) == 1 for pids in started(data).values())


def test_a_cell_with_another_config_is_refused(tmp_path: Path, data: Path) -> None:
    study(tmp_path / "out", data)
    path = tmp_path / "out/cells/main_only--seed_0.json"
    stored = json.loads(path.read_text())
    stored["config"]["optim"]["dense_lr"], stored["digest"] = 0.5, "another"
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"optim.dense_lr is 0.5 there, 0.001 here. Use another --out") as error:
        study(tmp_path / "out", data, resume=True)
    assert "\n" not in str(error.value)
    path.write_text("{")
    with pytest.raises(ValueError, match="is not the result of a cell"):
        study(tmp_path / "out", data, resume=True)


def test_outputs_that_cannot_be_used_are_refused(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "out"
    study(out, data)
    with pytest.raises(ValueError, match=r"out is not empty: add --resume"):
        study(out, data)
    (out / "study.json").write_text(json.dumps({"study": "rank", "budget": "full"}))
    with pytest.raises(ValueError, match=r"has another study \(rank full, not test small\)"):
        study(out, data, resume=True)
    (out / "study.json").unlink()
    with pytest.raises(ValueError, match="has no study to continue"):
        study(out, data, resume=True)


def test_a_second_process_is_refused_and_told_who_writes(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "out"
    program = (
        "import sys; from pathlib import Path; from tests.tools.studies.builders import study; "
        "study(Path(sys.argv[1]), Path(sys.argv[2]), 1.0)"
    )
    first = subprocess.Popen([sys.executable, "-c", program, str(out), str(data)], cwd=REPOSITORY)
    wait_for(lambda: (data / "started").exists() and len(started(data)) == 2)
    with pytest.raises(ValueError, match=rf"process {first.pid} on \S+ writes this study: wait until it ends"):
        study(out, data, 1.0, resume=True)
    (data / "go").touch()
    assert first.wait(timeout=60) == 0
    runs, _ = study(out, data, 1.0, resume=True)
    assert len(runs) == 2 and all(len(pids) == 1 for pids in started(data).values())


def test_a_file_system_without_locks_is_refused(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ValueError, match=r"out: its file system has no locks \(No locks available\)"):
        study(tmp_path / "out", data, 1.0)


def test_a_process_that_outlives_its_study_does_not_disturb_the_next_one(tmp_path: Path, data: Path) -> None:
    """SIGSTOP keeps the process of a cell from noticing that its study was killed. It ends, and writes, last."""
    out = tmp_path / "out"
    program = (
        "import sys; from pathlib import Path; from tests.tools.studies.builders import study; "
        "study(Path(sys.argv[1]), Path(sys.argv[2]), 1.0)"
    )
    killed = subprocess.Popen([sys.executable, "-c", program, str(out), str(data)], cwd=REPOSITORY)
    wait_for(lambda: (data / "started").exists() and "dense_1--seed_0" in started(data))
    (orphan,) = started(data)["dense_1--seed_0"]
    os.kill(orphan, signal.SIGSTOP)
    killed.kill()
    killed.wait()
    (data / "go").touch()
    try:
        runs, failed = study(out, data, 1.0, resume=True)
        assert len(runs) == 2 and not failed
        (run_dir,) = (out / "runs" / "dense_1--seed_0").glob("*/")
        before = (run_dir / "metrics.jsonl").read_bytes()
    finally:
        os.kill(orphan, signal.SIGCONT)
    wait_for(lambda: not is_running(orphan))
    assert (run_dir / "metrics.jsonl").read_bytes() == before


def test_worlds_are_generated_once(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from easq_rec.tools.studies import runner, store
    from easq_rec.tools.studies.grid import Cell
    from easq_rec.tools.studies.store import opened
    from tests.tools.studies.builders import PROGRAM

    made: list[Path] = []

    def ensure(world: object, directory: Path) -> None:
        if not directory.exists():
            made.append(directory)
            time.sleep(0.1)
            directory.mkdir(parents=True)
            (directory / "go").touch()

    def on_world(cell: Cell) -> Cell:
        config = dataclasses.replace(cell.config, data=dataclasses.replace(cell.config.data, path=None))
        return dataclasses.replace(cell, config=config)

    monkeypatch.setattr(store, "ensure", ensure)
    grid = [on_world(cell) for cell in cells(data, 1.0, seeds=2)]
    with opened(tmp_path / "out", study="test", budget="small", resume=False) as opened_store:
        runs, _ = runner.Runner(opened_store, jobs=3, program=PROGRAM).run(grid)
    assert len(runs) == 4 and len(made) == 2
    assert [run.cell.block for run in runs] == ["world 0", "world 0", "world 1", "world 1"]
