"""A model of the library deepctr-torch at impression level: DCN-v2, a network of feature crosses (Wang et al. 2021).

It reads the inputs of the models of torch-rechub (`Inputs`), without the history. The library's own loop makes the
epochs (Adam, binary cross-entropy, and a penalty of the squared embeddings).

Legend: N impressions, L padded length of a list.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.rankers.counts import Scorer, Settings
from benchmarks.rankers.impressions import Floats, Impressions
from benchmarks.rankers.torch_models import BATCH, DIM, DROPOUT, EPOCHS, Inputs, plain
from easq_rec.errors import UserError

CROSSES = 3
"""Layers of the cross network."""


class CrossNetwork:
    """DCN-v2 with low-rank crosses, mixed by gates: the library's `DCNMix`."""

    probability = True

    def tries(self, train: Impressions, valid: Impressions) -> Iterator[tuple[Settings, Floats]]:
        inputs = Inputs(train)
        train_input, valid_input = inputs.of(train), inputs.of(valid)
        for rate, penalty in itertools.product((1e-3, 3e-3), (1e-5, 1e-4, 1e-3)):
            settings = {"rate": rate, "penalty": penalty}
            training = _Training(inputs, train_input, settings, seed=0)
            for epoch in range(1, EPOCHS + 1):
                training.epoch(train_input, train.labels)
                yield settings | {"epochs": epoch}, training.predict(valid_input)

    def fit(self, train: Impressions, settings: Settings, seed: int) -> Scorer:
        inputs = Inputs(train)
        train_input = inputs.of(train)
        training = _Training(inputs, train_input, settings, seed)
        for _ in range(settings["epochs"]):
            training.epoch(train_input, train.labels)
        return lambda rows: training.predict(inputs.of(rows))


class _Training:
    """A model and the library's loop.

    Args:
        columns: of `Inputs`, which give the lengths of lists.
    """

    def __init__(self, inputs: Inputs, columns: dict[str, Tensor], settings: Settings, seed: int) -> None:
        library = _library("inputs")
        ids = [library.SparseFeat(plain(name), inputs.rows(name), DIM) for name in inputs.single]
        # 0 is padding, which the library's mean leaves out.
        lists = [
            library.VarLenSparseFeat(
                library.SparseFeat(plain(name), inputs.rows(name), DIM), columns[plain(name)].shape[1]
            )
            for name in inputs.lists
        ]
        self._names = [feature.name for feature in (*ids, *lists)]
        self._model = _library("models").DCNMix(
            [*ids, *lists],
            [*ids, *lists],
            cross_num=CROSSES,
            dnn_hidden_units=(128, 64),
            dnn_dropout=DROPOUT,
            l2_reg_embedding=settings["penalty"],
            # As for the models of torch-rechub.
            init_std=0.01,
            seed=seed,
        )
        optimizer = torch.optim.Adam(self._model.parameters(), lr=settings["rate"])
        self._model.compile(optimizer, "binary_crossentropy")

    def epoch(self, columns: dict[str, Tensor], label_N: np.ndarray[Any, Any]) -> None:
        """One pass in a new order."""
        self._model.fit(self._input(columns), label_N.astype(np.float32), batch_size=BATCH, epochs=1, verbose=0)

    def predict(self, columns: dict[str, Tensor]) -> Floats:
        """(N,): probability of the label."""
        found: Floats = self._model.predict(self._input(columns), batch_size=BATCH)[:, 0]
        return found

    def _input(self, columns: dict[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
        return {name: columns[name].numpy() for name in self._names}


def _library(module: str) -> Any:
    """A module of deepctr-torch. Raises UserError if it is not installed."""
    import importlib

    try:
        return importlib.import_module(f"deepctr_torch.{module}")
    except ImportError as error:
        raise UserError("ranker dcn needs the package deepctr-torch: pip install 'easq-rec[rankers]'") from error
