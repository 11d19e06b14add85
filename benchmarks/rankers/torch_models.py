"""Models of the library torch-rechub at impression level: DIN, DeepFM, MMoE, and a factorization machine of its layers.

Every id gets a row of an embedding table if training knows it; row 0 is for other ids and for padding. Numbers enter as
ids of their quantile bucket. DIN attends to the history; the others do not read it. The library's own trainers make the
epochs (Adam, binary cross-entropy).

MMoE has a head for the label and one for each outcome that the label is made of; its loss is the mean over the heads.
Its score is the head of the label.

Shape suffixes:
    N  impressions
    R  requests
    B  impressions of a batch
    L  padded length of a list
    T  tasks: the label, then each outcome of the label
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.rankers.counts import Scorer, Settings
from benchmarks.rankers.impressions import LABEL, Floats, Impressions, Ints
from easq_rec.errors import UserError

Kind = Literal["fm", "deepfm", "din", "mmoe"]

DIM = 16
BATCH = 512
MOST_HISTORY = 50
"""The most recent entries that are read, as in the project's own recipes."""
BUCKETS = 20
DROPOUT = 0.2
EXPERTS = 4
"""Of MMoE."""
TASKS = 1 + len(LABEL)
"""Of MMoE: the label and its outcomes."""
EPOCHS = 3
"""A try ends after this many epochs, and each of them is a possible choice."""


class LibraryModel:
    """One model of the library.

    Args:
        kind: `fm`, `deepfm`, `din` or `mmoe`.
    """

    probability = True

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def tries(self, train: Impressions, valid: Impressions) -> Iterator[tuple[Settings, Floats]]:
        inputs = Inputs(train)
        train_input, valid_input, target = inputs.of(train), inputs.of(valid), targets(self._kind, train)
        for rate, decay in itertools.product((1e-3, 3e-3), (1e-5, 1e-4, 1e-3)):
            settings = {"rate": rate, "weight_decay": decay}
            training = _Training(self._kind, inputs, settings, seed=0)
            for epoch in range(1, EPOCHS + 1):
                training.epoch(train_input, target)
                yield settings | {"epochs": epoch}, training.predict(valid_input)

    def fit(self, train: Impressions, settings: Settings, seed: int) -> Scorer:
        inputs = Inputs(train)
        training = _Training(self._kind, inputs, settings, seed)
        train_input, target = inputs.of(train), targets(self._kind, train)
        for _ in range(settings["epochs"]):
            training.epoch(train_input, target)
        return lambda rows: training.predict(inputs.of(rows))


class Inputs:
    """Ids to table rows, as the training impressions know them."""

    def __init__(self, train: Impressions) -> None:
        self.known: dict[str, Ints] = {name: np.unique(id_N) for name, id_N in train.ids.items()}
        self.known |= {name: np.unique(values) for name, (_, values) in train.lists.items()}
        self.edges = {name: _edges(value_N) for name, value_N in train.numbers.items()}
        self.history = tuple(train.history)
        self.lists = tuple(train.lists)
        self.single = (*train.ids, *train.numbers)
        self._lengths = {name: _longest(offset_N1) for name, (offset_N1, _) in train.lists.items()}
        self._history_length = min(_longest(train.history_R1), MOST_HISTORY)

    def rows(self, name: str) -> int:
        """Rows of the table of a feature."""
        return len(self.known[name]) + 1 if name in self.known else len(self.edges[name]) + 2

    def of(self, rows: Impressions) -> dict[str, Tensor]:
        """(N,) of every single id, (N, L) of every list; a history is named `history_` and its feature."""
        columns = {name: self._table_row(name, id_N) for name, id_N in rows.ids.items()}
        for name, value_N in rows.numbers.items():
            bucket_N = 1 + np.searchsorted(self.edges[name], np.nan_to_num(value_N), side="right")
            columns[name] = np.where(np.isfinite(value_N), bucket_N, 0)
        for name, (offset_N1, values) in rows.lists.items():
            columns[name] = _padded(offset_N1, self._table_row(name, values), self._lengths[name])
        for name, entry_H in rows.history.items():
            # One history per request, which all its impressions share.
            history_RL = _padded(rows.history_R1, self._table_row(name, entry_H), self._history_length)
            columns[f"history_{name}"] = history_RL[rows.request_N]
        return {plain(name): torch.from_numpy(np.ascontiguousarray(column)).long() for name, column in columns.items()}

    def _table_row(self, name: str, ids: Ints) -> Ints:
        known = self.known[name]
        place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return np.where(known[place] == ids, place + 1, 0) if len(known) else np.zeros(len(ids), np.int64)


class _Training:
    """A model and the library's trainer."""

    def __init__(self, kind: Kind, inputs: Inputs, settings: Settings, seed: int) -> None:
        trainers = _library("trainers")
        random.seed(seed)
        torch.manual_seed(seed)
        self._generator = torch.Generator().manual_seed(seed)
        optimizer = {"lr": settings["rate"], "weight_decay": settings["weight_decay"]}
        model = _model(kind, inputs)
        if kind == "mmoe":
            self._trainer = trainers.MTLTrainer(model, ["classification"] * TASKS, optimizer_params=optimizer)
        else:
            self._trainer = trainers.CTRTrainer(model, optimizer_params=optimizer)

    def epoch(self, columns: dict[str, Tensor], target: Tensor) -> None:
        """One pass in a new order; `target` is that of `targets`."""
        order_N = torch.randperm(len(target), generator=self._generator)
        self._trainer.train_one_epoch(Batches(columns, target, order_N))

    @torch.no_grad()
    def predict(self, columns: dict[str, Tensor]) -> Floats:
        """(N,): probability of the label."""
        model: nn.Module = self._trainer.model.eval()
        rows = len(next(iter(columns.values())))
        found = [model(batch) for batch, _ in Batches(columns, torch.zeros(rows), torch.arange(rows))]
        # (N,) of most models, (N, T) of MMoE, whose first task is the label.
        return torch.cat(found).reshape(rows, -1)[:, 0].double().numpy()


