"""Ranks requests without outcomes and answers, by the policy score.

Adapters are merged, and nothing is sharded. The satisfaction tower is built only if it has a weight in the score.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from easq_rec import outputs
from easq_rec.config import Config
from easq_rec.data import files
from easq_rec.data.batch import RequestBatch
from easq_rec.data.columns import Array, Rows
from easq_rec.data.count_files import read_counts
from easq_rec.data.count_lookup import CountLookup, missing_counts
from easq_rec.data.dataset import RequestDataset, first_schema
from easq_rec.data.layout import Layout
from easq_rec.errors import UserError
from easq_rec.evaluation.calibration_fit import apply_maps
from easq_rec.evaluation.calibration_map import OutcomeMap
from easq_rec.evaluation.metrics.outcomes import values
from easq_rec.evaluation.predict import batches, served
from easq_rec.model.ranker import Ranker, Scores
from easq_rec.run_directory.calibration_file import read_calibration
from easq_rec.run_directory.checkpoint_files import checkpoint_of
from easq_rec.run_directory.paths import CheckpointDirectory, RunDirectory
from easq_rec.serving.preflight import check_fuse, check_outcomes
from easq_rec.training.checkpoint.checkpointer import load_unsharded
from easq_rec.training.process import quiet


def load_ranker(
    config: Config, checkpoint: CheckpointDirectory, *, policy_only: bool, device: torch.device | None = None
) -> Ranker:
    """A trained ranker in eval mode, unsharded.

    Args:
        policy_only: omit the satisfaction tower and merge the adapters.
    """
    device = device or torch.device("cpu")
    if policy_only:
        config = dataclasses.replace(
            config,
            model=dataclasses.replace(config.model, satisfaction=None, satisfaction_weight=0.0),
            losses=config.losses.without_reference(),
        )
    ranker = Ranker(config, torch.device("cpu"))
    load_unsharded(checkpoint, ranker, prefix="ranker.")
    if policy_only:
        ranker.network.merge_adapters()
    return ranker.to(device).eval()


def load_served(config: Config, run_dir: Path, fuse: float | None, *, best: bool = False) -> Ranker:
    """The ranker of a run's newest (or best) checkpoint with merged adapters; without the satisfaction tower if it has
    no weight in the served score.

    Args:
        fuse: weight of the satisfaction score in place of `model.satisfaction_weight`; None: that weight.

    Raises:
        UserError: the run has no such checkpoint, or no satisfaction tower to fuse with.
    """
    if fuse is None and not config.model.satisfaction_weight:
        return load_ranker(config, checkpoint_of(run_dir, best=best), policy_only=True)
    check_fuse(config, run_dir, fuse)
    ranker = load_ranker(config, checkpoint_of(run_dir, best=best), policy_only=False)
    # Both streams have the same values, so one merged backbone serves both towers.
    ranker.network.merge_adapters()
    return ranker


def score(
    config: Config,
    run_dir: Path,
    source: files.Location,
    output: Path,
    *,
    fuse: float | None = None,
    best: bool = False,
    outcomes: bool = False,
    calibrated: bool = False,
    counts: Path | None = None,
    top: int | None = None,
) -> int:
    """Writes (request_id, video_id, score, rank) of every candidate, best first; returns the number of requests.

    Args:
        source: a location with requests/, or the folder of the Parquet files.
        output: the Parquet file to write; a rename publishes it when it is complete.
        fuse: weight of the satisfaction score in place of `model.satisfaction_weight`; None: that weight.
        best: use the checkpoint that `checkpoint.best` kept, not the newest.
        outcomes: also write a column for each outcome: its probability, or the expectation of an amount, in the unit of
            the log.
        calibrated: apply the maps of `easq-rec calibrate` to these columns. Score and rank stay as they are.
        counts: folder with the counts of requests that lack them; None: the one in the run directory.
        top: write only so many candidates of each request, the best; None: all.

    Raises:
        UserError: the input is missing or does not fit the schema; it lacks counts, and there are none for it, or not
            those of the run; the run has no such checkpoint, predicts no outcomes, or has no map for the checkpoint.
    """
    quiet()
    dataset = open_requests(config, run_dir, requests_folder(source, output), counts)
    columns = score_columns(config)
    maps: dict[str, OutcomeMap] | None = None
    check_outcomes(config, run_dir, outcomes=outcomes, calibrated=calibrated)
    if outcomes:
        columns = _with_outcomes(columns, config)
        checkpoint = checkpoint_of(run_dir, best=best)
        maps = read_calibration(run_dir, checkpoint).maps if calibrated else {}
    ranker = load_served(config, run_dir, fuse, best=best)
    tables = (_ranked(ranker, batch, config, columns, fuse, maps) for batch in batches(dataset, config, truth=None))
    write_scores(tables, columns, output, top=top)
    return len(dataset)


def requests_folder(source: files.Location, output: Path) -> files.Location:
    """The folder of the requests' files. Raises UserError if there is none, or if the output would lie in it."""
    requests = files.join(source, "requests")
    directory = requests if files.is_dir(requests) else source
    if not files.is_dir(directory):
        raise UserError(f"--input {files.display_name(source)}: no such directory")
    if not files.is_remote(directory):
        outputs.check_outside("--output", output, [Path(directory)])
    return directory


