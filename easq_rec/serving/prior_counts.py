"""Counts for the item prior, from the requests and the answers of a training period.

Two priors follow from them: how often users liked or followed after a video, and how they answered about it.

Legend: N candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from easq_rec.answers.rates import Floats
from easq_rec.config.answer_scale import NO_ANSWER
from easq_rec.config.schema import FeatureSchema
from easq_rec.config.variants import ACTIONS
from easq_rec.data import files
from easq_rec.data.columns import Ragged, RequestColumns, Rows
from easq_rec.data.dataset import Period, RequestDataset
from easq_rec.data.kinds import Column
from easq_rec.data.layout import Layout
from easq_rec.data.quarantine import Quarantine
from easq_rec.errors import UserError
from easq_rec.serving.item_prior import ItemCounts, ItemPrior

AUTHOR = "author_id"
"""Candidate column with the author, if it is a feature of the schema."""
PriorOf = Literal["actions", "answers"]
"""What a prior is made of."""


def prior_from(
    of: PriorOf, directory: files.Location, schema: FeatureSchema, period: Period, quarantine: Quarantine | None
) -> ItemPrior:
    """The prior of a data directory.

    Args:
        period: requests and answers from before its end are counted.

    Raises:
        UserError: the prior is one of actions, and the schema has none, or no triggered candidate has one, or every.
    """
    requests = files.join(directory, "requests")
    if of == "actions":
        return ItemPrior(
            count_actions(RequestDataset(requests, action_layout(schema), period=period, quarantine=quarantine))
        )
    parts = [count_impressions(RequestDataset(requests, item_layout(schema), period=period, quarantine=quarantine))]
    answers = files.join(directory, "answers")
    if files.is_dir(answers):
        answered = RequestDataset(answers, answer_layout(schema), period=period, quarantine=quarantine)
        parts.append(count_answers(answered, until_ms=period.end_ms))
    return ItemPrior(ItemCounts.joined(parts))


def actions_of(schema: FeatureSchema) -> list[str]:
    """The schema's outcomes that are actions. Raises UserError if there are none."""
    names = [outcome.name for outcome in schema.outcomes]
    found = [name for name in names if name in ACTIONS]
    if not found:
        raise UserError(f"item prior: needs an outcome named {' or '.join(ACTIONS)}; the schema has {', '.join(names)}")
    return found


def item_layout(schema: FeatureSchema) -> Layout:
    """The columns that say which items a request ranks."""
    paths = ["request_id", "user_id", "timestamp_ms", "history.timestamp_ms", f"candidates.{schema.item}"]
    if has_author(schema):
        paths.append(f"candidates.{AUTHOR}")
    return Layout(schema=schema, columns=tuple(Column(path=path, kind="id") for path in paths))


def action_layout(schema: FeatureSchema) -> Layout:
    """Those of `item_layout`, and what says whether users liked or followed."""
    flags = dict.fromkeys([*actions_of(schema), *([schema.trigger] if schema.trigger is not None else [])])
    return item_layout(schema).with_columns(Column(path=f"candidates.{name}", kind="flag") for name in flags)


def answer_layout(schema: FeatureSchema) -> Layout:
    """Those of `item_layout`, and the answers."""
    return item_layout(schema).with_columns(
        [
            Column(path="candidates.answer", kind="answer", answers=schema.answers),
            Column(path="candidates.answered_at_ms", kind="optional_time"),
        ]
    )


def has_author(schema: FeatureSchema) -> bool:
    """Whether the author of a candidate is a feature; if not, all items have one author."""
    return any(feature.column == AUTHOR and feature.kind == "id" for feature in schema.candidate)


def count_actions(dataset: RequestDataset) -> ItemCounts:
    """Triggered candidates, and those with an action, of requests that were opened with `action_layout`.

    Raises:
        UserError: none of the triggered candidates has an action, or all of them have one.
    """
    schema = dataset.layout.schema
    actions = actions_of(schema)

    def counted(requests: RequestColumns) -> ItemCounts:
        candidates = requests.candidates
        acted_N = np.any([candidates.column(name) > 0 for name in actions], axis=0)
        triggered_N = candidates.column(schema.trigger) > 0 if schema.trigger is not None else np.ones_like(acted_N)
        return ItemCounts.of(
            *ids_of(schema, requests), impressions_N=1, shown_N=triggered_N, happened_N=triggered_N & acted_N
        )

    counts = _counted(dataset, counted)
    happened, shown = counts.happened_I.sum(), counts.shown_I.sum()
    if not 0 < happened < shown:
        raise UserError(
            f"item prior: {happened:.0f} of the {shown:.0f} triggered candidates of the training period have an "
            f"action ({' or '.join(ACTIONS)}), so rates say nothing: use a longer log"
        )
    return counts


def count_impressions(dataset: RequestDataset) -> ItemCounts:
    """Impressions of requests that were opened with `item_layout`, without any observation."""

    def counted(requests: RequestColumns) -> ItemCounts:
        ids = ids_of(dataset.layout.schema, requests)
        return ItemCounts.of(*ids, impressions_N=1, shown_N=0, happened_N=0)

    return _counted(dataset, counted)


def count_answers(dataset: RequestDataset, *, until_ms: int) -> ItemCounts:
    """Answers of requests that were opened with `answer_layout`, as observations and no impressions. The worst answer
    of the scale counts as 0, the best as 1, and those between in equal steps.

    Args:
        until_ms: answers that arrive at this time or later do not count.
    """
    schema = dataset.layout.schema
    scale = schema.answers

    def counted(requests: RequestColumns) -> ItemCounts:
        answer_N = requests.candidates.column("answer")
        known_N = (answer_N != NO_ANSWER) & (requests.candidates.column("answered_at_ms") < until_ms)
        item_N, author_N = (ids_N[known_N] for ids_N in ids_of(schema, requests))
        value_N = (answer_N[known_N] - scale.first) / (scale.last - scale.first)
        return ItemCounts.of(item_N, author_N, impressions_N=0, shown_N=1, happened_N=value_N)

    return _counted(dataset, counted)


def _counted(dataset: RequestDataset, counted: Callable[[RequestColumns], ItemCounts]) -> ItemCounts:
    """The counts of a dataset, one row group at a time."""
    groups = [group for group in dataset.row_groups if group.kept]
    return ItemCounts.joined([counted(dataset.read(group)) for group in groups] or [counted(dataset.empty())])


def ids_of(schema: FeatureSchema, requests: RequestColumns) -> tuple[Rows, Rows]:
    """(item, author) of all candidates, (N,) each; author 0 without such a feature."""
    item_N = requests.candidates.column(schema.item)
    return item_N, requests.candidates.column(AUTHOR) if has_author(schema) else np.zeros(len(item_N), np.int64)


def prior_of(prior: ItemPrior, dataset: RequestDataset, request_ids: Sequence[int] | Rows) -> Floats:
    """The prior of all candidates of these requests of a dataset, in their order, (N,).

    Args:
        dataset: opened with `item_layout`.
    """
    requests = dataset.read_all()
    assert requests is not None
    ids, schema = requests.scalars["request_id"], dataset.layout.schema
    order = np.argsort(ids, kind="stable")
    rows = order[np.searchsorted(ids[order], np.asarray(request_ids, np.int64))]
    lists = Ragged(offsets=requests.candidates.offsets, children={"prior": prior(*ids_of(schema, requests))})
    return lists.take(rows).column("prior")
