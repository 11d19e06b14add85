"""Serving: ranks requests that carry no outcome and no answer, by the policy score alone or by a fused score.

Adapters are merged into their linears and nothing is sharded. Unless its score is fused into the policy's, the
satisfaction tower is not even built.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from easq_rec.config import Config
from easq_rec.data import files
from easq_rec.data.batch import RequestBatch
from easq_rec.data.dataset import RequestDataset
from easq_rec.data.layout import Layout
from easq_rec.evaluation.predict import batches, served
from easq_rec.model.ranker import Ranker
from easq_rec.run_directory.checkpoint_files import checkpoint_of
from easq_rec.training.checkpoint.checkpointer import load_unsharded
from easq_rec.training.process import quiet


def load_ranker(config: Config, checkpoint: Path, *, policy_only: bool, device: torch.device | None = None) -> Ranker:
    """A trained ranker in eval mode, unsharded.

    Args:
        policy_only: leave out the satisfaction tower and merge the adapters, as serving does.
    """
    device = device or torch.device("cpu")
    if policy_only:
        config = dataclasses.replace(
            config,
            model=dataclasses.replace(config.model, satisfaction=None),
            losses=dataclasses.replace(config.losses, satisfaction=0.0, evidence=0.0, dpo=0.0, dense=0.0),
        )
    ranker = Ranker(config, torch.device("cpu"))
    load_unsharded(checkpoint, ranker, prefix="ranker.")
    if policy_only:
        ranker.network.merge_adapters()
    return ranker.to(device).eval()


def load_served(config: Config, run_dir: Path, fuse: float | None, *, best: bool = False) -> Ranker:
    """The ranker of a run's newest (or best) checkpoint with what serving needs of it, adapters merged.

    Raises:
        ValueError: no checkpoint; or a fused score is asked for and the run has no satisfaction tower.
    """
    if fuse is None:
        return load_ranker(config, checkpoint_of(run_dir, best=best), policy_only=True)
    if not math.isfinite(fuse):
        raise ValueError(f"--fuse {fuse}: must be a finite number")
    if config.model.satisfaction is None:
        raise ValueError(
            f"--fuse {fuse:g}: the run {run_dir} (recipe {config.recipe!r}) has no satisfaction tower to fuse with: "
            "leave --fuse out, or name a run of an aligned recipe such as easq"
        )
    ranker = load_ranker(config, checkpoint_of(run_dir, best=best), policy_only=False)
    # Both streams have the same values, so both towers can read what one merged backbone gives.
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
) -> int:
    """Writes (request_id, video_id, score, rank) of every candidate, best first; returns the number of requests.

    Args:
        fuse: weight of the reference score in a fused score; None: the policy score.
        best: by the checkpoint that `checkpoint.best` has kept, not the newest.
        source: a location with requests/, or the Parquet files themselves.
        output: the Parquet file to write; published by rename when it is complete.
    """
    quiet()
    requests = files.join(source, "requests")
    directory = requests if files.is_dir(requests) else source
    if not files.is_dir(directory):
        raise ValueError(f"--input {files.shown(source)}: no such directory")
    dataset = RequestDataset(directory, Layout.of(config.schema, outcomes=False), max_history=config.data.max_history)
    ranker = load_served(config, run_dir, fuse, best=best)
    columns = pa.schema(
        [("request_id", pa.int64()), (config.schema.item, pa.int64()), ("score", pa.float32()), ("rank", pa.int32())]
    )
    partial = output.with_name(f".{output.name}.partial")
    output.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(partial, columns, compression="zstd") as writer:
        for batch in batches(dataset, config, truth=None):
            writer.write_table(_ranked(ranker, batch, columns, fuse))
    partial.rename(output)
    return len(dataset)


def _ranked(ranker: Ranker, batch: RequestBatch, columns: pa.Schema, fuse: float | None) -> pa.Table:
    """The candidates of a batch, request by request, best first; equal scores keep the order of the request."""
    count = batch.stream.candidates
    lengths = batch.candidate_offsets_R1.diff()[: batch.stream.requests]
    score_N, lengths_R = served(ranker.score(batch), lengths, fuse).float().numpy(), lengths.numpy()
    request_N = np.repeat(np.arange(len(lengths_R)), lengths_R)
    order_N = np.lexsort((-score_N, request_N))
    starts_R = np.cumsum(lengths_R) - lengths_R
    rank_N = np.arange(count) - np.repeat(starts_R, lengths_R) + 1
    return pa.table(
        [
            batch.keys.request_id_R[request_N],
            batch.keys.item_N[:count][order_N],
            score_N[order_N],
            rank_N.astype(np.int32),
        ],
        schema=columns,
    )
