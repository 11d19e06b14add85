"""Trains recipes by this package or by that of an older commit, each in a separate process, on the same files."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from easq_rec.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]
PROGRAM = Path(__file__).with_name("train_and_score.py")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A recipe, and the code that trains it."""

    name: str
    words: tuple[str, ...]
    """Arguments of `easq-rec train`: the recipe and its options."""
    root: Path = REPOSITORY
    """Folder with the package easq_rec."""


@contextlib.contextmanager
def code_of(commit: str, repository: Path) -> Iterator[tuple[str, Path]]:
    """(short hash, folder with the files) of a commit, in a worktree that exists until the end of the block.

    Raises:
        UserError: `repository` has no such commit.
    """

    def git(*words: str) -> str:
        try:
            done = subprocess.run(["git", "-C", repository, *words], check=False, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise UserError(f"--before {commit}: git is not installed: install it, or omit --before") from error
        if done.returncode:
            reason = f"git {words[0]}: {done.stderr.strip()}"
            raise UserError(f"--before {commit}: {reason}: choose a commit of the repository {repository}")
        return done.stdout.strip()

    short = git("rev-parse", "--verify", "--short", f"{commit}^{{commit}}")
    with tempfile.TemporaryDirectory(prefix="before-") as folder:
        root = Path(folder) / "code"
        git("worktree", "add", "--detach", str(root), short)
        try:
            yield short, root
        finally:
            git("worktree", "remove", "--force", str(root))


def run(row: Row, train: Path, held: Path, *, seed: int, holdout: float, folder: Path) -> tuple[Path, float]:
    """(file of the scores, CPU seconds of training) of a row, in a separate process on one thread.

    Args:
        train: folder of requests/ and answers/.
        held: folder of requests/ to score.
        holdout: held-out share of `train`.
        folder: is created.

    Raises:
        UserError: the options are wrong, or the row's code is too old for this benchmark.
    """
    folder.mkdir()
    scores, result, path = folder / "scores.parquet", folder / "result.json", folder / "job.json"
    options = {
        "--data": train,
        "--run-dir": folder / "run",
        "--data.holdout": holdout,
        "--trainer.seed": seed,
        "--trainer.threads": 1,
        "--trainer.pin-cores": False,
        "--logging.tensorboard": False,
    }
    job = {
        "package": str(row.root / "easq_rec"),
        "words": [*row.words, *(str(word) for option in options.items() for word in option)],
        "held": str(held),
        "run_dir": str(folder / "run"),
        "scores": str(scores),
        "result": str(result),
    }
    path.write_text(json.dumps(job))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(row.root)}
    # -P: modules come from PYTHONPATH, not from the folder of the program.
    command = [sys.executable, "-P", str(PROGRAM), str(path)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    match done.returncode:
        case 0:
            return scores, float(json.loads(result.read_text())["cpu_seconds"])
        case 2:
            raise UserError(f"{row.name}: {done.stderr.rpartition('easq-rec: ')[2].strip()}")
        case 3:
            raise UserError(f"{row.name}: its code is too old ({done.stderr.strip()}): choose a later commit")
    raise RuntimeError(f"{row.name}: exit code {done.returncode}: {done.stderr.strip()[-4_000:]}")
