"""What arguments and paths alone can tell is said before torch is imported, which takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from easq_rec.config.recipes import recipe
from easq_rec.config.serialization import to_dict

PROGRAM = """
import contextlib, io, json, sys
from easq_rec.cli import main
found = []
for words in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = main.main(words)
    found.append([code, said.getvalue(), "torch" in sys.modules])
print(json.dumps(found))
"""


def write_run(run_dir: Path, name: str, *, checkpoint: bool = True) -> str:
    """A run directory with a config, and a checkpoint of which only the name is read."""
    config = replace(recipe(name), run_dir=str(run_dir))
    run_dir.mkdir(parents=True)
    (run_dir / "config.json").write_text(json.dumps(to_dict(config)))
    if checkpoint:
        (run_dir / "checkpoints" / "step_00000001").mkdir(parents=True)
    return str(run_dir)


def test_wrong_paths_and_options_are_refused_without_torch(tmp_path: Path) -> None:
    data, empty, none = tmp_path / "data", tmp_path / "empty", str(tmp_path / "none")
    for folder in (data / "requests", empty):
        folder.mkdir(parents=True)
    file = tmp_path / "file"
    file.write_text("")
    run, plain = write_run(tmp_path / "run", "quickstart"), write_run(tmp_path / "plain", "quickstart_main_only")
    unsaved = write_run(tmp_path / "unsaved", "quickstart", checkpoint=False)
    other, out = ["--trainer.batch-size", "7"], str(tmp_path / "out")
    score = ["score", "--run", run, "--input", str(data), "--output", out]
    cases = (
        (["train", "--data", none], f"--data {none}: no such directory"),
        (["train", "--data", str(file)], f"--data {file}: a file, not a directory"),
        (["train", "--data", str(empty)], "it has no folder requests/"),
        (["train", "--data", str(data)], f"no folder answers/ in {data}: recipe 'quickstart' learns from answers"),
        (["train", "movielens"], "recipe 'movielens' needs --data DIR: python datasets/movielens/prepare.py"),
        (["train", "easq", "--schema", none], f"--schema {none}: cannot be read"),
        (["train", "quikstart"], "unknown recipe 'quikstart'"),
        (["train", "--run-dir", str(file)], f"--run-dir {file}: {file} is not a directory"),
        (["train", "--run-dir", str(file / "below")], f"{file} is not a directory"),
        (["train", "--run-dir", run, *other], "trainer.batch_size is 128 there, 7 here"),
        (["train", "--checkpoint.best", "ndgc"], "checkpoint.best='ndgc' is not allowed"),
        (["evaluate", "--run", none], f"--run {none}: no config.json in it"),
        (["evaluate", "--run", unsaved], f"{unsaved} holds no checkpoint"),
        (["evaluate", "--run", run, "--best"], "--best: no checkpoint of"),
        (["evaluate", "--run", run, "--data", none], f"--data {none}: no such directory"),
        (["evaluate", "--run", run, "--data", str(empty)], "it has no folder requests/"),
        (["evaluate", "--run", run, "--calibrated"], "has no calibration.json"),
        (["evaluate", "--run", plain, "--fuse", "1"], "has no satisfaction tower to fuse with"),
        (["evaluate", "--run", run, "--resamples", "0"], "--resamples=0 is not allowed"),
        (["compare", run, plain], f"{run}: no evaluation.parquet"),
        (["calibrate", "--run", run, "--share", "2"], "--share=2.0 is not allowed"),
        (["calibrate", "--run", none], f"--run {none}: no config.json in it"),
        (["score", "--run", run, "--input", none, "--output", "o"], f"--input {none}: no such directory"),
        ([*score, "--calibrated", "--outcomes"], "calibration.json"),
        ([*score, "--calibrated"], "has no calibration.json"),
        ([*score, "--counts", none], f"--counts {none}: no such directory"),
        (["study", "signal", "--data", none], f"--data='{none}' is not allowed"),
        (["rollback", "none"], "none: no such directory"),
        (["serve", "none", "--port", "-1"], "--port=-1 is not allowed"),
        (["study", "worth", "--seeds", "2"], "--seeds=2 is not allowed"),
        (["study", "worth", "--first-seed", "20"], "--first-seed=20 is not allowed"),
        (["study", "rank", "--first-seed", "-1"], "--first-seed=-1 is not allowed"),
        (["study", "ablation", "--out", str(tmp_path)], "is not empty: add --resume"),
        (["report", none], f"{none}: no such directory"),
        (["runs", "list", none], f"{none}: no such directory"),
        (["runs", "show", none], "no config.json in it"),
        (["data", "inspect", none], f"{none}: no such directory"),
        (["data", "inspect", str(data), "--schema", none], f"--schema {none}: cannot be read"),
        (["data", "counts", none, "--out", out, "--recipe", "quickstart"], "it has no folder requests/"),
        (["data", "counts", none, "--out", out], "give one of --schema FILE.toml and --recipe NAME"),
        (["data", "build", "--config", none, "--out", out], f"{none}: cannot be read"),
        (["data", "world", "--out", str(data)], f"{data}"),
    )  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    command = [sys.executable, "-c", PROGRAM, json.dumps([words for words, _ in cases])]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for (words, message), (code, said, torch) in zip(cases, json.loads(done.stdout), strict=True):
        assert code == 2 and message in said, (words, code, said)
        assert said.startswith("easq-rec: "), (words, said)
        assert not torch, (words, "torch was imported")


def test_a_wrong_option_comes_before_a_missing_environment(tmp_path: Path) -> None:
    """A variable of another job is named before anything waits for its ranks."""
    environment = {**os.environ, "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "node7", "MASTER_PORT": "29500"}
    environment.pop("TORCHELASTIC_RUN_ID", None)
    done = subprocess.run(
        [sys.executable, "-m", "easq_rec.cli", "train"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("easq-rec: RANK=0, WORLD_SIZE=2, MASTER_ADDR=node7, MASTER_PORT=29500: set as for one of")
    assert "unset RANK WORLD_SIZE MASTER_ADDR MASTER_PORT" in line and not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", ["many", "0"])
def test_wrong_threads_are_refused(tmp_path: Path, given: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": given}
    command = [sys.executable, "-m", "easq_rec.cli", "train"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"OMP_NUM_THREADS='{given}' is not allowed" in done.stderr
