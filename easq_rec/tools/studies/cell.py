"""The process of one cell: `python -m easq_rec.tools.studies.cell CONFIG.json [by_user] [WEIGHT ...]`.

A weight is one of the satisfaction score, or PARTNER=WEIGHT. With `by_user` the cell also writes what every held-out
user adds to the metrics of its policy score and of all weights.

Its standard input is a pipe that the study's process holds open and never writes to. When that process ends for any
reason, the pipe closes and the cell exits, so that no orphan writes at the same time as a resumed study.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from easq_rec import doctor, json_file
from easq_rec.config import Config
from easq_rec.config.serialization import load_json
from easq_rec.errors import exit_code
from easq_rec.run_directory.metrics_file import FINAL, append_record, final_record
from easq_rec.run_directory.paths import RunDirectory
from easq_rec.tools.studies.grid import BY_USER
from easq_rec.tools.studies.user_metrics import POLICY


def main(path: str, arguments: Sequence[str] = ()) -> int:
    """Trains and evaluates the config in its run_dir; returns the exit code.

    Args:
        arguments: `BY_USER`, and other served scores that are also evaluated on the held-out requests: weights of the
            satisfaction score, and texts of `Addition`.
    """
    config = read_config(path)
    from easq_rec.tools.simulation.default_data import prepare_data
    from easq_rec.training import session

    code = session.train(config, prepare_data)
    if not code and arguments:
        _rank(config, [text for text in arguments if text != BY_USER], by_user=BY_USER in arguments)
    return code


def _rank(config: Config, served: Sequence[str], *, by_user: bool) -> None:
    """Ranks the held-out requests by these scores, and writes the metrics."""
    from easq_rec.serving.evaluate import rank
    from easq_rec.tools.studies.served_scores import rankings, user_metrics

    directory = RunDirectory(Path(str(config.run_dir)))
    ranked = rankings(config, served)
    if by_user:
        user_metrics({POLICY: rank(config), **ranked}).save(directory.user_metrics)
    found = {text: asdict(predictions.metrics()) for text, predictions in ranked.items()}
    directory.fused.write_text(json_file.text(found))


def read_config(path: str) -> Config:
    """Reads the config of a cell and checks that the environment can train it."""
    config = load_json(Config, Path(path))
    doctor.require_compatible(config.trainer.device)
    return config


def add_metrics(run_dir: Path, metrics: Mapping[str, float]) -> None:
    """Adds to the final metrics of a run."""
    file = RunDirectory(run_dir).metrics
    final = final_record(file)
    assert final is not None, "a successful run has final metrics"
    append_record(file, final.step, FINAL, {**final.all_values, **metrics})


def add_course(run_dir: Path, split: str, course: Sequence[Mapping[str, float]]) -> None:
    """Adds metrics by step to a run, starting at step 0."""
    for step, values in enumerate(course):
        append_record(RunDirectory(run_dir).metrics, step, split, values)


def call(program: Callable[[Sequence[str]], int]) -> int:
    """Runs the program of a cell on its arguments; returns the exit code."""
    leave_with_parent()
    return exit_code(lambda: program(sys.argv[1:]))


def leave_with_parent() -> None:
    """Ends this process when its standard input is closed."""

    def wait() -> None:
        # Not sys.stdin.read(): a thread that holds its lock makes the interpreter abort at exit.
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(call(lambda argv: main(argv[0], argv[1:])))
