"""A prior of items from actions: how often users liked or followed after a video, without any training.

Rates are counted over the requests of the training period, among triggered candidates. A video's rate is shrunk to the
rate of its author's other videos, and that to the overall rate (`easq_rec.answers.rates`). The prior is the log odds of
that rate: policy scores are log odds, too, and the same factor of a rate counts the same for rare and for frequent
actions. It is standardised over the candidates of the training period, so a weight means the same on every log.

Legend: N impressions, I items with their authors, A authors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from easq_rec.answers.rates import Floats, posterior, prior_strength, shrunk
from easq_rec.config.schema import FeatureSchema
from easq_rec.config.variants import ACTIONS
from easq_rec.data.columns import Ragged, RequestColumns, Rows
from easq_rec.data.dataset import RequestDataset
from easq_rec.data.kinds import Column
from easq_rec.data.layout import Layout
from easq_rec.errors import UserError

AUTHOR = "author_id"
"""Candidate column with the author, if it is a feature of the schema."""
COUNTS = ("impressions", "shown", "happened")

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class ItemCounts:
    """Impressions of each item with its author, sorted by item and author."""

    item_I: Rows
    author_I: Rows
    impressions_I: Rows
    """All impressions."""
    shown_I: Rows
    """Triggered impressions."""
    happened_I: Rows
    """Triggered impressions with an action."""

    @classmethod
    def of(cls, item_N: Rows, author_N: Rows, triggered_N: Bools, acted_N: Bools) -> Self:
        """Counts single impressions."""
        ones = np.ones(len(item_N), np.int64)
        values = np.stack([item_N, author_N, ones, triggered_N, triggered_N & acted_N], axis=1, dtype=np.int64)
        return cls._summed(values)

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """The counts of several parts of a log."""
        return cls._summed(np.concatenate([np.stack(part._columns(), axis=1) for part in parts]))

    @classmethod
    def _summed(cls, values: npt.NDArray[np.int64]) -> Self:
        keys, group = np.unique(values[:, :2], axis=0, return_inverse=True)
        sums = np.zeros((len(keys), len(COUNTS)), np.int64)
        np.add.at(sums, group.reshape(-1), values[:, 2:])
        counts = {f"{name}_I": sums[:, index] for index, name in enumerate(COUNTS)}
        return cls(item_I=keys[:, 0], author_I=keys[:, 1], **counts)

    def _columns(self) -> list[Rows]:
        return [self.item_I, self.author_I, *(getattr(self, f"{name}_I") for name in COUNTS)]


class ItemPrior:
    """Standardised log odds of an action, by item and author; all 0 if rates differ by no more than chance.

    Raises:
        UserError: none of the triggered candidates has an action, or all of them have one.
    """

    def __init__(self, counts: ItemCounts) -> None:
        author_A, self._of_author_I = np.unique(counts.author_I, return_inverse=True)
        shown_I, happened_I = counts.shown_I.astype(np.float64), counts.happened_I.astype(np.float64)
        shown, happened = shown_I.sum(), happened_I.sum()
        if not 0 < happened < shown:
            raise UserError(
                f"item prior: {happened:.0f} of the {shown:.0f} triggered candidates of the training period have an "
                f"action ({' or '.join(ACTIONS)}), so rates say nothing: use a longer log"
            )
        overall = happened / shown
        shown_A, happened_A = self._by_author(shown_I), self._by_author(happened_I)
        overall_A, overall_I = np.full(len(shown_A), overall), np.full(len(shown_I), overall)
        strength = prior_strength(happened_A, shown_A, overall_A)
        rate_A = posterior(happened_A, shown_A, overall_A, strength)
        # The author's other items: the item's own impressions would count twice.
        happened_others_I = happened_A[self._of_author_I] - happened_I
        shown_others_I = shown_A[self._of_author_I] - shown_I
        expected_I = posterior(happened_others_I, shown_others_I, overall_I, strength)
        rate_I = shrunk(happened_I, shown_I, expected_I)
        prior_I, prior_A, prior = log_odds(rate_I), log_odds(rate_A), log_odds(overall)
        mean = np.average(prior_I, weights=counts.impressions_I)
        spread = np.sqrt(np.average((prior_I - mean) ** 2, weights=counts.impressions_I))
        self._author_A = author_A
        self._items, of_item_I = np.unique(counts.item_I, return_inverse=True)
        # Ascending, as the counts are.
        self._pair_I = of_item_I * len(author_A) + self._of_author_I
        self._prior_I, self._prior_A, self._prior = (
            (value - mean) / (spread or 1.0) for value in (prior_I, prior_A, prior)
        )

    def _by_author(self, count_I: Floats) -> Floats:
        """Sums over the items of each author, (A,)."""
        return np.bincount(self._of_author_I, weights=count_I).astype(np.float64)

    def __call__(self, item_N: Rows, author_N: Rows) -> Floats:
        """The prior of candidates, (N,): of the item; of the author, if the item is unknown; of all, if both are."""
        prior_N = np.full(len(item_N), self._prior)
        author_known_N, of_author_N = _found(self._author_A, author_N)
        prior_N[author_known_N] = self._prior_A[of_author_N[author_known_N]]
        item_known_N, of_item_N = _found(self._items, item_N)
        pair_known_N, of_pair_N = _found(self._pair_I, of_item_N * len(self._author_A) + of_author_N)
        known_N = author_known_N & item_known_N & pair_known_N
        prior_N[known_N] = self._prior_I[of_pair_N[known_N]]
        return prior_N


def _found(values: Rows, wanted_N: Rows) -> tuple[Bools, Rows]:
    """(whether each wanted value is among sorted values, its place if it is), (N,) each."""
    place_N = np.searchsorted(values, wanted_N).clip(max=len(values) - 1)
    return values[place_N] == wanted_N, place_N


def log_odds(rate: Any) -> Any:
    """log(p / (1 - p)) of rates between 0 and 1, a number or an array."""
    return np.log(rate) - np.log1p(-rate)


def actions_of(schema: FeatureSchema) -> list[str]:
    """The schema's outcomes that are actions. Raises UserError if there are none."""
    names = [outcome.name for outcome in schema.outcomes]
    found = [name for name in names if name in ACTIONS]
    if not found:
        raise UserError(f"item prior: needs an outcome named {' or '.join(ACTIONS)}; the schema has {', '.join(names)}")
    return found


