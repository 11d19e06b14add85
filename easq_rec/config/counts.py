"""The usual counts of a schema, and schemas with features that read them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from easq_rec.config.schema import Count, Feature, FeatureSchema

HALF_LIVES_H = (None, 24.0)
"""All of the past, and about the last two days."""
USUAL_KEYS = (("video_id",), ("author_id",), ("user_id",), ("user_id", "user.tab"), ("video_id", "user.tab"))
"""Video, author and user, and in which part of the app the user or the video is."""


def with_counts(schema: FeatureSchema, counts: Sequence[Count]) -> FeatureSchema:
    """The schema that declares these counts, with a candidate feature for each."""
    features = (Feature(name=count.name, kind="count") for count in counts)
    return dataclasses.replace(schema, counts=tuple(counts), candidate=(*schema.candidate, *features))


def counts_of(
    keys: Iterable[tuple[str, ...]], outcomes: Iterable[str], half_lives_h: Iterable[float | None] = HALF_LIVES_H
) -> tuple[Count, ...]:
    """A count of every combination, named like `user_tab_long_view_24h`."""
    outcomes, half_lives_h = tuple(outcomes), tuple(half_lives_h)
    return tuple(
        Count(name=_name(key, outcome, half_life_h), outcome=outcome, keys=key, half_life_h=half_life_h)
        for key in keys
        for outcome in outcomes
        for half_life_h in half_lives_h
    )


def usual_counts(schema: FeatureSchema) -> tuple[Count, ...]:
    """Counts of each outcome of a schema by those of `USUAL_KEYS` whose columns are features of the schema."""
    read = {feature.column for feature in schema.candidate if feature.kind == "id"}
    read |= {"user_id", *(f"user.{feature.column}" for feature in schema.user if feature.kind == "id")}
    keys = [key for key in USUAL_KEYS if read.issuperset(key)]
    return counts_of(keys, (outcome.name for outcome in schema.outcomes))


def _name(key: tuple[str, ...], outcome: str, half_life_h: float | None) -> str:
    words = [column.removeprefix("user.").removesuffix("_id") for column in key]
    half_life = [] if half_life_h is None else [f"{half_life_h:g}h".replace(".", "_")]
    return "_".join([*(words or ["all"]), outcome, *half_life])


KUAIRAND_COUNTS = counts_of(USUAL_KEYS, ("long_view", "valid_play"))
"""Counts for the data that `datasets/kuairand/prepare.py` writes."""
