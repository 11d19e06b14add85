"""The feature schema: the inputs of the model, declared once by a recipe.

It defines the columns to read, the embedding tables and the inputs of serving. Like all configuration it is plain data,
without torch.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from easq_rec.config.answer_scale import THREE_ANSWERS, AnswerScale
from easq_rec.errors import UserError

SATISFACTION = "satisfaction_"
"""Name prefix of the tables that only the satisfaction tower reads."""


WAYS = 16
"""Rows of an admitted table of which an id may have one: a set. The hash of an id decides its set."""


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raises UserError that names the field, its value, and what is allowed."""
    if not condition:
        raise UserError(f"{name}={value!r} is not allowed: {allowed}")


@dataclass(frozen=True, kw_only=True)
class Table:
    """One embedding table; several features may share it."""

    name: str
    rows: int
    dim: int
    id_space: Literal["hashed", "dense", "admitted"] = "hashed"
    """hashed: any int64, taken modulo `rows`; dense: 0..rows-1, other ids are an error; admitted: any int64, and an id
    gets a row of its own once it has occurred `admit_after` times in training. When no row is free, a new id gets the
    row of the id that was used longest ago (`easq_rec.data.id_map`). Ids without a row share one."""
    admit_after: int = 1
    """Occurrences in training after which an id of an admitted table gets a row."""

    def __post_init__(self) -> None:
        require(self.rows >= 1, f"table {self.name}: rows", self.rows, "at least 1")
        if self.id_space == "admitted":
            allowed = f"at least {WAYS + 1} for an admitted table"
            require(self.rows > WAYS, f"table {self.name}: rows", self.rows, allowed)
            require(self.admit_after >= 1, f"table {self.name}: admit_after", self.admit_after, "at least 1")
        else:
            allowed = "1 for a table that is not admitted"
            require(self.admit_after == 1, f"table {self.name}: admit_after", self.admit_after, allowed)
        # FBGEMM's kernels need rows of whole 16-byte vectors.
        require(self.dim >= 4 and self.dim % 4 == 0, f"table {self.name}: dim", self.dim, "a positive multiple of 4")

    @property
    def sets(self) -> int:
        """Sets of `WAYS` rows of an admitted table. The row behind them is shared."""
        return (self.rows - 1) // WAYS


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One input column of the model."""

    name: str
    kind: Literal["id", "id_list", "weighted_id_list", "float", "float_list", "count"] = "id"
    """weighted_id_list: ids with weights of 0 or more; float_list: `length` numbers, such as a content embedding;
    count: how often an outcome happened before, of a candidate: a column that `easq-rec data counts` writes."""
    table: str | None = None
    """Embedding table that the ids index; None for floats and counts."""
    source: str | None = None
    """Column (struct field) to read; None: the feature's name."""
    pooling: Literal["sum", "mean"] = "sum"
    """How the rows of a list of ids become one vector. The mean of weighted ids divides by the sum of the weights."""
    transform: Literal["identity", "log1p"] = "identity"
    """Applied to each number of `float` and `float_list`."""
    length: int | None = None
    """Numbers in each `float_list`; None for other kinds."""
    encoding: Literal["standard", "quantiles", "raw"] = "standard"
    """How a number enters the network. standard: minus the mean, over the standard deviation, of the training data.
    quantiles: as `model.quantiles` numbers between quantiles of the training data. raw: as it is."""
    smoothing: float = 20.0
    """Impressions at the overall rate that are added to a `count` before its rate is taken."""
    dropout: float | None = None
    """Probability that training leaves an id feature of the user or of a candidate out of an example; None:
    `model.feature_dropout`."""

    @property
    def column(self) -> str:
        return self.source or self.name

    @property
    def numbers(self) -> int:
        """Numbers in the batch; ids are looked up and have none. A count has three: the logit of its smoothed rate, the
        logarithm of its impressions, and the logit of the overall rate, which only `Model.residual` reads."""
        match self.kind:
            case "float":
                return 1
            case "float_list":
                return self.length or 0
            case "count":
                return 3
        return 0

    def __post_init__(self) -> None:
        if self.kind in ("float", "float_list", "count"):
            require(self.table is None, f"feature {self.name}: table", self.table, f"None for kind {self.kind!r}")
        else:
            require(self.table is not None, f"feature {self.name}: table", self.table, "a table for an id feature")
        if self.kind == "float_list":
            given = self.length is not None and self.length >= 1
            require(given, f"feature {self.name}: length", self.length, "the numbers in each list, at least 1")
        else:
            require(self.length is None, f"feature {self.name}: length", self.length, f"None for kind {self.kind!r}")
        if self.kind == "count":
            scaled = self.transform != "identity"
            require(not scaled, f"feature {self.name}: transform", self.transform, "'identity' for kind 'count'")
        require(self.smoothing > 0, f"feature {self.name}: smoothing", self.smoothing, "more than 0")
        if self.dropout is not None:
            require(0 <= self.dropout < 1, f"feature {self.name}: dropout", self.dropout, "0 or more and below 1")
            allowed = "none for a feature without a table: only ids are left out"
            require(self.table is not None, f"feature {self.name}: dropout", self.dropout, allowed)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One engagement outcome of a candidate and its weight in the engagement utility."""

    name: str
    weight: float
    """Weight in the utility that evaluation measures; negative for an outcome such as a hate."""
    training_weight: float | None = None
    """Weight in the utility that L_main, L_list and the policy score use; None: `weight`."""
    kind: Literal["binary", "amount"] = "binary"
    """binary: 0 or 1, whose probability is predicted. amount: 0 or more, such as a watch time, whose expectation is
    predicted."""
    unit: float = 1.0
    """An amount is divided by this number when it is read, for example 10000 for a watch time in units of 10 s."""
    negatives_kept: float = 1.0
    """Share of the candidates without this binary outcome that the log kept, when it was thinned at random. Training
    fits the thinned log. Predicted probability and policy score are those of the whole log. They are exact where a
    candidate was dropped because this outcome did not happen; a log that drops candidates without any outcome makes
    them exact only for an outcome that every other outcome implies."""

    expected_evidence: float | None = None
    """Expected log odds ratio of the outcome between satisfied and dissatisfied candidates, with which L_evidence
    begins before there are answers; None: only answers tell."""

    def __post_init__(self) -> None:
        if self.expected_evidence is not None:
            finite = math.isfinite(self.expected_evidence)
            require(finite, f"outcome {self.name}: expected_evidence", self.expected_evidence, "a finite number")
        require(self.unit > 0, f"outcome {self.name}: unit", self.unit, "more than 0")
        kept, share = self.negatives_kept, "more than 0 and at most 1"
        require(0 < kept <= 1, f"outcome {self.name}: negatives_kept", kept, share)
        if self.kind == "binary":
            require(self.unit == 1.0, f"outcome {self.name}: unit", self.unit, "1 for a binary outcome")
        else:
            require(kept == 1.0, f"outcome {self.name}: negatives_kept", kept, "1 for an amount")
            require(self.weight >= 0, f"outcome {self.name}: weight", self.weight, "0 or more for an amount")
            trained = self.weight_in_training
            require(trained >= 0, f"outcome {self.name}: training_weight", trained, "0 or more for an amount")

    @property
    def weight_in_training(self) -> float:
        """Weight in the utility that L_main, L_list and the policy score use."""
        return self.weight if self.training_weight is None else self.training_weight


@dataclass(frozen=True, kw_only=True)
class Count:
    """How often an outcome happened in earlier impressions with the same ids, or how satisfied earlier answers about
    them were. `easq-rec data counts` computes it."""

    name: str
    """Candidate column that is written."""
    of: Literal["outcome", "answer"] = "outcome"
    """outcome: all impressions are counted. answer: those that were answered, each by how satisfied the answer is
    (`AnswerScale.satisfaction`), once it was given. Only the satisfaction tower may read such a count."""
    outcome: str | None = None
    """Candidate column with the outcome, 0 or 1; None for a count of answers."""
    keys: tuple[str, ...] = ()
    """Id columns of the candidates (`video_id`, `tags`), of the request (`user_id`) and of its user (`user.region`),
    and names of `NumberRange`. Impressions are counted for each combination of their ids; none: all impressions
    together."""
    half_life_h: float | None = None
    """Hours until an impression counts half; None: it always counts as one."""
    bucket_minutes: int | None = None
    """Minutes between two publications of this count, a multiple of `FeatureSchema.count_bucket_minutes`; None: that
    number."""
    frozen: bool = False
    """True: requests of the held-out period see this count as it was published when the period began."""

    def __post_init__(self) -> None:
        # The name is also that of a file.
        named = re.fullmatch(r"[A-Za-z0-9_-]+", self.name) is not None
        require(named, "count: name", self.name, "letters, digits, _ and -")
        fits = (self.outcome is None) == (self.of == "answer")
        allowed = 'none with of = "answer"' if self.of == "answer" else 'the column of an outcome, or of = "answer"'
        require(fits, f"count {self.name}: outcome", self.outcome, allowed)
        different = len(set(self.keys)) == len(self.keys) and not {"shown", "happened"}.intersection(self.keys)
        require(different, f"count {self.name}: keys", self.keys, "different columns, other than shown and happened")
        positive = self.half_life_h is None or self.half_life_h > 0
        require(positive, f"count {self.name}: half_life_h", self.half_life_h, "more than 0, or none")
        given = self.bucket_minutes is None or self.bucket_minutes >= 1
        require(given, f"count {self.name}: bucket_minutes", self.bucket_minutes, "at least 1, or none")

    @property
    def counted(self) -> str:
        """Name of what is counted, among the counts with the same `of`."""
        return self.of if self.outcome is None else self.outcome


@dataclass(frozen=True, kw_only=True)
class NumberRange:
    """A number in ranges, as a key of counts: a rate by length of the video, for example."""

    name: str
    """By which `Count.keys` name it."""
    column: str
    """Column with the number: of the candidates (`duration_ms`), or of the user (`user.fans`)."""
    edges: tuple[float, ...]
    """Ascending numbers that divide the ranges. A number that equals an edge is in the range above it."""

    def __post_init__(self) -> None:
        ascending = bool(self.edges) and all(math.isfinite(edge) for edge in self.edges)
        ascending = ascending and all(low < high for low, high in itertools.pairwise(self.edges))
        require(ascending, f"count_ranges {self.name}: edges", self.edges, "finite numbers in ascending order")
        plain = self.name != "user_id" and not self.name.startswith("user.") and self.name not in ("shown", "happened")
        require(plain, f"count_ranges {self.name}: name", self.name, "not that of a column")


@dataclass(frozen=True, kw_only=True)
class FeatureSchema:
    """The features of users, history entries and candidates, and the outcomes of candidates.

    A candidate id feature whose table also serves the history is looked up in the same EmbeddingCollection, so that one
    table holds a video wherever it appears; the other candidate features are pooled by an EmbeddingBagCollection.
    """

    tables: tuple[Table, ...]
    user: tuple[Feature, ...]
    history: tuple[Feature, ...]
    candidate: tuple[Feature, ...]
    outcomes: tuple[Outcome, ...]
    item: str = "video_id"
    """Name of the candidate column that identifies the item in a score file."""
    trigger: str | None = None
    """Outcome that a candidate must have to be asked about, such as a long view. Later actions are evidence of
    satisfaction only if it happened, so L_evidence compares only these candidates; None: it compares all."""
    answers: AnswerScale = THREE_ANSWERS
    """Meaning of the questionnaire's answers."""
    satisfaction_dim: int = 0
    """Width of the separate embeddings of each candidate id feature that only the satisfaction tower reads; 0: none."""
    satisfaction: tuple[Feature, ...] = ()
    """Features of candidates of kind `count` that only the satisfaction score reads: counts of answers, which must not
    reach the main tower."""
    counts: tuple[Count, ...] = ()
    """Columns that `easq-rec data counts` adds to the candidates. A feature of kind `count` reads one of them: of
    `candidate`, or of `satisfaction` if it counts answers."""
    count_bucket_minutes: int = 60
    """Counts of a request hold what was known when the bucket of time with the request began: the length of these
    buckets, in minutes."""
    count_ranges: tuple[NumberRange, ...] = ()
    """Numbers in ranges that counts may have as keys."""

    def __post_init__(self) -> None:
        problems = [f"{name}={value!r} is not allowed: {allowed}" for name, value, allowed in self._violations()]
        if problems:
            raise UserError("\n".join(problems))

    def _violations(self) -> Iterator[tuple[str, object, str]]:
        """(field, value, what is allowed) of every inconsistency between the parts."""
        dims = {table.name: table.dim for table in self.tables}
        if len(dims) != len(self.tables):
            yield "schema.tables", [t.name for t in self.tables], "unique names"
        for group in ("user", "history", "candidate"):
            features: tuple[Feature, ...] = getattr(self, group)
            names = [feature.name for feature in features]
            if len(set(names)) != len(names):
                yield f"schema.{group}", names, "unique names"
            if all(f.table is None for f in features):
                yield f"schema.{group}", names, "at least one id feature"
            yield from _unreadable(group, features)
            for feature in features:
                if feature.table is not None and feature.table not in dims:
                    known = f"one of the schema's tables {sorted(dims)}"
                    yield f"schema.{group}.{feature.name}: table", feature.table, known
        for group in ("user", "history"):
            features = getattr(self, group)
            widths = {f.name: dims[f.table] for f in features if f.table is not None and f.table in dims}
            if len(set(widths.values())) > 1:
                allowed = "one dim, since these embeddings pass through one projection"
                yield f"schema.{group}: embedding dims", widths, allowed
        names = [feature.name for feature in self.satisfaction]
        if len(set(names)) != len(names) or {feature.name for feature in self.candidate}.intersection(names):
            yield "schema.satisfaction", names, "unique names, other than those of the candidate features"
        others = [feature.name for feature in self.satisfaction if feature.kind != "count"]
        if others:
            yield "schema.satisfaction", others, "features of kind count"
        if self.satisfaction_dim < 0 or self.satisfaction_dim % 4:
            yield "schema.satisfaction_dim", self.satisfaction_dim, "a multiple of 4, or 0 for none"
        taken = sorted(name for name in dims if f"{SATISFACTION}{name}" in dims)
        if taken:
            allowed = f"no name that is {SATISFACTION!r} + another name: those are tables of the satisfaction tower"
            yield "schema.tables", taken, allowed
        dropped = [f.name for f in self.history if f.dropout is not None]
        if dropped:
            yield "schema.history: dropout", dropped, "none: training leaves out features of users and candidates"
        lists = [f.name for f in self.history if f.kind in ("id_list", "weighted_id_list")]
        if lists:
            yield "schema.history: id lists", lists, "none: one id per history entry"
        if not self.outcomes:
            yield "schema.outcomes", self.outcomes, "at least one outcome"
        yield from self._miscounted()
        outcomes = [outcome.name for outcome in self.outcomes]
        if self.trigger is not None and self.trigger not in outcomes:
            yield "schema.trigger", self.trigger, f"an outcome of the schema, {outcomes}, or None"
        owners: dict[str, str] = {}
        for owner, features in (("user", self.user), ("sequence", self.sequence), ("candidate", self.pooled)):
            for feature in features:
                if feature.table is not None:
                    first = owners.setdefault(feature.table, owner)
                    if first != owner:
                        allowed = f"a separate table: {feature.table} already serves the {first} features"
                        yield f"schema: table of {owner} feature {feature.name}", feature.table, allowed

    def _miscounted(self) -> Iterator[tuple[str, object, str]]:
        """Faults of the counts and of the features that read them."""
        if self.count_bucket_minutes < 1:
            yield "schema.count_bucket_minutes", self.count_bucket_minutes, "at least 1"
            return
        for count in self.counts:
            if count.bucket_minutes is not None and count.bucket_minutes % self.count_bucket_minutes:
                allowed = f"a multiple of count_bucket_minutes={self.count_bucket_minutes}"
                yield f"schema.counts.{count.name}: bucket_minutes", count.bucket_minutes, allowed
        ranges = [one.name for one in self.count_ranges]
        if len(set(ranges)) != len(ranges):
            yield "schema.count_ranges", ranges, "unique names"
        columns = {self.item, *(outcome.name for outcome in self.outcomes)}
        columns |= {feature.column for feature in (*self.candidate, *self.satisfaction)}
        if hidden := sorted(columns.intersection(ranges)):
            yield "schema.count_ranges", hidden, "names that no column of the candidates has"
        for group in ("user", "history"):
            misplaced = [feature.name for feature in getattr(self, group) if feature.kind == "count"]
            if misplaced:
                yield f"schema.{group}: counts", misplaced, "none: counts are features of candidates"
        names = [count.name for count in self.counts]
        if len(set(names)) != len(names):
            yield "schema.counts", names, "unique names"
        of_answers = {count.name for count in self.counts if count.of == "answer"}
        misplaced = [f.name for f in self.candidate if f.kind == "count" and f.column in of_answers]
        if misplaced:
            allowed = "no counts of answers, which would reach the main tower: move them to [[satisfaction]]"
            yield "schema.candidate: counts", misplaced, allowed
        of_outcomes = {count.name for count in self.counts if count.of == "outcome"}
        misplaced = [f.name for f in self.satisfaction if f.column in of_outcomes]
        if misplaced:
            allowed = "counts of answers: those of outcomes are features of [[candidate]], which both towers read"
            yield "schema.satisfaction: counts", misplaced, allowed
        used = {self.item, *(outcome.name for outcome in self.outcomes)}
        used |= {feature.column for feature in self.candidate if feature.kind != "count"}
        used |= {name for count in self.counts for name in (count.outcome, *count.keys) if name is not None}
        used |= {one.column for one in self.count_ranges}
        taken = sorted(used.intersection(names))
        if taken:
            yield "schema.counts", taken, "names that no other column of the candidates has"

    @cached_property
    def user_ids(self) -> tuple[Feature, ...]:
        """User features that are looked up in tables."""
        return tuple(f for f in self.user if f.table is not None)

    @cached_property
    def candidate_ids(self) -> tuple[Feature, ...]:
        """Candidate features that are looked up in tables."""
        return tuple(f for f in self.candidate if f.table is not None)

    @cached_property
    def history_ids(self) -> tuple[Feature, ...]:
        """History features that are looked up in tables."""
        return tuple(f for f in self.history if f.table is not None)

    @cached_property
    def sequence(self) -> tuple[Feature, ...]:
        """Ids of the history, and candidate features that share a table with them (unpooled lookups)."""
        return self.history_ids + self.shared

    @cached_property
    def shared(self) -> tuple[Feature, ...]:
        """Candidate id features looked up in the history's tables."""
        tables = {feature.table for feature in self.history}
        return tuple(f for f in self.candidate if f.kind == "id" and f.table in tables)

    @cached_property
    def pooled(self) -> tuple[Feature, ...]:
        """Candidate id features that the candidate EmbeddingBagCollection pools."""
        shared = {feature.name for feature in self.shared}
        return tuple(f for f in self.candidate if f.table is not None and f.name not in shared)

    @cached_property
    def satisfaction_ids(self) -> tuple[Feature, ...]:
        """Candidate id features with separate embeddings for the satisfaction tower, with the tables of these
        embeddings."""
        if not self.satisfaction_dim:
            return ()
        return tuple(dataclasses.replace(f, table=f"{SATISFACTION}{f.table}") for f in self.candidate if f.table)

    @cached_property
    def satisfaction_tables(self) -> tuple[Table, ...]:
        """The tables of `satisfaction_ids`: the same rows as the main tower's tables, `satisfaction_dim` wide."""
        names = {feature.table for feature in self.satisfaction_ids}
        return tuple(
            dataclasses.replace(table, name=own, dim=self.satisfaction_dim)
            for table in self.tables
            if (own := f"{SATISFACTION}{table.name}") in names
        )

    @cached_property
    def floats(self) -> tuple[Feature, ...]:
        """Candidate features that are numbers or counts."""
        return tuple(f for f in self.candidate if f.table is None)

    @cached_property
    def count_features(self) -> tuple[Feature, ...]:
        """Features of candidates that are counts, with those that only the satisfaction tower reads."""
        return tuple(f for f in (*self.candidate, *self.satisfaction) if f.kind == "count")

    @cached_property
    def user_floats(self) -> tuple[Feature, ...]:
        """User features that are numbers."""
        return tuple(f for f in self.user if f.table is None)

    @cached_property
    def history_floats(self) -> tuple[Feature, ...]:
        """History features that are numbers."""
        return tuple(f for f in self.history if f.table is None)

    @property
    def trigger_index(self) -> int | None:
        """Position of `trigger` among the outcomes."""
        return next((index for index, outcome in enumerate(self.outcomes) if outcome.name == self.trigger), None)

    def table(self, name: str) -> Table:
        return next(table for table in self.tables if table.name == name)


def numbers(features: tuple[Feature, ...]) -> int:
    """Numbers that the features among some that are not ids have together."""
    return sum(feature.numbers for feature in features)


def weighted(features: tuple[Feature, ...]) -> bool:
    """Whether one of some features has weights: then a weighted EmbeddingBagCollection looks all of them up."""
    return any(feature.kind == "weighted_id_list" for feature in features)


def _unreadable(group: str, features: tuple[Feature, ...]) -> Iterator[tuple[str, object, str]]:
    """Columns that two features read in different ways. An id may be read as a number, too."""
    read: dict[str, Feature] = {}
    for feature in features:
        first = read.setdefault(feature.column, feature)
        ways = {(f.kind if f.kind != "float" else "id", f.length) for f in (first, feature)}
        if len(ways) > 1:
            allowed = f"the kind and the length of {first.name}, which reads the same column {feature.column}"
            yield f"schema.{group}.{feature.name}: kind", feature.kind, allowed
