"""The process of a cell that trains nothing: `python -m easq_rec.tools.studies.anchor_cell CONFIG.json NAME SOURCE`.

Evaluates a ranking by chance or by the truth on the held-out requests of the cells that train, by the same metrics, and
writes them to RUN_DIR/metrics.jsonl.

Legend: R held-out requests, N candidates of them, C candidates of a request of a world.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from easq_rec.config import Config
from easq_rec.config.serialization import load_json
from easq_rec.data import files
from easq_rec.data.batch import RequestBatch
from easq_rec.data.columns import Array, RequestColumns, offsets_of
from easq_rec.data.dataset import RequestDataset
from easq_rec.data.quarantine import Quarantine
from easq_rec.data.sources import open_holdout
from easq_rec.errors import UserError
from easq_rec.evaluation.metrics import RankingMetrics
from easq_rec.evaluation.predict import Score, batches, predict
from easq_rec.model.ranker import Scores
from easq_rec.run_directory.metrics_file import FINAL, append_record
from easq_rec.run_directory.paths import RunDirectory
from easq_rec.serving.evaluate import held_out
from easq_rec.tools.simulation.models import create_model
from easq_rec.tools.simulation.truth import truth
from easq_rec.tools.studies.anchors import WORLD
from easq_rec.tools.studies.cell import call
from easq_rec.tools.studies.grid import ENGAGING, RANDOM, SATISFYING

CPU = torch.device("cpu")


def main(argv: Sequence[str]) -> int:
    """Returns the exit code."""
    path, name, source = argv
    # Nothing is trained, so the environment need not be one that can.
    config = load_json(Config, Path(path))
    run_dir = Path(str(config.run_dir))
    run_dir.mkdir(parents=True, exist_ok=True)
    append_record(RunDirectory(run_dir).metrics, 0, FINAL, asdict(anchor_metrics(config, name, source)))
    return 0


def anchor_metrics(config: Config, name: str, source: str) -> RankingMetrics:
    """The metrics of an anchor on the held-out requests of a config with `data.path`.

    Args:
        name: one of `ANCHORS`.
        source: of `easq_rec.tools.studies.anchors`: `WORLD` if the data are the world of the config.

    Raises:
        UserError: there are no held-out requests, or no truth that the anchor needs.
    """
    directory = str(config.data.path)
    quarantine = None
    if config.data.on_bad_rows == "quarantine":
        quarantine = Quarantine(RunDirectory(Path(str(config.run_dir))).quarantine)
    requests = files.join(directory, "requests")
    holdout, graded = open_holdout(config, requests, held_out(config, directory), quarantine=quarantine)
    score: Score
    if name == RANDOM:
        score = _by_chance
    elif source == WORLD:
        score = _ByRequest(*_of_world(config, holdout, name))
    elif name == SATISFYING and graded is not None:
        score = _by_grade
    else:
        raise UserError(f"{files.display_name(directory)}: its candidates have no truth to rank by for {name}")
    return predict(score, batches(holdout, config, truth=graded), config, CPU).metrics()


def _by_chance(batch: RequestBatch) -> Scores:
    """Equal scores: metrics count ties as random order does on average, so that no luck is in them."""
    return _alone(torch.zeros(batch.stream.candidates))


def _by_grade(batch: RequestBatch) -> Scores:
    """The graded truth; a candidate whose grade is unknown is placed below all others."""
    assert batch.truth_N is not None
    return _alone(batch.truth_N.nan_to_num(nan=-1.0))


def _alone(score_N: torch.Tensor) -> Scores:
    """A score without a satisfaction score."""
    return Scores(main_N=score_N, served_N=score_N, satisfaction_N=None)


def _of_world(config: Config, holdout: RequestDataset, name: str) -> tuple[RequestColumns, Array]:
    """(held-out requests of a world, score of each of their candidates (N,))."""
    groups = [holdout.read(group) for group in holdout.row_groups if group.kept]
    requests = RequestColumns.concat(groups or [holdout.empty()])
    weights = {outcome.name: outcome.weight for outcome in config.schema.outcomes}
    videos_RC = requests.candidates.column(config.schema.item).reshape(len(requests), -1)
    found = truth(create_model(config.world), requests.scalars["user_id"], videos_RC, requests.timestamp_ms, weights)
    return requests, (found.utility if name == ENGAGING else found.satisfaction).ravel()


class _ByRequest:
    """Scores of the candidates of known requests, as those of a ranker."""

    def __init__(self, requests: RequestColumns, score_N: Array) -> None:
        ids = requests.scalars["request_id"]
        self._order = np.argsort(ids, kind="stable")
        self._ids = ids[self._order]
        self._starts, self._lengths = requests.candidates.offsets, requests.candidates.lengths
        self._score_N = score_N

    def __call__(self, batch: RequestBatch) -> Scores:
        wanted = batch.keys.request_id_R[: batch.stream.requests]
        rows = self._order[np.searchsorted(self._ids, wanted)]
        lengths = self._lengths[rows]
        starts = offsets_of(lengths)[:-1]
        places = np.repeat(self._starts[rows] - starts, lengths) + np.arange(int(lengths.sum()))
        return _alone(torch.from_numpy(self._score_N[places].astype(np.float32)))


if __name__ == "__main__":
    sys.exit(call(main))
