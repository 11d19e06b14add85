"""The usual counts of a schema, and schemas with features that read them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from easq_rec.config.schema import Count, Feature, FeatureSchema, NumberRange

SMOOTHING = 10.0
"""Impressions at the overall rate that are added to a usual count."""
DURATION = NumberRange(
    name="duration",
    column="duration_ms",
    edges=tuple(1_000.0 * s for s in (7, 9, 11, 13, 15, 18, 22, 27, 33, 40, 50, 60, 75, 95, 120, 160, 220, 300, 450)),
)
"""The length of a video, on which many rates depend."""
DURATION_CLASS = NumberRange(
    name="duration_class", column="duration_ms", edges=(12_000.0, 20_000.0, 45_000.0, 100_000.0)
)
"""Few ranges, because a user has few impressions."""
USUAL_KEYS = (
    ("video_id",),
    ("author_id",),
    ("tags",),
    ("video_id", "user.tab"),
    ("author_id", "user.tab"),
    ("duration", "user.tab"),
    ("user_id",),
    ("user_id", "user.tab"),
    ("user_id", "duration_class"),
    ("user_id", "tags"),
)
"""The video, its author, its tags and its length, some of them by part of the app; and the user, alone, by part of the
app and by length of the video."""
USUAL_ANSWER_KEYS = (("video_id",), ("author_id",))
"""Those of answers, which are few: the video and its author."""
ANSWER_SMOOTHING = 10.0
"""Answers at the overall rate that are added to a usual count of answers. The rate of a count with
fewer answers is mostly the overall rate."""
OF_USERS = "user_id"
"""Key of the counts that are frozen in the held-out period."""


def with_counts(
    schema: FeatureSchema,
    counts: Sequence[Count],
    *,
    ranges: Sequence[NumberRange] | None = None,
    smoothing: float = Feature.smoothing,
) -> FeatureSchema:
    """The schema that also declares these counts, with a feature for each: of the satisfaction tower if it counts
    answers, else of the candidates.

    Args:
        ranges: ranges of numbers that are keys of the counts; None: those of the schema.
    """
    features = {count: Feature(name=count.name, kind="count", smoothing=smoothing) for count in counts}
    return dataclasses.replace(
        schema,
        counts=(*schema.counts, *counts),
        count_ranges=schema.count_ranges if ranges is None else tuple(ranges),
        candidate=(*schema.candidate, *(feature for count, feature in features.items() if count.of == "outcome")),
        satisfaction=(*schema.satisfaction, *(feature for count, feature in features.items() if count.of == "answer")),
    )


def counts_of(
    keys: Iterable[tuple[str, ...]], outcomes: Iterable[str], half_lives_h: Iterable[float | None] = (None,)
) -> tuple[Count, ...]:
    """A count of every combination, named like `user_tab_long_view_24h`. Those of users are frozen."""
    outcomes, half_lives_h = tuple(outcomes), tuple(half_lives_h)
    return tuple(
        Count(
            name=_name(key, outcome, half_life_h),
            outcome=outcome,
            keys=key,
            half_life_h=half_life_h,
            frozen=OF_USERS in key,
        )
        for key in keys
        for outcome in outcomes
        for half_life_h in half_lives_h
    )


def usual_counts(schema: FeatureSchema) -> tuple[Count, ...]:
    """Counts of each binary outcome of a schema by those of `USUAL_KEYS` whose columns are features of the schema."""
    keys = _available(schema, USUAL_KEYS)
    return counts_of(keys, (outcome.name for outcome in schema.outcomes if outcome.kind == "binary"))


def usual_answer_counts(schema: FeatureSchema) -> tuple[Count, ...]:
    """Counts of answers by those of `USUAL_ANSWER_KEYS` whose columns are features of the schema."""
    keys = _available(schema, USUAL_ANSWER_KEYS)
    return tuple(Count(name=_name(key, "answer", None), of="answer", keys=key) for key in keys)


def usual_ranges(schema: FeatureSchema) -> tuple[NumberRange, ...]:
    """The ranges of the duration, if it is a feature."""
    floats = {feature.column for feature in schema.candidate if feature.kind == "float"}
    return tuple(one for one in (DURATION, DURATION_CLASS) if one.column in floats)


def with_usual_counts(schema: FeatureSchema) -> FeatureSchema:
    """The schema with its usual counts of outcomes, in place of those that it has. Its counts of answers stay."""
    plain = without_counts(schema)
    usual = with_counts(plain, usual_counts(plain), ranges=usual_ranges(plain), smoothing=SMOOTHING)
    answers = tuple(count for count in schema.counts if count.of == "answer")
    ranges = (one for one in schema.count_ranges if one not in usual.count_ranges and _is_key(one, answers))
    return dataclasses.replace(
        usual,
        counts=(*usual.counts, *answers),
        count_ranges=(*usual.count_ranges, *ranges),
        satisfaction=schema.satisfaction,
    )


def with_usual_answer_counts(schema: FeatureSchema, *, smoothing: float = ANSWER_SMOOTHING) -> FeatureSchema:
    """The schema with its usual counts of answers, in place of those that it has.

    Args:
        smoothing: answers at the overall rate that are added to a count.
    """
    plain = without_answer_counts(schema)
    return with_counts(plain, usual_answer_counts(plain), smoothing=smoothing)


def without_counts(schema: FeatureSchema) -> FeatureSchema:
    """The schema without counts: for data that are made round by round, whose candidates have no counts."""
    candidate = tuple(feature for feature in schema.candidate if feature.kind != "count")
    return dataclasses.replace(schema, counts=(), count_ranges=(), candidate=candidate, satisfaction=())


def without_answer_counts(schema: FeatureSchema) -> FeatureSchema:
    """The schema without counts of answers, and without the features that read them."""
    answers = {count.name for count in schema.counts if count.of == "answer"}
    return dataclasses.replace(
        schema,
        counts=tuple(count for count in schema.counts if count.name not in answers),
        satisfaction=tuple(feature for feature in schema.satisfaction if feature.column not in answers),
    )


def _available(schema: FeatureSchema, keys: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Those of some keys whose columns are features of the schema."""
    read = {feature.column for feature in schema.candidate if feature.kind in ("id", "id_list")}
    read |= {"user_id", *(f"user.{feature.column}" for feature in schema.user if feature.kind == "id")}
    read |= {one.name for one in usual_ranges(schema)}
    return [key for key in keys if read.issuperset(key)]


def _is_key(numbers: NumberRange, counts: Sequence[Count]) -> bool:
    return any(numbers.name in count.keys for count in counts)


def _name(key: tuple[str, ...], outcome: str, half_life_h: float | None) -> str:
    words = [column.removeprefix("user.").removesuffix("_id") for column in key]
    half_life = [] if half_life_h is None else [f"{half_life_h:g}h".replace(".", "_")]
    return "_".join([*(words or ["all"]), outcome, *half_life])
