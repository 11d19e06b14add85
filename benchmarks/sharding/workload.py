"""The reference workload of `benchmarks.train_step` at a size that fits several ranks of one machine."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from benchmarks.train_step import EVIDENCE, random_requests, reference_config
from easq_rec.config import Config, LoRA, Model, Optim, Replay, Tower, Transformer
from easq_rec.data.batch import Answers, RequestBatch, collate
from easq_rec.data.columns import RequestColumns
from easq_rec.data.encode import EncodedRequests, encode
from easq_rec.data.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Size:
    """Sizes of tables and batches."""

    rows: int
    """Rows of the two largest tables; the others are proportional, as in the reference workload."""
    dim: int
    requests: int
    """Requests per step, over all ranks."""
    answered: int


PROOF = Size(rows=500, dim=32, requests=24, answered=10)
TIMED = Size(rows=100_000, dim=64, requests=128, answered=16)


def config_of(size: Size, base: Config | None = None) -> Config:
    """The reference config with other tables; for a check also with another network and learning rates.

    In a check rounding must not grow: AdamW would make a full step for a gradient that is only rounding error.
    """
    config = base or reference_config()
    schema = config.schema
    factor = size.rows / max(table.rows for table in schema.tables)
    tables = tuple(
        dataclasses.replace(table, rows=max(int(table.rows * factor), 16), dim=size.dim) for table in schema.tables
    )
    # FBGEMM's INT8 codec packs 32 columns and needs whole packs in each rank's message.
    schema = dataclasses.replace(schema, tables=tables, satisfaction_dim=32)
    config = dataclasses.replace(config, schema=schema)
    if size.rows > PROOF.rows:
        return config
    tower = Tower(experts=2, hidden=8, out=8)
    return dataclasses.replace(
        config,
        model=Model(
            dim=16,
            backbone=Transformer(heads=2, layers=2, ffn=24),
            main=tower,
            satisfaction=tower,
            lora=LoRA(rank=2),
        ),
        losses=dataclasses.replace(config.losses, align_every=1),
        optim=Optim(table_lr=0.005, dense_lr=1e-2, warmup_steps=0, schedule="constant"),
        replay=Replay(answers_per_step=size.answered),
    )


def whole_batch(config: Config, size: Size, number: int) -> RequestBatch:
    """The requests of all ranks for a step, as one batch."""
    return share(config, size, number, 0, 1)


def share(config: Config, size: Size, number: int, rank: int, ranks: int) -> RequestBatch:
    """A rank's part of step `number`: ragged requests, more for higher ranks."""
    rng = np.random.default_rng(number)
    layout = Layout.of(config.schema)
    stream, answered = encode(layout, requests(size.requests, rng)), encode(layout, requests(size.answered, rng))
    picked = answered.candidates.offsets[:-1] + rng.integers(0, answered.candidates.lengths)
    answered = answered.keep_candidates(picked)
    answers = np.where(np.arange(size.answered) % 2, 2, 0).astype(np.int8)
    mine, replayed = _part(size.requests, rank, ranks), _part(size.answered, rank, ranks)
    return collate(
        config.schema,
        stream.take(mine),
        Answers(
            requests=answered.take(replayed),
            request_A=np.arange(len(replayed)),
            candidate_A=np.zeros(len(replayed), np.int64),
            answer_A=answers[replayed],
        ),
        evidence_O=np.array([0.0, EVIDENCE], np.float32),
    )


def timed_batch(config: Config, size: Size, number: int, rank: int, ranks: int) -> RequestBatch:
    """Ragged requests that differ between ranks, the same number on each rank."""
    rng = np.random.default_rng([number, rank])
    layout, count = Layout.of(config.schema), size.answered // ranks
    answered: EncodedRequests = encode(layout, requests(count, rng))
    picked = answered.candidates.offsets[:-1] + rng.integers(0, answered.candidates.lengths)
    return collate(
        config.schema,
        encode(layout, requests(size.requests // ranks, rng)),
        Answers(
            requests=answered.keep_candidates(picked),
            request_A=np.arange(count),
            candidate_A=np.zeros(count, np.int64),
            answer_A=np.where(np.arange(count) % 2, 2, 0).astype(np.int8),
        ),
        evidence_O=np.array([0.0, EVIDENCE], np.float32),
    )


def requests(count: int, rng: np.random.Generator) -> RequestColumns:
    return random_requests(count, rng, ragged=True)


def _part(count: int, rank: int, ranks: int) -> np.ndarray:
    """Rank r's rows: r + 1 of 1 + 2 + ... + ranks parts."""
    ends = np.round(np.cumsum([0, *range(1, ranks + 1)]) * count / (ranks * (ranks + 1) / 2)).astype(int)
    return np.arange(ends[rank], ends[rank + 1])