def score_columns(config: Config) -> pa.Schema:
    """The columns of a score file."""
    return pa.schema(
        [("request_id", pa.int64()), (config.schema.item, pa.int64()), ("score", pa.float32()), ("rank", pa.int32())]
    )


def write_scores(tables: Iterable[pa.Table], columns: pa.Schema, output: Path, *, top: int | None = None) -> None:
    """Writes a Parquet file, which appears complete by a rename.

    Args:
        top: write only so many candidates of each request, the best; None: all.
    """
    partial = output.with_name(f".{output.name}.partial")
    output.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(partial, columns, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table if top is None else table.filter(pc.less_equal(table["rank"], top)))
    partial.rename(output)


def open_requests(config: Config, run_dir: Path, directory: files.Location, counts: Path | None) -> RequestDataset:
    """The requests to rank, with counts looked up if the files have none."""
    schema, history = config.schema, config.data.max_history
    file_schema = first_schema(directory)
    if not missing_counts(schema, file_schema):
        if counts is not None:
            reason = "already have these columns" if schema.count_features else "need none: the model reads no counts"
            raise UserError(
                f"--counts {counts}: the requests in {files.display_name(directory)} {reason}: omit --counts"
            )
        return RequestDataset(directory, Layout.of(schema, outcomes=False), max_history=history)
    folder = counts if counts is not None else RunDirectory(run_dir).counts
    if not folder.is_dir():
        where = f"--counts {folder}: no such directory" if counts is not None else f"{run_dir} has no counts/, either"
        names = ", ".join(feature.column for feature in schema.count_features[:3])
        raise UserError(
            f"{files.display_name(directory)}: the requests lack the counts that the model reads ({names}, ...), and "
            f"{where}: give --counts DIR/counts of a directory that `easq-rec data counts` wrote"
        )
    lookup = CountLookup(read_counts(folder), schema, str(folder))
    return RequestDataset(directory, lookup.layout(file_schema), max_history=history, complete=lookup.complete)


def _with_outcomes(columns: pa.Schema, config: Config) -> pa.Schema:
    """The columns of a score file and one for each outcome."""
    names = [outcome.name for outcome in config.schema.outcomes]
    taken = sorted(set(names).intersection(columns.names))
    if taken:
        raise UserError(f"--outcomes: the outcomes {taken} have the names of other columns: rename them in the schema")
    return pa.schema([*columns, *((name, pa.float32()) for name in names)])


def _ranked(
    ranker: Ranker,
    batch: RequestBatch,
    config: Config,
    columns: pa.Schema,
    fuse: float | None,
    maps: Mapping[str, OutcomeMap] | None,
) -> pa.Table:
    """The candidates of a batch, ordered by request, best first; equal scores keep the request's order.

    Args:
        maps: of the predicted outcomes; None: outcomes are not written.
    """
    count = batch.stream.candidates
    lengths = batch.candidate_offsets_R1.diff()[: batch.stream.requests]
    scores = ranker.score(batch)
    score_N, lengths_R = served(scores, fuse)[:count].numpy(), lengths.numpy()
    order_N, rank_N = ordered(score_N, lengths_R)
    return pa.table(
        [
            np.repeat(batch.keys.request_id_R[: len(lengths_R)], lengths_R),
            batch.keys.item_N[:count][order_N],
            score_N[order_N],
            rank_N,
            *(_outcome_columns(scores, config, maps, order_N) if maps is not None else ()),
        ],
        schema=columns,
    )


def ordered(score_N: Array, lengths_R: Rows) -> tuple[Rows, Array]:
    """(positions of the candidates, by request and best first; their ranks from 1, int32)."""
    request_N = np.repeat(np.arange(len(lengths_R)), lengths_R)
    starts_R = np.cumsum(lengths_R) - lengths_R
    rank_N = np.arange(len(score_N)) - np.repeat(starts_R, lengths_R) + 1
    return np.lexsort((-score_N, request_N)), rank_N.astype(np.int32)


def _outcome_columns(scores: Scores, config: Config, maps: Mapping[str, OutcomeMap], order_N: Rows) -> list[Array]:
    """Calibrated probability, or expectation in the unit of the log, of each outcome, (N,) each."""
    assert scores.outcomes is not None
    outcomes = config.schema.outcomes
    logit_NO = apply_maps(maps, scores.outcomes.corrected_NO[: len(order_N)], outcomes)
    return [
        (values(logit_NO[:, o], outcome) * outcome.unit).numpy()[order_N].astype(np.float32)
        for o, outcome in enumerate(outcomes)
    ]