def prior_layout(schema: FeatureSchema) -> Layout:
    """The columns that the prior reads, of requests to count and of requests to rank."""
    paths = ["request_id", "user_id", "timestamp_ms", "history.timestamp_ms", f"candidates.{schema.item}"]
    if has_author(schema):
        paths.append(f"candidates.{AUTHOR}")
    flags = dict.fromkeys([*actions_of(schema), *([schema.trigger] if schema.trigger is not None else [])])
    columns = [Column(path=path, kind="id") for path in paths]
    columns += [Column(path=f"candidates.{name}", kind="flag") for name in flags]
    return Layout(schema=schema, columns=tuple(columns))


def has_author(schema: FeatureSchema) -> bool:
    """Whether the author of a candidate is a feature; if not, all items have one author."""
    return any(feature.column == AUTHOR and feature.kind == "id" for feature in schema.candidate)


def count_items(dataset: RequestDataset) -> ItemCounts:
    """Counts the candidates of requests that were opened with `prior_layout`, one row group at a time."""
    schema = dataset.layout.schema
    actions = actions_of(schema)

    def counted(requests: RequestColumns) -> ItemCounts:
        candidates = requests.candidates
        item_N, author_N = ids_of(schema, requests)
        acted_N = np.any([candidates.column(name) > 0 for name in actions], axis=0)
        always_N = np.ones(len(item_N), np.bool_)
        triggered_N = candidates.column(schema.trigger) > 0 if schema.trigger is not None else always_N
        return ItemCounts.of(item_N, author_N, triggered_N, acted_N)

    return ItemCounts.joined(counted(dataset.read(group)) for group in dataset.row_groups if group.kept)


def ids_of(schema: FeatureSchema, requests: RequestColumns) -> tuple[Rows, Rows]:
    """(item, author) of all candidates, (N,) each; author 0 without such a feature."""
    item_N = requests.candidates.column(schema.item)
    return item_N, requests.candidates.column(AUTHOR) if has_author(schema) else np.zeros(len(item_N), np.int64)


def prior_of(prior: ItemPrior, dataset: RequestDataset, request_ids: Sequence[int] | Rows) -> Floats:
    """The prior of all candidates of these requests of a dataset, in their order, (N,).

    Args:
        dataset: opened with `prior_layout`.
    """
    requests = dataset.read_all()
    assert requests is not None
    ids, schema = requests.scalars["request_id"], dataset.layout.schema
    order = np.argsort(ids, kind="stable")
    rows = order[np.searchsorted(ids[order], np.asarray(request_ids, np.int64))]
    lists = Ragged(offsets=requests.candidates.offsets, children={"prior": prior(*ids_of(schema, requests))})
    return lists.take(rows).column("prior")
