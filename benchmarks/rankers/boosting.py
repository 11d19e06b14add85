"""LightGBM on target encodings, user features and what the history says.

A target encoding is the smoothed rate of a key. A training row must not see its own label in it, so the training
requests are divided into folds and a row gets the rates of the other folds; a held-out row gets those of all training
rows. Whole requests share a fold, because their impressions are not independent.

Shape suffixes:
    N  impressions
    R  requests
    H  history entries
    F  feature columns
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.rankers.counts import Counts, DurationBuckets, Scorer, Settings
from benchmarks.rankers.impressions import Floats, Impressions, Ints
from easq_rec.errors import UserError

FOLDS = 10
HOUR_MS = 3_600_000
MOST_ROUNDS = 600
PATIENCE = 40
"""Rounds without a better log loss on the validation part, after which a try ends."""
PAIRS = (("user_id", "tab"), ("video_id", "tab"), ("user_id", "duration"), ("user_id", "author_id"))
"""Pairs of keys that are encoded together. Each key is also encoded separately."""
CATEGORIES = 64
"""An id feature with more values than this is encoded; the others are categories of the trees."""


class LightGBM:
    """Gradient-boosted trees."""

    probability = True

    def tries(self, train: Impressions, valid: Impressions) -> Iterator[tuple[Settings, Floats]]:
        lightgbm = _library()
        for strength in (3.0, 20.0):
            encoder = Encoder(train, strength)
            train_NF, valid_NF, names = encoder.out_of_fold(), encoder.encode(valid), encoder.names
            for leaves, least, rate in itertools.product((7, 15, 31), (50, 200), (0.05,)):
                settings = {"strength": strength, "leaves": leaves, "least": least, "rate": rate}
                data = lightgbm.Dataset(train_NF, train.labels, feature_name=names)
                held = lightgbm.Dataset(valid_NF, valid.labels, reference=data)
                model = lightgbm.train(
                    _parameters(settings, seed=0),
                    data,
                    num_boost_round=MOST_ROUNDS,
                    valid_sets=[held],
                    callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
                )
                yield settings | {"rounds": model.best_iteration}, model.predict(valid_NF)

    def fit(self, train: Impressions, settings: Settings, seed: int) -> Scorer:
        lightgbm = _library()
        encoder = Encoder(train, settings["strength"], seed=seed)
        data = lightgbm.Dataset(encoder.out_of_fold(), train.labels, feature_name=encoder.names)
        model = lightgbm.train(_parameters(settings, seed), data, num_boost_round=settings["rounds"])
        return lambda rows: model.predict(encoder.encode(rows))


class Encoder:
    """The feature matrix of LightGBM.

    Args:
        train: the impressions whose labels the encodings count.
        strength: impressions that the base rate counts as.
        seed: of the folds.
    """

    def __init__(self, train: Impressions, strength: float, seed: int = 0) -> None:
        self._train, self._strength = train, strength
        self._buckets = DurationBuckets.of(train)
        self._narrow = [name for name, id_N in train.ids.items() if len(np.unique(id_N)) <= CATEGORIES]
        self._keys = self._keys_of(train)
        self._counts = {name: Counts.of(key_N, train.labels) for name, key_N in self._keys.items()}
        generator = np.random.default_rng(seed)
        self._fold_N = generator.integers(0, FOLDS, size=len(train.request_id_R))[train.request_N]
        # The tag lists have several keys per impression, see `_tag_rate`.
        self._tags = {name: self._tag_counts(train, name, np.ones(len(train), bool)) for name in train.lists}
        self.names = [
            *(f"{what}_{name}" for name in self._keys for what in ("rate", "count")),
            *(f"rate_{name}" for name in train.lists),
            *self._plain(train),
        ]

    def out_of_fold(self) -> Floats:
        """(N, F) of the training impressions; each row's encodings are counts of the other folds."""
        train, label_N = self._train, self._train.labels
        columns: dict[str, Floats] = {name: np.empty(len(train)) for name in self.names}
        columns |= self._plain(train)
        for fold in range(FOLDS):
            inside_N, outside_N = self._fold_N == fold, self._fold_N != fold
            for name, key_N in self._keys.items():
                counts = Counts.of(key_N[outside_N], label_N[outside_N])
                columns[f"rate_{name}"][inside_N] = counts.rate(key_N[inside_N], self._strength)
                # A held-out row is counted in all folds: scaled, so that both mean the same.
                columns[f"count_{name}"][inside_N] = np.log1p(counts.look_up(key_N[inside_N])[1] * FOLDS / (FOLDS - 1))
            for name in train.lists:
                rate_N = self._tag_rate(train, name, self._tag_counts(train, name, outside_N))
                columns[f"rate_{name}"][inside_N] = rate_N[inside_N]
        return np.stack([columns[name] for name in self.names], axis=1)

    def encode(self, rows: Impressions) -> Floats:
        """(N, F) of held-out impressions."""
        columns = self._plain(rows)
        for name, key_N in self._keys_of(rows).items():
            columns[f"rate_{name}"] = self._counts[name].rate(key_N, self._strength)
            columns[f"count_{name}"] = np.log1p(self._counts[name].look_up(key_N)[1])
        for name, counts in self._tags.items():
            columns[f"rate_{name}"] = self._tag_rate(rows, name, counts)
        return np.stack([columns[name] for name in self.names], axis=1)

    def _keys_of(self, rows: Impressions) -> dict[str, Ints]:
        """(N,) of each key that is encoded."""
        ids = rows.ids | {"duration": self._buckets.bucket(rows)}
        keys = {name: id_N for name, id_N in ids.items() if name == "tab" or name not in self._narrow}
        return keys | {f"{first}_{second}": pair(ids[first], ids[second]) for first, second in PAIRS}

    def _plain(self, rows: Impressions) -> dict[str, Floats]:
        """(N,) of each column that needs no label."""
        columns: dict[str, Floats] = {f"id_{name}": rows.ids[name].astype(np.float64) for name in self._narrow}
        columns |= rows.numbers
        return columns | history_columns(rows)

    def _tag_counts(self, rows: Impressions, name: str, chosen_N: np.ndarray[Any, np.dtype[np.bool_]]) -> Counts:
        offset_N1, values = rows.lists[name]
        owner = np.repeat(np.arange(len(rows)), np.diff(offset_N1))
        kept = chosen_N[owner]
        return Counts.of(values[kept], rows.labels[owner[kept]])

    def _tag_rate(self, rows: Impressions, name: str, counts: Counts) -> Floats:
        """(N,): mean of the rates of an impression's ids; NaN without any."""
        offset_N1, values = rows.lists[name]
        lengths_N = np.diff(offset_N1)
        owner = np.repeat(np.arange(len(rows)), lengths_N)
        total_N = np.bincount(owner, counts.rate(values, self._strength), minlength=len(rows))
        with np.errstate(invalid="ignore"):
            return total_N / lengths_N


