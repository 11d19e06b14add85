"""A first feature schema out of what a scan has found: guesses, each with its reason beside it.

What is known only after an impression must not become a feature, or the model learns to read the outcome. So a column
that may be of that sort is left out, and the file says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from easq_rec.config.schema import Feature, FeatureSchema, Outcome, Table
from easq_rec.config.schema_file import schema_to_toml
from easq_rec.tools.inspect.column import ColumnStats
from easq_rec.tools.inspect.scan import Scan
from easq_rec.tools.inspect.sketch import STANDARD_ERROR, Distinct

HEADROOM = 1.25
"""Rows of a hashed table over the ids seen, before rounding up to a power of two: ids to come."""
FEWEST_ROWS = 16
DIM = 32
"""Of every table: that of the recipe `easq`."""
DENSE_BELOW = 1_024
"""Ids from 0 to below this, most of which occur, are categories rather than an id space that grows."""
LARGE = 100.0
"""Values beyond this are too large to enter a linear layer as they are."""
FEW_NEGATIVE = 0.2
"""Share of negative values up to which a column is taken for one without, but for marks of the unknown such as -1."""
CLOSE = 0.5
"""Correlation with an outcome beyond which a number is taken for a consequence of it."""
MANY = 64
"""A count or duration of fewer values than this is taken for a category, such as a bucket."""

LIKED = {
    **dict.fromkeys(("long_view", "click", "effective_view"), 1.0),
    **dict.fromkeys(("like", "follow", "comment", "forward", "share", "valid_play", "favorite", "collect"), 0.5),
    **dict.fromkeys(("profile_enter", "complete_play"), 0.5),
    **dict.fromkeys(("hate", "dislike", "report", "skip", "not_interested", "block"), -1.0),
}
"""Weights of outcomes by name; `is_` in front of it does not matter."""
VIEW = "long_view"
"""The outcome without which the questionnaire asks nothing."""
QUESTIONNAIRE = ("answer", "answered_at_ms", "shown")
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
"""Columns that the reader asks for whatever the schema, and their kinds."""


@dataclass(kw_only=True)
class Draft:
    """Features, tables and outcomes, as they are found."""

    tables: dict[str, Table] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)
    """Distinct ids of each table's columns."""
    table_of: dict[str, str] = field(default_factory=dict)
    """Table by the path of an id column."""
    features: dict[str, list[Feature]] = field(default_factory=lambda: {"user": [], "history": [], "candidate": []})
    outcomes: list[Outcome] = field(default_factory=list)
    item: str = ""
    notes: dict[tuple[str, str], str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """By path: why, and what would help."""
    problems: list[str] = field(default_factory=list)
    """Why there is no schema, or no training with it."""

    @property
    def schema(self) -> FeatureSchema | None:
        """None where features or outcomes are missing."""
        if not self.item or not self.outcomes or not all(self.features.values()):
            return None
        groups: dict[str, Any] = {name: tuple(features) for name, features in self.features.items()}
        # What people do after a view tells of satisfaction only where there was one.
        trigger = next((outcome.name for outcome in self.outcomes if outcome.name.removeprefix("is_") == VIEW), None)
        return FeatureSchema(
            tables=tuple(self.tables.values()),
            outcomes=tuple(self.outcomes),
            item=self.item,
            trigger=trigger,
            **groups,
        )

    def toml(self) -> str:
        """The schema file, with a comment beside each guess."""
        assert self.schema is not None
        header = [
            "A first feature schema, inferred from the data: read it, correct it, keep it with your code.",
            "Weights of outcomes and dims are guesses; one dim for all tables of user, and one for those of history.",
        ]
        if self.left_out:
            header += ["", "Left out:", *(f"  {path}: {why}" for path, why in self.left_out.items())]
        return schema_to_toml(self.schema, header="\n".join(header) + "\n ", notes=self.notes)


def draft(requests: Scan, answers: Scan | None) -> Draft:
    """Infers a schema. Ids that only answers/ holds count for the tables as well."""
    made = Draft()
    columns = requests.columns
    for path, kinds in REQUIRED.items():
        column = columns.get(path)
        if column is None or column.kind not in kinds:
            found = "missing" if column is None else f"of type {', '.join(sorted(column.types))}"
            made.problems.append(f"{path} is {found}: the reader needs it as {' or '.join(kinds)}")
        elif column.nulls or column.nan or column.infinite:
            made.problems.append(f"{path}: {_broken(column)}: the reader refuses those rows")
    used: dict[str, list[ColumnStats]] = {}
    _request_features(made, columns, used)
    _candidate_features(made, requests, used)
    for name, stats in used.items():
        stats += [answers.columns[s.path] for s in stats if answers is not None and s.path in answers.columns]
        # A space of ids that grows is hashed however small it is now: an id to come must not end a run.
        grows = any(s.group == "history" or s.path in ("user_id", f"candidates.{made.item}") for s in stats)
        distinct = Distinct()
        for column in stats:
            distinct.merge(column.distinct)
        made.ids[name] = distinct.count()
        made.tables[name], made.notes["tables", name] = _table(name, stats, distinct, grows=grows)
    for group, missing in (("user", "user_id or an integer in user"), ("history", "an integer in history")):
        if not made.features[group]:
            made.problems.append(f"no {group} feature: there must be {missing} without nulls")
    if not made.item:
        made.problems.append("no candidate id: there must be candidates.video_id, or another integer, without nulls")
    if not made.outcomes:
        made.problems.append("no outcome: candidates must hold a column of 0 and 1, such as long_view, without nulls")
    return made


def _request_features(made: Draft, columns: dict[str, ColumnStats], used: dict[str, list[ColumnStats]]) -> None:
    for column in columns.values():
        group = "user" if column.path == "user_id" else column.group
        if "." in group:
            made.left_out[column.path] = f"lies in a struct of its own: write it directly into {group.split('.')[0]}"
        elif not group and column.path not in REQUIRED:
            made.left_out[column.path] = "lies beside the user: write it into the struct user to make it a feature"
        elif column.path == "user.user_id":
            made.left_out[column.path] = "the request's own user_id is read instead"
        if (
            column.path in made.left_out
            or group not in ("user", "history")
            or (column.path in REQUIRED and column.path != "user_id")
        ):
            continue
        why = None
        if column.kind == "other":
            why = _unusable(column)
        elif _broken(column):
            why = f"{_broken(column)}: fill them, and run this again"
        elif column.kind in ("float", "boolean") or _is_quantity(column):
            why = f"is {_types(column)}: {group} features are ids; write it as one (0, 1, ... of buckets)"
        elif column.kind == "list" and group == "history":
            why = "is a list: a history entry has one id per feature"
        if why is not None:
            made.left_out[column.path] = why
            continue
        _use(made, used, group, column)


def _candidate_features(made: Draft, requests: Scan, used: dict[str, list[ColumnStats]]) -> None:
    columns = requests.columns
    shared = {feature.name: feature.table for feature in made.features["history"]}
    undecided: list[ColumnStats] = []
    for column in (c for c in columns.values() if c.group == "candidates"):
        path, plain = column.path, column.name.removeprefix("is_")
        if column.name in QUESTIONNAIRE or column.name.startswith("true_"):
            made.left_out[path] = "belongs to the questionnaire or the evaluation, and is never a feature"
        elif column.kind == "other":
            made.left_out[path] = _unusable(column)
        elif _broken(column):
            made.left_out[path] = f"{_broken(column)}: fill them, and run this again"
        elif plain in LIKED and column.kind != "list":
            made.outcomes.append(Outcome(name=column.name, weight=LIKED[plain]))
            rate = f"{column.mean or 0:.3%} of the impressions" if column.binary else f"mean {column.mean or 0:,.3g}"
            made.notes["outcomes", column.name] = f"{rate}; the weight goes by the name."
        elif column.binary:
            undecided.append(column)
        elif AFTERWARDS.search(column.name) and column.kind != "list":
            why = (
                "tells of the impression: an outcome, no feature (unless it was known before, as a count of others is)"
            )
            made.left_out[path] = why
        elif (link := requests.links.strongest(path)) is not None and abs(link[1]) > CLOSE:
            why = f"correlates by {link[1]:.2f} with {link[0]}: a consequence of it? Add it if it was known before"
            made.left_out[path] = why
        elif column.kind == "float" or _is_quantity(column):
            _use_float(made, column)
        else:
            _use(made, used, "candidate", column, shared.get(column.name) if column.kind == "integer" else None)
    for column in undecided:
        if made.outcomes:
            why = f"is 0 or 1 (rate {column.mean or 0:.3%}): an outcome or a feature? Declare it as what it is"
            made.left_out[column.path] = why
        else:
            made.outcomes.append(Outcome(name=column.name, weight=1.0))
            made.notes["outcomes", column.name] = (
                f"{column.mean or 0:.3%}; is it an outcome? No name here is a known one."
            )
    ids = [feature.column for feature in made.features["candidate"] if feature.kind == "id"]
    if ids:
        largest = max(ids, key=lambda name: columns[f"candidates.{name}"].distinct.count())
        made.item = "video_id" if "video_id" in ids else largest


def _use(
    made: Draft, used: dict[str, list[ColumnStats]], group: str, column: ColumnStats, table: str | None = None
) -> None:
    """Makes an id feature of a column; `table` is that of another feature, None: it gets one of its own."""
    if table is None:
        # Users, history and candidates may not share a table by accident of a name.
        names = (column.name.removesuffix("_id"), f"{group}_{column.name}", f"{group}_{column.name}_ids")
        table = next(name for name in names if name not in used)
    kind = "id_list" if column.kind == "list" else "id"
    pooling = "mean" if column.kind == "list" else "sum"
    made.features[group].append(Feature(name=column.name, kind=kind, table=table, pooling=pooling))  # type: ignore[arg-type]
    made.table_of[column.path] = table
    used.setdefault(table, []).append(column)


def _use_float(made: Draft, column: ColumnStats) -> None:
    assert column.minimum is not None and column.maximum is not None and column.mean is not None
    note = f"{column.minimum:,.6g} to {column.maximum:,.6g}, mean {column.mean:,.6g}"
    spread = column.maximum > LARGE or (column.minimum >= 0 and column.maximum > 10 * column.mean)
    tailed = spread and column.negative <= FEW_NEGATIVE * column.values
    if tailed:
        note += ": log1p, since they spread widely"
        note += f"; {column.negative:,} negative ones count as 0." if column.negative else "."
    elif max(-column.minimum, column.maximum) > LARGE:
        note += ": too large for the model as they are, scale the column in the data."
    feature = Feature(name=column.name, kind="float", transform="log1p" if tailed else "identity")
    made.features["candidate"].append(feature)
    made.notes["candidate", column.name] = note


def _table(name: str, stats: list[ColumnStats], distinct: Distinct, *, grows: bool) -> tuple[Table, str]:
    """Rows and id space of a table, and why."""
    count, exact = distinct.count(), distinct.exact
    smallest = min((int(s.minimum) for s in stats if s.minimum is not None), default=0)
    largest = max((int(s.maximum) for s in stats if s.maximum is not None), default=0)
    paths = " and ".join(sorted({column.path for column in stats}))
    about = f"{count:,} ids{'' if exact else f' (estimated, standard error {STANDARD_ERROR:.1%})'} in {paths}"
    about += f", {smallest} to {largest}"
    if not grows and smallest >= 0 and largest < DENSE_BELOW and largest < 4 * max(count, 1):
        note = f"{about}. dense: an id beyond the table will be an error; hashed takes any."
        return Table(name=name, rows=largest + 1, dim=DIM, id_space="dense"), note
    rows = table_rows(count)
    return Table(
        name=name, rows=rows, dim=DIM
    ), f"{about}. hashed: ids modulo the rows, {HEADROOM - 1:.0%} more at least."


def table_rows(ids: int) -> int:
    """Rows of a hashed table: the next power of two above so many ids with headroom."""
    return max(FEWEST_ROWS, 1 << (int(ids * HEADROOM)).bit_length())


def _is_quantity(column: ColumnStats) -> bool:
    """Whether an integer says how much rather than which."""
    several = not column.counted or column.distinct.count() > MANY
    return column.quantity and several


def _broken(column: ColumnStats) -> str:
    """Values that no feature may have, in words; empty: there are none."""
    found = {"null": column.nulls, "NaN": column.nan, "infinite": column.infinite}
    words = [f"{count:,} {name}" for name, count in found.items() if count]
    return ", ".join(words) if words or column.values else "holds no values"


def _unusable(column: ColumnStats) -> str:
    return f"is {_types(column)}: features are integers, lists of integers or numbers (data build hashes text to ids)"


def _types(column: ColumnStats) -> str:
    return ", ".join(sorted(column.types))
