"""Recipes of this project: trained by the trainer itself, scored by the command's own scorer."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.rankers.impressions import Floats, Impressions
from easq_rec import train
from easq_rec.run_directory.config_file import load_config
from easq_rec.run_directory.metrics_file import final_record
from easq_rec.run_directory.paths import RunDirectory
from easq_rec.serving.score import score
from easq_rec.training import session  # noqa: F401 - its imports take seconds, which are not training


def train_recipe(recipe: str, data: Path, run_dir: Path, *, seed: int, holdout: float) -> float:
    """Trains a recipe and returns the CPU seconds of all threads.

    Args:
        recipe: the arguments of `easq-rec train` that choose what to train: a name or a config file, and overrides.
    """
    options = {
        "--data": data,
        "--run-dir": run_dir,
        "--data.holdout": holdout,
        "--trainer.seed": seed,
        "--trainer.threads": 1,
        "--trainer.pin-cores": False,
        "--logging.tensorboard": False,
    }
    begin = time.process_time()
    train.main([*shlex.split(recipe), *(str(word) for option in options.items() for word in option)])
    seconds = time.process_time() - begin
    if final_record(RunDirectory(run_dir).metrics) is None:
        # A signal to stop ends a training early, without an error.
        raise RuntimeError(f"{recipe}, seed {seed}: the training did not reach its end")
    return seconds


def scores(run_dir: Path, inputs: Path, rows: Impressions, out: Path) -> Floats:
    """(N,): the served score of every impression of the requests in `inputs`.

    Args:
        rows: the impressions of the same requests.
        out: the scorer's file.
    """
    config = load_config(run_dir)
    score(config, run_dir, str(inputs), out)
    table = pq.read_table(out)
    request_N, item_N = table["request_id"].to_numpy(), table[config.schema.item].to_numpy()
    mine_N = rows.request_id_R[rows.request_N]
    # Copies of one item in a request have equal features and so equal scores.
    theirs = np.lexsort((item_N, request_N))
    order = np.lexsort((rows.ids[config.schema.item], mine_N))
    assert np.array_equal(request_N[theirs], mine_N[order]), "the scorer skipped or added candidates"
    score_N = np.empty(len(order))
    score_N[order] = table["score"].to_numpy()[theirs]
    return score_N
