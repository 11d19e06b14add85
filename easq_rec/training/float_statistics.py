"""Fits the statistics of float features to a sample of the training data, before the first step.

Fitted statistics cost no exchange between ranks, and do not change the meaning of an input while the network learns.
They are in the checkpoint, so that a resumed run and serving use the same ones.

Legend: R requests, H history entries, N candidates, F numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from easq_rec.config.schema import FeatureSchema
from easq_rec.data.batch import RequestBatch, collate
from easq_rec.data.dataset import RequestDataset
from easq_rec.data.encode import encode
from easq_rec.model.tokens import Tokenizer

ROW_GROUPS, VALUES = 16, 65_536
"""The sample: row groups at equal distances over the time line, and at most that many examples of each group."""


def fit_floats(tokens: Tokenizer, dataset: RequestDataset, schema: FeatureSchema) -> None:
    """Reads the sample and fits. All ranks read the same sample, whatever their number."""

    def sample() -> list[RequestBatch]:
        groups = [group for group in dataset.row_groups if group.kept]
        chosen = sorted({index * len(groups) // ROW_GROUPS for index in range(ROW_GROUPS)})
        return [collate(schema, encode(dataset.layout, dataset.read(groups[index]))) for index in chosen]

    fit_to(tokens, sample)


def fit_to(tokens: Tokenizer, sample: Callable[[], Sequence[RequestBatch]]) -> None:
    """Fits to a sample, which is only read if there is something to fit. It must be equal on all ranks."""
    encoders = {
        "user_float_RF": tokens.user_numbers,
        "history_float_HF": tokens.history_numbers,
        "float_NF": tokens.candidate_numbers,
    }
    if not any(encoder.encodings for encoder in encoders.values()):
        return
    batches = sample()
    for name, encoder in encoders.items():
        values = np.concatenate([getattr(batch, name).numpy() for batch in batches])
        step = -(-len(values) // VALUES)
        encoder.fit(values[:: max(step, 1)])
