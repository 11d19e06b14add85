"""Counts for the item prior, from the requests and the answers of a training period.

Three priors follow from them: how often users liked or followed after a video, how they answered about it on average,
and the same beside how generous these users are.

Legend: N candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

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
from easq_rec.serving.answer_effects import AnswerEffects
from easq_rec.serving.item_prior import Bools, ItemCounts, ItemPrior

AUTHOR = "author_id"
"""Candidate column with the author, if it is a feature of the schema."""
PriorOf = Literal["actions", "answers", "answer_effects"]
"""What a prior is made of: likes and follows, average answers, or answers corrected for how generous users are."""


class CandidatePrior(Protocol):
    """A score of candidates by item and author, standardised over the impressions of the training period."""

    def __call__(self, item_N: Rows, author_N: Rows) -> Floats: ...


def prior_from(
    of: PriorOf, directory: files.Location, schema: FeatureSchema, period: Period, quarantine: Quarantine | None
) -> CandidatePrior:
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
    impressions = count_impressions(RequestDataset(requests, item_layout(schema), period=period, quarantine=quarantine))
    answers = files.join(directory, "answers")
    answered = None
    if files.is_dir(answers):
        answered = RequestDataset(answers, answer_layout(schema), period=period, quarantine=quarantine)
    if of == "answer_effects":
        return AnswerEffects(*_answers(answered, schema, until_ms=period.end_ms), impressions)
    counted = [] if answered is None else [count_answers(answered, until_ms=period.end_ms)]
    return ItemPrior(ItemCounts.joined([impressions, *counted]))


def _answers(
    dataset: RequestDataset | None, schema: FeatureSchema, *, until_ms: int
) -> tuple[Rows, Rows, Rows, Floats]:
    """(user, item, author, value) of all answers that arrived before a time."""
    found = None if dataset is None else dataset.read_all()
    if found is None:
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, nothing, np.zeros(0)
    known_N, value_N = _values(found, schema, until_ms)
    item_N, author_N = ids_of(schema, found)
    user_N = np.repeat(found.scalars["user_id"], found.candidates.lengths)
    return user_N[known_N], item_N[known_N], author_N[known_N], value_N


def _values(requests: RequestColumns, schema: FeatureSchema, until_ms: int) -> tuple[Bools, Floats]:
    """(whether a candidate has an answer that arrived before a time, values of these answers).

    The worst answer of the scale counts as 0, the best as 1, and those between in equal steps.
    """
    scale, answer_N = schema.answers, requests.candidates.column("answer")
    known_N = (answer_N != NO_ANSWER) & (requests.candidates.column("answered_at_ms") < until_ms)
    return known_N, (answer_N[known_N] - scale.first) / (scale.last - scale.first)


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
    """Answers of requests that were opened with `answer_layout`, as observations and no impressions.

    Args:
        until_ms: answers that arrive at this time or later do not count.
    """
    schema = dataset.layout.schema

    def counted(requests: RequestColumns) -> ItemCounts:
        known_N, value_N = _values(requests, schema, until_ms)
        item_N, author_N = (ids_N[known_N] for ids_N in ids_of(schema, requests))
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


def prior_of(prior: CandidatePrior, dataset: RequestDataset, request_ids: Sequence[int] | Rows) -> Floats:
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
