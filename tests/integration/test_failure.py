"""torchrun, the log of the rank and `easq-rec runs` all report why a rank failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from easq_rec.cli import main as cli
from tests.conftest import Warm
from tests.integration.conftest import SMALL

WORKER = Path(__file__).with_name("worker_planted.py")
STEP, STEPS = 4, 8
MESSAGE = "the disk of rank 1 is gone"


def events(run_dir: Path, rank: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "logs" / f"rank_{rank}.jsonl").read_text().splitlines()]


@pytest.mark.integration
def test_the_error_of_a_failing_rank_is_reported(
    world: Path, warm: Warm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of two ranks fails under torchrun. Its error is in the error file of torchrun and in the log of the rank."""
    run_dir, logs = tmp_path / "run", tmp_path / "torchrun"
    options = ["--data", str(world), "--run-dir", str(run_dir), *SMALL, "--trainer.max-steps", str(STEPS)]
    launcher = warm.torchrun(2, "--log-dir", str(logs))
    done = warm.run(*launcher, str(WORKER), f"error@{STEP}", "1", "quickstart", *options, check=False)
    assert done.returncode != 0 and f"RuntimeError: {MESSAGE}" in done.stderr

    (file,) = logs.glob("*/attempt_0/1/error.json")
    told = json.loads(file.read_text())["message"]
    assert told["message"] == f"RuntimeError: {MESSAGE}" and "worker_planted.py" in told["extraInfo"]["py_callstack"]

    start, *_, problem = events(run_dir, 1)
    assert (start["event"], start["rank"], start["local_rank"], start["restarts"]) == ("start", 1, 1, 0)
    assert {"easq-rec", "python", "torch", "torchrec"} <= start["versions"].keys()
    assert any(name.startswith("fbgemm") for name in start["versions"])
    assert (problem["event"], problem["level"], problem["type"]) == ("exception", "ERROR", "RuntimeError")
    assert problem["message"] == MESSAGE and "worker_planted.py" in problem["traceback"]
    assert 0 <= problem["step"] < STEP, "batches are prefetched, so the batch is read before its step"
    assert events(run_dir, 0)[0]["event"] == "start"

    assert cli.main(["runs", "list", str(tmp_path), "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert (run["state"], run["ranks"], run["restarts"]) == ("failed", 2, 0)
    assert cli.main(["runs", "show", str(run_dir)]) == 0
    assert f"RuntimeError: {MESSAGE}" in capsys.readouterr().out
