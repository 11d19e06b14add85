"""`easq-rec runs` reports the state of a run from its events, and names runs that it cannot read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from easq_rec.cli import main as cli
from easq_rec.config.recipes import recipe
from easq_rec.config.serialization import to_dict
from easq_rec.run_directory.events import event, recorded
from easq_rec.run_directory.status import RunStatus, read_run
from easq_rec.training.process import Runtime


def runtime(rank: int = 0) -> Runtime:
    return Runtime(rank=rank, local_rank=rank, world_size=2, device=torch.device("cpu"))


def make_run(directory: Path, names: Sequence[str] = ("start", "finished"), **changed: object) -> Path:
    """Writes a run directory like that of the trainer, with the given events of rank 0."""
    directory.mkdir(parents=True)
    config = json.loads(json.dumps(to_dict(recipe("quickstart"))))
    (directory / "config.json").write_text(json.dumps({**config, **changed}))
    with recorded(directory, runtime()):
        for name in names:
            event(name, step=40, of=50)
    return directory


def other_process(directory: Path, *, pid: int | None = None, host: str | None = None) -> RunStatus:
    """Reads the run as if a process with this id or on this host had written its log."""
    log = directory / "logs" / "rank_0.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    changed = {name: value for name, value in (("pid", pid), ("host", host)) if value is not None}
    log.write_text("".join(json.dumps({**line, **changed}) + "\n" for line in lines))
    return read_run(directory)


@pytest.mark.parametrize(
    ("names", "state"),
    [
        (("start", "window", "finished"), "finished"),
        (("start", "stopped"), "stopped"),
        (("start", "hang"), "failed"),
        (("start", "finished", "hang"), "failed"),
        (("start", "exception", "start", "finished"), "finished"),
        (("start", "window"), "running"),
        (("start", "stopped", "start"), "running"),
        ((), "unknown"),
    ],
)
def test_the_state_follows_from_the_events(tmp_path: Path, names: tuple[str, ...], state: str) -> None:
    assert read_run(make_run(tmp_path / "run", names)).state == state


def test_a_run_whose_process_has_ended_was_killed(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", ("start", "window"))
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert other_process(directory, pid=done.pid).state == "killed"


def test_a_run_whose_process_is_a_zombie_was_killed(tmp_path: Path) -> None:
    """Zombies remain in a container whose first process does not wait for its children."""
    directory = make_run(tmp_path / "run", ("start", "window"))
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert other_process(directory, pid=process.pid).state == "running"
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert read_run(directory).state == "killed"
    process.communicate()


def test_a_reused_process_id_is_not_the_run(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", ("start", "window"))
    log = directory / "logs" / "rank_0.jsonl"
    log.write_text(log.read_text().replace('"time": "20', '"time": "19'))
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    try:
        assert other_process(directory, pid=process.pid).state == "killed"
    finally:
        process.kill()
        process.wait()


def test_on_another_host_the_time_of_the_last_write_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = other_process(make_run(tmp_path / "run", ("start", "window")), host="elsewhere")
    assert run.state == "running"
    later = time.time() + 1_000
    monkeypatch.setattr("easq_rec.run_directory.status.time.time", lambda: later)
    assert run.state == "silent"


def test_an_exception_of_any_rank_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = make_run(tmp_path / "run", ("start", "window"))
    with pytest.raises(RuntimeError), recorded(directory, runtime(1)):
        raise RuntimeError("the disk of rank 1 is gone")
    assert read_run(directory).state == "failed"
    assert cli.main(["runs", "show", str(directory)]) == 0
    said = capsys.readouterr().out
    assert "step None" not in said
    assert "rank 1 exception" in said and "message the disk of rank 1 is gone" in said
    assert "RuntimeError: the disk of rank 1 is gone" in said, "the end of the traceback is shown"


def test_an_incomplete_line_is_skipped_and_nothing_is_appended_to_it(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", ("start", "window"))
    log = directory / "logs" / "rank_0.jsonl"
    log.write_text(log.read_text() + '{"time": "2026-')
    assert [found.name for found in read_run(directory).events] == ["start", "window"]
    with recorded(directory, runtime()):
        event("start", loss=float("nan"), rate=1 / 3)
    found = read_run(directory).events
    assert [one.name for one in found] == ["start", "window", "start"]
    assert found[-1].fields["loss"] is None and found[-1].fields["rate"] == 0.333333


def test_runs_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a")
    nested = make_run(tmp_path / "study" / "b", ("start", "start", "window"))
    line = {"step": 50, "split": "final", "satisfaction_ndcg5": 0.61, "engagement_ndcg5": 0.6, "gauc": 0.7}
    (nested / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    # A directory with an unrelated config.json is not a run.
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    assert cli.main(["runs", "list", str(tmp_path)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["run", "recipe", "state", "step"] and len(lines) == 2
    assert any(line.split()[:4] == [str(nested), "quickstart", "running", "50/50"] for line in lines)
    assert cli.main(["runs", "list", str(tmp_path), "--json"]) == 0
    found = {Path(run["run"]).name: run for run in json.loads(capsys.readouterr().out)}
    assert found["b"]["restarts"] == 1 and found["b"]["satisfaction_ndcg5"] == 0.61 and found["b"]["ranks"] == 2
    assert found["a"]["state"] == "finished" and found["a"]["checkpoint"] is None


def test_only_the_newest_of_consecutive_windows_is_read(tmp_path: Path) -> None:
    """A long run has thousands of windows, and the command must be fast."""
    directory = make_run(tmp_path / "run", ("start", "window", "window", "checkpoint", "window", "window", "window"))
    splits = ("train", "train", "holdout", "train", "train", "final")
    records = [json.dumps({"step": step, "split": split}) for step, split in enumerate(splits, 1)]
    (directory / "metrics.jsonl").write_text("\n".join(records) + "\n")
    run = read_run(directory)
    assert [found.name for found in run.events] == ["start", "window", "checkpoint", "window"] and run.total_steps == 50
    assert [(record.step, record.split) for record in run.records] == [
        (2, "train"),
        (3, "holdout"),
        (5, "train"),
        (6, "final"),
    ]


def test_runs_that_cannot_be_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "good")
    (make_run(tmp_path / "bad") / "config.json").write_text("{")
    (tmp_path / "a rest" / "checkpoints").mkdir(parents=True)
    assert cli.main(["runs", "list", str(tmp_path)]) == 1
    *_, rest, last = capsys.readouterr().out.splitlines()
    assert (
        rest
        == f"not readable: {tmp_path / 'a rest'}: no config.json in it; name a directory that `easq-rec train` wrote"
    )
    assert last.startswith(f"not readable: {tmp_path / 'bad' / 'config.json'} is not the config.json of a run")
    for arguments, reason in (
        (["show", str(tmp_path / "nowhere")], "no config.json in it"),
        (["list", str(tmp_path / "nowhere")], "no such directory"),
        (["lst"], "list, show"),
    ):
        assert cli.main(["runs", *arguments]) == 2
        said = capsys.readouterr().err
        assert reason in said and said.count("\n") == 1


def test_differences_from_the_recipe_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = make_run(tmp_path / "run", replay={"answers_per_step": 3})
    shard = {"rank": 1, "rows": [0, 64], "columns": [0, 16]}
    table = {"rows": 64, "dim": 16, "type": "table_wise", "kernel": "fused", "shards": [shard]}
    shape = {"format": 1, "device": "cpu", "ranks": 2, "ranks_per_host": 2}
    (directory / "plan.json").write_text(json.dumps({**shape, "tables": {"video": table}}))
    torn = directory / "checkpoints" / "step_00000010"
    torn.mkdir(parents=True)
    (directory / "checkpoints" / "step_00000005.damaged").mkdir()
    assert cli.main(["runs", "show", str(directory)]) == 0
    assert cli.main(["runs", "show", str(directory), "--verify"]) == 1, "a checkpoint is damaged"
    said = capsys.readouterr().out
    assert "replay.answers_per_step 3 (recipe: " in said and "trainer." not in said
    assert "table_wise (fused) on rank 1" in said
    assert "step 10, 0 MiB, checksums.json is missing or torn" in said and "step_00000005.damaged: set aside" in said


def test_torch_is_not_loaded(tmp_path: Path) -> None:
    """The command must start fast, so it does not import torch, pyarrow or numpy."""
    make_run(tmp_path / "run")
    code = f"from easq_rec.cli.main import main; import sys; main(['runs', 'list', {str(tmp_path)!r}])"
    loaded = "print(sorted({'torch', 'pyarrow', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", f"{code}; {loaded}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_closed_output_pipe_is_not_an_error(tmp_path: Path) -> None:
    """`| head` closes the pipe before the command has written all its output."""
    directory = make_run(tmp_path / "one")
    for number in range(2_000):
        (directory / f"{number:0100d}").touch()
    shown = [sys.executable, "-m", "easq_rec.cli", "runs", "show", str(directory)]
    with subprocess.Popen(shown, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None and job.stderr is not None
        job.stdout.readline()
        job.stdout.close()
        assert job.stderr.read() == ""


def test_lines_that_a_killed_run_left_incomplete_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = make_run(tmp_path / "one")
    for file in (directory / "metrics.jsonl", directory / "logs" / "rank_0.jsonl"):
        before = file.read_text() if file.exists() else ""
        file.write_text('{"step": 1, "split": "tr\n' + before)
    assert cli.main(["runs", "show", str(directory)]) == 0
    said = capsys.readouterr().out
    assert "metrics.jsonl: 1 incomplete line was skipped" in said
    assert "logs/rank_0.jsonl: 1 incomplete line was skipped" in said