def history_columns(rows: Impressions) -> dict[str, Floats]:
    """(N,) each: length of the history, hours since its last entry, mean watch ratio, and entries of the same author.

    A history holds valid plays only, and nothing from after the request.
    """
    lengths_R = np.diff(rows.history_R1)
    owner_H = np.repeat(np.arange(len(lengths_R)), lengths_R)
    last_R = np.full(len(lengths_R), np.nan)
    some_R = lengths_R > 0
    last_R[some_R] = rows.history_ms_H[rows.history_R1[1:][some_R] - 1]
    with np.errstate(invalid="ignore"):
        ratio_R = np.bincount(owner_H, rows.history_ratio_H, minlength=len(lengths_R)) / lengths_R
    request_N = rows.request_N
    columns: dict[str, Floats] = {
        "history_length": lengths_R[request_N].astype(np.float64),
        "history_hours": ((rows.timestamp_R - last_R) / HOUR_MS)[request_N],
        "history_ratio": ratio_R[request_N],
    }
    for name, entry_H in rows.history.items():
        # Pairs (request, id) of the history, counted; then those of the candidates looked up.
        found_N: Floats = np.zeros(len(rows))
        if len(entry_H):
            seen = Counts.of(pair(owner_H, entry_H), np.ones(len(entry_H), bool))
            found_N = seen.look_up(pair(request_N, rows.ids[name]))[1]
        columns[f"history_same_{name}"] = found_N
    return columns


def pair(first: Ints, second: Ints) -> Ints:
    """One number for two ids; KuaiRand's ids are from -1 to 2**31 - 2."""
    return (first.astype(np.int64) << np.int64(32)) + (second.astype(np.int64) + 1)


def _parameters(settings: Settings, seed: int) -> dict[str, Any]:
    return {
        "objective": "binary",
        "learning_rate": settings["rate"],
        "num_leaves": settings["leaves"],
        "min_data_in_leaf": settings["least"],
        "feature_fraction": 0.7,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "num_threads": 1,
        "seed": seed,
        "deterministic": True,
        "verbosity": -1,
    }


def _library() -> Any:
    try:
        import lightgbm
    except ImportError as error:
        raise UserError("ranker lightgbm needs the package lightgbm: pip install 'easq-rec[rankers]'") from error
    return lightgbm