@dataclass(frozen=True, eq=False)
class Batches:
    """What the library's trainer iterates over. Slices of whole columns: its own loader gathers row by row."""

    columns: dict[str, Tensor]
    target: Tensor
    """(N,) or (N, T)."""
    order_N: Tensor

    def __len__(self) -> int:
        return -(-len(self.order_N) // BATCH)

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        for chosen_B in self.order_N.split(BATCH):
            yield {name: column[chosen_B] for name, column in self.columns.items()}, self.target[chosen_B]


def targets(kind: Kind, train: Impressions) -> Tensor:
    """(N,) labels, or for MMoE (N, T): the label, then the outcomes, in the order of `LABEL`."""
    tasks = [train.labels, *(train.outcomes[name] for name in LABEL)]
    target = np.stack(tasks, axis=1) if kind == "mmoe" else train.labels
    return torch.from_numpy(target).float()


def _model(kind: Kind, inputs: Inputs) -> nn.Module:
    ranking, feature = _library("models.ranking"), _library("basic.features")
    # The library's default of 0.0001 lets a factorization machine start from products of nearly nothing.
    start = _library("basic.initializers").RandomNormal(0, 0.01)

    def sparse(name: str) -> Any:
        return feature.SparseFeature(plain(name), inputs.rows(name), DIM, padding_idx=0, initializer=start)

    def sequence(name: str, of: str, pooling: str, shared: str | None = None) -> Any:
        return feature.SequenceFeature(
            name, inputs.rows(of), DIM, pooling=pooling, shared_with=shared, padding_idx=0, initializer=start
        )

    tags = [sequence(name, name, "mean") for name in inputs.lists]
    match kind:
        case "fm":
            return FactorizationMachine([*map(sparse, inputs.single), *tags])
        case "deepfm":
            found = [*map(sparse, inputs.single), *tags]
            model: nn.Module = ranking.DeepFM(found, found, mlp_params={"dims": [128, 64], "dropout": DROPOUT})
            return model
        case "din":
            model = ranking.DIN(
                features=[*(sparse(name) for name in inputs.single if name not in inputs.history), *tags],
                history_features=[sequence(f"history_{name}", name, "concat", name) for name in inputs.history],
                target_features=[sparse(name) for name in inputs.history],
                mlp_params={"dims": [128, 64], "dropout": DROPOUT},
                attention_mlp_params={"dims": [36], "use_softmax": False},
            )
            return model
        case "mmoe":
            # An expert and its tower together have the layers of the networks of `deepfm` and `din`.
            model = _library("models.multi_task").MMOE(
                [*map(sparse, inputs.single), *tags],
                ["classification"] * TASKS,
                n_expert=EXPERTS,
                expert_params={"dims": [128], "dropout": DROPOUT},
                tower_params_list=[{"dims": [64], "dropout": DROPOUT}] * TASKS,
            )
            return model


class FactorizationMachine(nn.Module):
    """A factorization machine (Rendle 2010) of the library's layers: a linear part and all products of two features.

    Args:
        features: of the library, with a vector each.
    """

    def __init__(self, features: list[Any]) -> None:
        super().__init__()
        layers = _library("basic.layers")
        self._features = features
        self.embedding = layers.EmbeddingLayer(features)
        self.linear = layers.LR(sum(feature.embed_dim for feature in features))
        self.products = layers.FM(reduce_sum=True)

    def forward(self, columns: dict[str, Tensor]) -> Tensor:
        """(B,): probability of the label."""
        vector_BFD = self.embedding(columns, self._features, squeeze_dim=False)
        score_B1 = self.linear(vector_BFD.flatten(start_dim=1)) + self.products(vector_BFD)
        return torch.sigmoid(score_B1.squeeze(1))


def plain(name: str) -> str:
    """The library makes modules of these names, which must not have a dot."""
    return name.replace(".", "_")


def _edges(value_N: Floats) -> Floats:
    known_N = value_N[np.isfinite(value_N)]
    return np.unique(np.quantile(known_N, np.linspace(0, 1, BUCKETS + 1)[1:-1])) if len(known_N) else np.zeros(0)


def _longest(offset_N1: Ints) -> int:
    return max(int(np.diff(offset_N1).max(initial=0)), 1)


def _padded(offset_R1: Ints, values: Ints, length: int) -> Ints:
    """(R, L): the last `length` values of each list, and 0 after a shorter one."""
    ends_R, lengths_R = offset_R1[1:], np.minimum(np.diff(offset_R1), length)
    place_RL = (ends_R - lengths_R)[:, None] + np.arange(length)
    filled_RL = np.arange(length) < lengths_R[:, None]
    if not len(values):
        return np.zeros(place_RL.shape, np.int64)
    return np.where(filled_RL, values[np.minimum(place_RL, len(values) - 1)], 0)


def _library(module: str) -> Any:
    """A module of torch-rechub. Raises UserError if it is not installed."""
    import importlib

    try:
        return importlib.import_module(f"torch_rechub.{module}")
    except ImportError as error:
        raise UserError(
            "rankers fm, deepfm, din and mmoe need the package torch-rechub: pip install 'easq-rec[rankers]'"
        ) from error
