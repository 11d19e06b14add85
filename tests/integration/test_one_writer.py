"""Two jobs cannot train in one run directory at the same time; a job whose predecessor has ended can."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.chaos import workers
from tests.conftest import Warm
from tests.integration.conftest import REPOSITORY, SMALL, Train, metrics

SHARED = Path(os.environ.get("EASQ_CASES", REPOSITORY.parent / "shared" / "cases"))


@pytest.fixture
def training(world: Path, warm: Warm, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A job of one rank that trains in `tmp_path`/run, and has logged a step."""
    run_dir = tmp_path / "run"
    options = ["--data", str(world), "--run-dir", str(run_dir), *SMALL, "--trainer.max-steps", "5000"]
    job = subprocess.Popen(
        [warm.python, "easq_rec/train.py", "quickstart", *options, "--losses.dense.weight", "0.3"],
        cwd=REPOSITORY,
        env=warm.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 240
    while not ((run_dir / "metrics.jsonl").exists() and metrics(run_dir)):
        assert time.monotonic() < until and job.poll() is None
        time.sleep(0.1)
    yield job
    job.kill()
    job.communicate(timeout=60)


@pytest.mark.integration
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_second_job_is_refused_on_every_rank(
    ranks: int, training: subprocess.Popen[str], tmp_path: Path, train: Train
) -> None:
    """It ends at once with one line, and the first job is not disturbed."""
    run_dir = tmp_path / "run"
    (pid,) = workers(run_dir)[-1:]
    done = train(run_dir, "--trainer.max-steps", "5000", ranks=ranks, check=False)
    assert done.returncode == (2 if ranks == 1 else 1)
    said = [line for line in done.stderr.splitlines() if line.startswith("easq-rec: ")]
    # torchrun may end a rank before it has said so, because another one has ended.
    assert 1 <= len(said) <= ranks and len(set(said)) == 1
    assert f"--run-dir {run_dir} is in use by process" in said[0] and "a run directory has one writer" in said[0]
    assert ranks > 1 or "Traceback" not in done.stderr
    before = len(metrics(run_dir))
    os.kill(pid, signal.SIGTERM)
    _, errors = training.communicate(timeout=120)
    assert training.returncode == 0, errors
    steps = [line["step"] for line in metrics(run_dir)]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= before
    assert not (run_dir / "writer").exists()


@pytest.mark.integration
def test_the_directory_of_a_killed_job_is_taken_over(
    training: subprocess.Popen[str], tmp_path: Path, train: Train
) -> None:
    run_dir = tmp_path / "run"
    for pid in workers(run_dir):
        os.kill(pid, signal.SIGKILL)
    training.wait(timeout=60)
    assert (run_dir / "writer" / "1.json").exists()
    train(run_dir, "--trainer.max-steps", "5000", "--trainer.stop-at-step", "3")
    assert [line["step"] for line in metrics(run_dir)] == [1, 2, 3]
    assert not (run_dir / "writer").exists()


@pytest.mark.integration
def test_runs_that_start_in_the_same_second_have_different_directories(world: Path, warm: Warm, tmp_path: Path) -> None:
    """Without --run-dir the name is the time. A launcher that names the run gets the name that it asked for."""
    script = str(REPOSITORY / "easq_rec" / "train.py")
    sizes = [*SMALL, "--trainer.max-steps", "2", "--trainer.stop-at-step", "1"]
    program = (
        "import time\nfrom easq_rec.training import session\n"
        "from easq_rec.config.command_line import find_recipe\n"
        "time.strftime = lambda *_: 'now'\nprint(session.new_run_dir(find_recipe('quickstart')))\n"
    )
    names = [warm.run(warm.python, "-c", program, directory=tmp_path).stdout.strip() for _ in range(3)]
    assert names == [f"runs/quickstart-now{end}" for end in ("", "-2", "-3")]
    environment = {**warm.environment, "EASQ_RUN_NAME": "job7"}
    for _ in range(2):
        subprocess.run(
            [warm.python, script, "quickstart", "--data", str(world), *sizes],
            cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=300,
        )  # fmt: skip
    found = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert found == ["quickstart-job7", "quickstart-now", "quickstart-now-2", "quickstart-now-3"]
    starts = (tmp_path / "runs" / "quickstart-job7" / "logs" / "rank_0.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in starts].count("start") == 2


@pytest.mark.integration
@pytest.mark.skipif(
    not (SHARED / "shared-run-dir" / "run.sh").is_file(),
    reason="the case is not there: set EASQ_CASES to the directory that holds shared-run-dir",
)
def test_the_reported_case(warm: Warm, tmp_path: Path) -> None:
    """Two processes start together. One trains, and every step is logged once."""
    programs = warm.programs(tmp_path / "bin")
    environment = {**warm.environment, "EASQ": str(programs), "TMP_CASE": str(tmp_path)}
    command = ["bash", str(SHARED / "shared-run-dir" / "run.sh")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.stdout.count('"step": 20, "split": "train"') == 1, done.stdout + done.stderr
    said = [(tmp_path / f"two{number}.txt").read_text() for number in (1, 2)]
    assert sorted("is in use by process" in text for text in said) == [False, True]
    assert not any("Traceback" in text for text in said)
