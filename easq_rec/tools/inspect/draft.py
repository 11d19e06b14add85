"""A first feature schema, drafted from the statistics of a dataset. Every guess has a comment with its reason.

A value that is known only after the impression must not become a feature, or the model learns to read the outcome. So a
column that may hold such values is left out, and the file says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from easq_rec.config.recipes import EXPECTED_EVIDENCE
from easq_rec.config.schema import Feature, FeatureSchema, Outcome, Table
from easq_rec.config.schema_file import schema_to_toml
from easq_rec.config.variants import ACTIONS
from easq_rec.data.count_files import CountTable
from easq_rec.data.kinds import COUNT_FIELDS
from easq_rec.tools.inspect.column import LISTS, ColumnStats
from easq_rec.tools.inspect.scan import DatasetStats

HEADROOM = 1.25
"""Rows of a hashed table per id in the data, before rounding up to a power of two: room for new ids."""
FEWEST_ROWS = 16
DIM = 32
"""Of every table, as in the recipe `easq`."""
DENSE_BELOW = 1_024
"""Ids from 0 to below this, a quarter of which occur, are categories rather than a growing id space."""
LARGE = 100.0
"""Larger values are too large for a linear layer without scaling."""
FEW_NEGATIVE = 0.2
"""Up to this share, negative values are taken for marks of the unknown, such as -1."""
CLOSE = 0.5
"""A number whose correlation with an outcome is larger may be a consequence of it."""
MANY = 64
"""A quantity with at most this many distinct values is taken for a category, such as a bucket."""

LIKED = {
    **dict.fromkeys(("long_view", "click", "effective_view"), 1.0),
    **dict.fromkeys(("like", "follow", "comment", "forward", "share", "valid_play", "favorite", "collect"), 0.5),
    **dict.fromkeys(("profile_enter", "complete_play"), 0.5),
    **dict.fromkeys(("hate", "dislike", "report", "skip", "not_interested", "block"), -1.0),
}
"""Weights of outcomes by name, with or without the prefix `is_`."""
VIEW = "long_view"
"""The outcome that triggers the questionnaire."""
QUESTIONNAIRE = ("answer", "answered_at_ms", "shown")
KNOWN = "known_ms"
"""When the outcome of a candidate was known. `easq-rec data counts` reads it."""
AFTERWARDS = re.compile(
    r"(?i)(^|_)(watch|watched|play|played|playing|view|viewed|dwell|stay|finish|progress|complet\w*)(_|$)"
)
REQUIRED = {
    "request_id": ("integer",),
    "user_id": ("integer",),
    "timestamp_ms": ("integer",),
    "history.timestamp_ms": ("integer",),
    "history.watch_ratio": ("float", "integer", "boolean"),
}
"""Columns that the reader needs with any schema, and their kinds."""


@dataclass(kw_only=True)
class Draft:
    """Features, tables and outcomes, filled step by step."""

    tables: dict[str, Table] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)
    """Distinct ids of each table's columns, in requests and answers."""
    table_of: dict[str, str] = field(default_factory=dict)
    """Table by the path of an id column."""
    features: dict[str, list[Feature]] = field(default_factory=lambda: {"user": [], "history": [], "candidate": []})
    satisfaction: list[Feature] = field(default_factory=list)
    """Counts of answers, which only the satisfaction tower may read."""
    outcomes: list[Outcome] = field(default_factory=list)
    declared: CountTable | None = None
    """The declarations of the counts beside the data."""
    item: str = ""
    notes: dict[tuple[str, str], str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """By path: why, and what would help."""
    problems: list[str] = field(default_factory=list)
    """Why there is no schema, or no training with it."""

    @property
    def schema(self) -> FeatureSchema | None:
        """None where features or outcomes are missing."""
        if not self.item or not self.outcomes or not all(self._has_ids(group) for group in self.features):
            return None
        groups: dict[str, Any] = {name: tuple(features) for name, features in self.features.items()}
        # Behaviour after a view is evidence of satisfaction only for impressions that were viewed.
        trigger = next((outcome.name for outcome in self.outcomes if outcome.name.removeprefix("is_") == VIEW), None)
        groups["satisfaction"] = tuple(self.satisfaction)
        used = {f.column for f in (*self.features["candidate"], *self.satisfaction) if f.kind == "count"}
        if self.declared is not None and used:
            groups["counts"] = tuple(count for count in self.declared.counts if count.name in used)
            groups["count_bucket_minutes"] = self.declared.bucket_minutes
            keys = {key for count in groups["counts"] for key in count.keys}
            groups["count_ranges"] = tuple(one for one in self.declared.ranges if one.name in keys)
        return FeatureSchema(
            tables=tuple(self.tables.values()),
            outcomes=tuple(self.outcomes),
            item=self.item,
            trigger=trigger,
            **groups,
        )

    def _has_ids(self, group: str) -> bool:
        return any(feature.table is not None for feature in self.features[group])

    def toml(self) -> str:
        """The schema file, with a comment on each guess."""
        assert self.schema is not None
        header = [
            "A first feature schema, inferred from the data: read it, correct it, keep it with your code.",
            "Weights of outcomes and dims are guesses; one dim for all tables of user, and one for those of history.",
        ]
        if self.left_out:
            header += ["", "Left out:", *(f"  {path}: {why}" for path, why in self.left_out.items())]
        return schema_to_toml(self.schema, header="\n".join(header) + "\n ", notes=self.notes)


def draft(
    requests: DatasetStats,
    answers: DatasetStats | None,
    count_ids: Callable[[Collection[str]], int],
    declared: CountTable | None = None,
) -> Draft:
    """Drafts a schema.

    Args:
        count_ids: counts the distinct ids of some columns together, in requests and answers.
        declared: the declarations of the counts beside the data.
    """
    made = Draft(declared=declared)
    columns = requests.columns
    for path, kinds in REQUIRED.items():
        column = columns.get(path)
        if column is None or column.kind not in kinds:
            found = "missing" if column is None else f"of type {_types(column)}"
            made.problems.append(f"{path} is {found}: the reader needs it as {' or '.join(kinds)}")
        elif column.nulls or column.nan or column.infinite:
            made.problems.append(f"{path}: {_broken(column)}: the reader refuses those rows")
    weighted, counts = _weighted_lists(requests), _counts(columns)
    _request_features(made, columns, weighted, counts)
    _candidate_features(made, requests, weighted)
    _use_counts(made, requests, counts)
    for name in dict.fromkeys(made.table_of.values()):
        paths = [path for path, table in made.table_of.items() if table == name]
        stats = [columns[path] for path in paths]
        stats += [answers.columns[path] for path in paths if answers is not None and path in answers.columns]
        # A growing id space is hashed even if it is small now: a new id must not end a run.
        grows = any(s.group == "history" or s.path in ("user_id", f"candidates.{made.item}") for s in stats)
        made.ids[name] = count_ids(paths)
        made.tables[name], made.notes["tables", name] = _table(name, stats, made.ids[name], grows=grows)
    for group, missing in (("user", "user_id or an integer in user"), ("history", "an integer in history")):
        if not any(feature.table is not None for feature in made.features[group]):
            made.problems.append(f"no {group} feature: there must be {missing} without nulls")
    if not made.item:
        made.problems.append("no candidate id: there must be candidates.video_id, or another integer, without nulls")
    if not made.outcomes:
        made.problems.append("no outcome: candidates must hold a column of 0 and 1, such as long_view, without nulls")
    return made


def _weighted_lists(requests: DatasetStats) -> dict[str, tuple[ColumnStats, ColumnStats]]:
    """Columns of ids and of weights, by the path of their list of structs."""
    found = {}
    for path in requests.lengths:
        parts = requests.columns.get(f"{path}.id"), requests.columns.get(f"{path}.weight")
        if path.count(".") == 1 and parts[0] is not None and parts[1] is not None:
            kinds = parts[0].kind, parts[1].kind
            if path not in requests.null_structs and kinds in (("integer", "float"), ("integer", "integer")):
                found[path] = parts[0], parts[1]
    return found


def _counts(columns: Mapping[str, ColumnStats]) -> dict[str, list[ColumnStats]]:
    """The columns of each candidate struct that is a count, by its path."""
    groups: dict[str, dict[str, ColumnStats]] = {}
    for column in columns.values():
        groups.setdefault(column.group, {})[column.name] = column
    return {
        path: [fields[name] for name in COUNT_FIELDS]
        for path, fields in groups.items()
        if path.startswith("candidates.")
        and all(name in fields and fields[name].kind in ("float", "integer") for name in COUNT_FIELDS)
    }


def _use_counts(made: Draft, requests: DatasetStats, counts: Mapping[str, list[ColumnStats]]) -> None:
    """Makes a feature of each count, if the reader accepts all of its numbers."""
    declared = {count.name: count for count in made.declared.counts} if made.declared is not None else {}
    for path, fields in counts.items():
        nulls = requests.null_structs.get(path, 0)
        broken = f"{nulls:,} null" if nulls else next(filter(None, map(_broken, fields)), "")
        name = path.removeprefix("candidates.")
        if broken:
            made.left_out[path] = f"{broken}: fill them, and run this again"
        else:
            of_answers = name in declared and declared[name].of == "answer"
            group = "satisfaction" if of_answers else "candidate"
            (made.satisfaction if of_answers else made.features["candidate"]).append(Feature(name=name, kind="count"))
            shown, _, prior = (field.mean or 0 for field in fields)
            what = "answers" if of_answers else "impressions"
            about = f"mean of {shown:,.6g} earlier {what}, overall rate {prior:.3%}."
            if name not in declared:
                about += " Declare it in [[counts]] for `easq-rec data counts`."
            made.notes[group, name] = about


def _use_weighted(made: Draft, group: str, path: str, ids: ColumnStats, weights: ColumnStats) -> None:
    """Makes a feature of a list of structs, if the reader accepts all ids and weights."""
    broken = _broken(ids) or _broken(weights)
    if broken:
        made.left_out[path] = f"{broken}: fill them, and run this again"
    elif weights.negative:
        made.left_out[path] = f"has {weights.negative:,} weights below 0: the reader refuses them"
    elif group == "history":
        made.left_out[path] = "is a list of ids: a feature of a history entry is one id, or numbers"
    else:
        _use(made, group, ids, name=path.rpartition(".")[2], kind="weighted_id_list")


def _request_features(
    made: Draft,
    columns: dict[str, ColumnStats],
    weighted: Mapping[str, tuple[ColumnStats, ColumnStats]],
    counts: Collection[str],
) -> None:
    """Features of user and history."""
    for path, column in columns.items():
        group = "user" if path == "user_id" else column.group
        if group in weighted or group in counts or group == "candidates" or (path in REQUIRED and path != "user_id"):
            continue
        reason = _no_request_feature(column, group)
        if reason is not None:
            made.left_out[path] = reason
        elif column.kind in ("float", "float_list", "boolean") or _is_quantity(column):
            _use_float(made, group, column)
        else:
            _use(made, group, column)
    for path, (ids, weights) in weighted.items():
        group = path.partition(".")[0]
        if group != "candidates":
            _use_weighted(made, group, path, ids, weights)


def _no_request_feature(column: ColumnStats, group: str) -> str | None:
    """Why a column outside the candidates is no feature; None: it is one."""
    if "." in group:
        return f"lies in a nested struct: write it directly into {group.split('.')[0]}"
    if group not in ("user", "history"):
        return "lies outside the struct user: write it into user to make it a feature"
    if column.path == "user.user_id":
        return "the column user_id of the request is read instead"
    if column.kind == "other":
        return _unusable(column)
    if _broken(column):
        return f"{_broken(column)}: fill them, and run this again"
    if column.kind == "float_list" and _length(column) is None:
        return _no_length(column)
    if column.kind == "list" and group == "history":
        return "is a list of ids: a feature of a history entry is one id, or numbers"
    return None


def _candidate_features(
    made: Draft, requests: DatasetStats, weighted: Mapping[str, tuple[ColumnStats, ColumnStats]]
) -> None:
    """Features and outcomes of candidates, and the item."""
    columns = [column for column in requests.columns.values() if column.group == "candidates"]
    shared = {feature.name: feature.table for feature in made.features["history"]}
    undecided: list[ColumnStats] = []
    for column in columns:
        name, rate = column.name, column.mean or 0
        weight = LIKED.get(name.removeprefix("is_"))
        reason = _no_candidate_value(column)
        if reason is not None:
            made.left_out[column.path] = reason
        elif weight is not None and column.kind != "list":
            expected = EXPECTED_EVIDENCE if name.removeprefix("is_") in ACTIONS else None
            made.outcomes.append(Outcome(name=name, weight=weight, expected_evidence=expected))
            about = f"{rate:.3%} of the impressions" if column.binary else f"mean {rate:,.3g}"
            guessed = "the weight is" if expected is None else "the weight and the expected evidence are"
            made.notes["outcomes", name] = f"{about}; {guessed} guessed from the name."
        elif column.binary:
            undecided.append(column)
        elif (reason := _known_afterwards(column, requests.links.get(column.path))) is not None:
            made.left_out[column.path] = reason
        elif column.kind in ("float", "float_list") or _is_quantity(column):
            _use_float(made, "candidate", column)
        else:
            _use(made, "candidate", column, shared.get(name) if column.kind == "integer" else None)
    for path, pair in weighted.items():
        if path.startswith("candidates."):
            _use_weighted(made, "candidate", path, *pair)
    have_outcomes = bool(made.outcomes)
    for column in undecided:
        rate = column.mean or 0
        if have_outcomes:
            made.left_out[column.path] = f"is 0 or 1 (rate {rate:.3%}): declare it as an outcome or as a feature"
        else:
            made.outcomes.append(Outcome(name=column.name, weight=1.0))
            made.notes["outcomes", column.name] = f"rate {rate:.3%}. Is it an outcome? Its name is not a known one."
    ids = {feature.column for feature in made.features["candidate"] if feature.kind == "id"}
    if ids:
        largest = max((column for column in columns if column.name in ids), key=lambda column: column.distinct or 0)
        made.item = "video_id" if "video_id" in ids else largest.name


def _no_candidate_value(column: ColumnStats) -> str | None:
    """Why a column of the candidates is neither a feature nor an outcome; None: it may be one."""
    if column.name in QUESTIONNAIRE or column.name.startswith("true_"):
        return "belongs to the questionnaire or the evaluation, and is never a feature"
    if column.name == KNOWN:
        return "is when the outcome was known, and never a feature"
    if column.kind == "other":
        return _unusable(column)
    if column.kind == "float_list" and _length(column) is None:
        return _no_length(column)
    return f"{_broken(column)}: fill them, and run this again" if _broken(column) else None


def _known_afterwards(column: ColumnStats, link: tuple[str, float] | None) -> str | None:
    """Why a column may hold what is known only after the impression; None: nothing suggests it."""
    if AFTERWARDS.search(column.name) and column.kind not in LISTS:
        return "describes the impression: an outcome, not a feature, unless it counts earlier impressions"
    if link is not None and abs(link[1]) > CLOSE:
        return f"correlates by {link[1]:.2f} with {link[0]}: a consequence of it? Add it if it was known before"
    return None


def _use(
    made: Draft,
    group: str,
    column: ColumnStats,
    table: str | None = None,
    *,
    name: str | None = None,
    kind: Literal["id", "id_list", "weighted_id_list"] | None = None,
) -> None:
    """Makes an id feature of a column of ids.

    Args:
        table: that of another feature; None: a new table.
        name: of the feature; None: that of the column.
        kind: None: that of the column.
    """
    name, kind = name or column.name, kind or ("id_list" if column.kind == "list" else "id")
    if table is None:
        # Users, history and candidates must not share a table only because two columns have the same name.
        names = (name.removesuffix("_id"), f"{group}_{name}", f"{group}_{name}_ids")
        table = next(name for name in names if name not in made.table_of.values())
    made.features[group].append(Feature(name=name, kind=kind, table=table, pooling="sum" if kind == "id" else "mean"))
    made.table_of[column.path] = table


def _use_float(made: Draft, group: str, column: ColumnStats) -> None:
    assert column.minimum is not None and column.maximum is not None and column.mean is not None
    note = f"{column.minimum:,.6g} to {column.maximum:,.6g}, mean {column.mean:,.6g}"
    spread = column.maximum > LARGE or (column.minimum >= 0 and column.maximum > 10 * column.mean)
    tailed = spread and column.negative <= FEW_NEGATIVE * column.values
    if tailed:
        note += ": log1p, since the spread is wide"
        note += f"; {column.negative:,} negative values count as 0." if column.negative else "."
    elif max(-column.minimum, column.maximum) > LARGE:
        note += ": too large for the model, scale the column in the data."
    transform: Literal["log1p", "identity"] = "log1p" if tailed else "identity"
    if column.kind == "float_list":
        feature = Feature(name=column.name, kind="float_list", length=_length(column), transform=transform)
    else:
        feature = Feature(name=column.name, kind="float", transform=transform)
    made.features[group].append(feature)
    made.notes[group, column.name] = note


def _table(name: str, stats: list[ColumnStats], ids: int, *, grows: bool) -> tuple[Table, str]:
    """A table with its rows and id space, and the reason."""
    smallest = min((int(s.minimum) for s in stats if s.minimum is not None), default=0)
    largest = max((int(s.maximum) for s in stats if s.maximum is not None), default=0)
    paths = " and ".join(sorted({column.path for column in stats}))
    about = f"{ids:,} ids in {paths}, {smallest} to {largest}"
    if not grows and smallest >= 0 and largest < DENSE_BELOW and largest < 4 * max(ids, 1):
        note = f"{about}. dense: an id beyond the table will be an error; hashed takes any."
        return Table(name=name, rows=largest + 1, dim=DIM, id_space="dense"), note
    note = f"{about}. hashed: ids modulo the rows, of which there are at least {HEADROOM - 1:.0%} more than ids."
    return Table(name=name, rows=table_rows(ids), dim=DIM), note


def table_rows(ids: int) -> int:
    """Rows of a hashed table: the next power of two above the number of ids with headroom."""
    return max(FEWEST_ROWS, 1 << (int(ids * HEADROOM)).bit_length())


def _is_quantity(column: ColumnStats) -> bool:
    """Whether an integer is a quantity rather than an id or a category."""
    return column.quantity and (column.distinct is None or column.distinct > MANY)


def _length(column: ColumnStats) -> int | None:
    """The length that all lists of a column have; None: they differ, or are empty."""
    assert column.lengths is not None
    lengths = list(column.lengths.counts)
    return lengths[0] if len(lengths) == 1 and lengths[0] else None


def _no_length(column: ColumnStats) -> str:
    assert column.lengths is not None
    shortest, longest = column.lengths.quantile(0), column.lengths.quantile(1)
    return f"has lists of {shortest} to {longest} numbers: lists of floats need one length, of at least 1"


def _broken(column: ColumnStats) -> str:
    """Values that no feature may have, in words; empty if there are none."""
    found = {"null": column.nulls, "NaN": column.nan, "infinite": column.infinite}
    words = [f"{count:,} {name}" for name, count in found.items() if count]
    return ", ".join(words) if words or column.values else "holds no values"


def _unusable(column: ColumnStats) -> str:
    return f"is {_types(column)}: features are numbers and lists of numbers (data build hashes text to ids)"


def _types(column: ColumnStats) -> str:
    return ", ".join(column.types)
