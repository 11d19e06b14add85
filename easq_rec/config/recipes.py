"""Named configurations. A recipe is a function that returns a Config and chooses the structure in Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

from easq_rec.config import (
    Config,
    Data,
    Evaluation,
    Logging,
    LoRA,
    Losses,
    Model,
    Optim,
    Replay,
    Tower,
    TrainerConfig,
    Transformer,
    World,
)
from easq_rec.config.counts import with_usual_answer_counts, with_usual_counts
from easq_rec.config.losses import MainBPR
from easq_rec.config.schema import Feature, FeatureSchema, Outcome, Table
from easq_rec.config.variants import ADDITIONS, VARIANTS
from easq_rec.config.world import DEFAULT_VERSION

EXPECTED_EVIDENCE = 1.0
"""Expected weight of evidence of an action, before there are answers: the odds of a like are 2.7 times as high if the
viewer is satisfied. Answers correct it."""
FILM_SMOOTHING = 5.0
"""Answers at the overall rate that are added to a count of answers about a film. Chosen on MovieLens (decision 34)."""


def world_schema(*, users: int, videos: int, dim: int, version: Literal[1, 2] = DEFAULT_VERSION) -> FeatureSchema:
    """Features of a built-in synthetic world (and a template for short-video logs), without counts."""
    schema = FeatureSchema(
        tables=(
            Table(name="user", rows=users, dim=dim),
            Table(name="age_group", rows=8, dim=dim, id_space="dense"),
            Table(name="region", rows=32, dim=dim, id_space="dense"),
            Table(name="device", rows=8, dim=dim, id_space="dense"),
            Table(name="video", rows=videos, dim=dim),
            Table(name="author", rows=max(videos // 8, 1), dim=dim),
            Table(name="tag", rows=256, dim=dim),
        ),
        user=(
            Feature(name="user_id", table="user"),
            Feature(name="age_group", table="age_group"),
            Feature(name="region", table="region"),
            Feature(name="device", table="device"),
        ),
        history=(Feature(name="video_id", table="video"), Feature(name="author_id", table="author")),
        candidate=(
            Feature(name="video_id", table="video"),
            Feature(name="author_id", table="author"),
            Feature(name="tags", kind="id_list", table="tag", pooling="mean"),
            Feature(name="duration_ms", kind="float", transform="log1p"),
        ),
        outcomes=(
            Outcome(name="long_view", weight=1.0),
            Outcome(name="like", weight=0.5, expected_evidence=EXPECTED_EVIDENCE),
            Outcome(name="follow", weight=0.5, expected_evidence=EXPECTED_EVIDENCE),
        ),
        trigger="long_view",
    )
    return schema_for_world(schema, version)


def counted_world_schema(world: World, *, dim: int) -> FeatureSchema:
    """Features of a built-in world with a table row for each of its users and videos, and the usual counts of the past,
    also of answers."""
    plain = world_schema(users=world.users, videos=world.videos, dim=dim, version=world.version)
    return with_usual_answer_counts(with_usual_counts(plain))


def schema_for_world(schema: FeatureSchema, version: Literal[1, 2]) -> FeatureSchema:
    """The schema of a world with the outcomes of another version; a schema of other data stays as it is.

    In World 1 a long view triggers the questionnaire, in World 2 a valid play, which is shorter. A schema with its
    usual counts has those of the new outcomes.
    """
    changed = _with_outcomes(schema, version)
    return with_usual_counts(changed) if schema == with_usual_counts(schema) else changed


def _with_outcomes(schema: FeatureSchema, version: Literal[1, 2]) -> FeatureSchema:
    if version == 2 and schema.trigger == "long_view":
        long_view = next(outcome for outcome in schema.outcomes if outcome.name == "long_view")
        # A variant that does not learn from long views does not learn from shorter ones either.
        unlearnt = long_view.training_weight == 0
        valid_play = Outcome(name="valid_play", weight=0.5, training_weight=0.0 if unlearnt else None)
        outcomes = (*schema.outcomes, valid_play)
        return dataclasses.replace(schema, outcomes=outcomes, trigger="valid_play")
    if version == 1 and schema.trigger == "valid_play":
        outcomes = tuple(outcome for outcome in schema.outcomes if outcome.name != "valid_play")
        return dataclasses.replace(schema, outcomes=outcomes, trigger="long_view")
    return schema


def with_world(config: Config, version: Literal[1, 2]) -> Config:
    """The config on the built-in world of this version.

    Raises:
        UserError: the config has options that only the other world has.
    """
    world = dataclasses.replace(config.world, version=version)
    return dataclasses.replace(config, world=world, schema=schema_for_world(config.schema, version))


def movielens_schema(*, dim: int = 32, users: int = 1_024, films: int = 2_048) -> FeatureSchema:
    """Features that `datasets/movielens/prepare.py` writes, without counts. The default tables have one row for every
    id of 100K."""
    return FeatureSchema(
        tables=(
            Table(name="user", rows=users, dim=dim),
            Table(name="gender", rows=4, dim=dim, id_space="dense"),
            Table(name="age_group", rows=8, dim=dim, id_space="dense"),
            Table(name="occupation", rows=32, dim=dim, id_space="dense"),
            Table(name="film", rows=films, dim=dim),
            Table(name="genre", rows=32, dim=dim, id_space="dense"),
            Table(name="decade", rows=16, dim=dim, id_space="dense"),
        ),
        user=(
            Feature(name="user_id", table="user"),
            Feature(name="gender", table="gender"),
            Feature(name="age_group", table="age_group"),
            Feature(name="occupation", table="occupation"),
        ),
        history=(Feature(name="video_id", table="film"),),
        candidate=(
            Feature(name="video_id", table="film"),
            Feature(name="tags", kind="id_list", table="genre", pooling="mean"),
            Feature(name="decade", table="decade"),
        ),
        outcomes=(Outcome(name="long_view", weight=1.0),),
        # Only films that were seen are rated.
        trigger="long_view",
    )


def kuairand_schema(*, dim: int = 32, videos: int = 1 << 20, authors: int = 1 << 18) -> FeatureSchema:
    """Features that `datasets/kuairand/prepare.py` writes; likes and similar actions are answers here, not outcomes.

    The default tables have one row for every video of KuaiRand-Pure. In 1K and 27K videos share rows unless `videos`
    is larger.
    """
    # Encrypted user features by number; one row more than values, because 0 means unknown.
    onehot = {1: 8, 2: 51, 4: 16, 5: 35, 6: 4, 7: 119, 8: 455, 9: 8, 10: 6, 11: 6}
    user_tables = {"tab": 15, "hour": 24, "register_days": 8, **{f"onehot_{n}": rows for n, rows in onehot.items()}}
    return FeatureSchema(
        tables=(
            Table(name="user", rows=32_768, dim=dim),
            *(Table(name=name, rows=rows, dim=dim, id_space="dense") for name, rows in user_tables.items()),
            Table(name="video", rows=videos, dim=dim),
            Table(name="author", rows=authors, dim=dim),
            Table(name="tag", rows=128, dim=dim),
            Table(name="video_type", rows=4, dim=dim, id_space="dense"),
            Table(name="age", rows=16, dim=dim, id_space="dense"),
        ),
        user=(Feature(name="user_id", table="user"), *(Feature(name=name, table=name) for name in user_tables)),
        history=(Feature(name="video_id", table="video"), Feature(name="author_id", table="author")),
        candidate=(
            Feature(name="video_id", table="video"),
            Feature(name="author_id", table="author"),
            Feature(name="tags", kind="id_list", table="tag", pooling="mean"),
            Feature(name="video_type", table="video_type"),
            Feature(name="age", table="age"),
            # Whether a play counts as valid depends on the duration by thresholds.
            Feature(name="duration_ms", kind="float", transform="log1p", encoding="quantiles"),
        ),
        outcomes=(Outcome(name="long_view", weight=1.0), Outcome(name="valid_play", weight=0.5)),
    )


def easq() -> Config:
    """The default: the score of an isolated satisfaction pathway is a part of the policy score."""
    # A small log with as many answers as a large one: at the paper's rate it would have about twenty.
    world = World(density=100.0)
    return Config(
        recipe="easq",
        schema=counted_world_schema(world, dim=32),
        world=world,
        model=Model(satisfaction_weight=0.2),
        losses=Losses(warmup_per_class=10, align_every=2).aligned_by(satisfaction=1.0, evidence=1.0),
        # Videos and users of the world have many impressions each: a high rate of the tables learns them in one or two
        # passes.
        optim=Optim(table_lr=0.2, schedule="constant"),
    )


def quickstart() -> Config:
    """`easq` on the built-in synthetic world, at a size that trains in about a minute on a laptop."""
    config = easq()
    return dataclasses.replace(
        config,
        recipe="quickstart",
        schema=counted_world_schema(config.world, dim=16),
        model=dataclasses.replace(
            config.model,
            dim=32,
            backbone=Transformer(heads=2, layers=2, ffn=96),
            main=Tower(hidden=32, out=32),
            satisfaction=Tower(hidden=32, out=32),
            lora=LoRA(rank=8),
        ),
        trainer=TrainerConfig(batch_size=128, epochs=2),
        evaluation=Evaluation(every_steps=100, max_requests=1_024),
        logging=Logging(every_steps=10),
    )


def movielens() -> Config:
    """`easq` on MovieLens, as `datasets/movielens/prepare.py` writes it. Needs --data."""
    return Config(
        recipe="movielens",
        schema=with_usual_answer_counts(movielens_schema(), smoothing=FILM_SMOOTHING),
        data=Data(path=None, holdout=0.2, max_history=50),
        # Four epochs overfit less if ids are sometimes missing.
        model=Model(
            dim=64,
            backbone=Transformer(heads=4, layers=2, ffn=128),
            feature_dropout=0.1,
            satisfaction_weight=0.2,
            # Adapters also change the representation that the main tower reads, and gain nothing on this log.
            lora=None,
        ),
        # The only outcome is a view. Every rating follows a view, so it says nothing about satisfaction. Pairs within
        # a request do not help either: cross-entropy alone orders the films better.
        losses=Losses(main=MainBPR(weight=0.0), warmup_per_class=10, align_every=2).aligned_by(satisfaction=1.0),
        replay=Replay(answers_per_step=32),
        optim=Optim(table_lr=0.05, dense_lr=1e-3),
        trainer=TrainerConfig(batch_size=64, epochs=4),
        logging=Logging(every_steps=20),
    )


def movielens_20m() -> Config:
    """`movielens` for the larger releases: tables for the ids of 1M to 32M, one epoch of larger batches."""
    config = movielens()
    return dataclasses.replace(
        config,
        recipe="movielens_20m",
        schema=with_usual_answer_counts(movielens_schema(users=1 << 18, films=1 << 19), smoothing=FILM_SMOOTHING),
        model=dataclasses.replace(config.model, feature_dropout=0.0),
        trainer=TrainerConfig(batch_size=256, epochs=1),
    )


def kuairand() -> Config:
    """`easq` on KuaiRand, as `datasets/kuairand/prepare.py` writes it. Needs --data."""
    return Config(
        recipe="kuairand",
        schema=kuairand_schema(),
        # The log is small: the whole of it is shuffled together.
        data=Data(path=None, holdout=0.2, max_history=50, shuffle_row_groups=128),
        # A request has 13 user features and often one candidate: a token for each of them is most of the cost.
        # Without adapters the main tower is that of `kuairand_main_only`, even if there are few answers.
        model=Model(user_tokens="one", table_std=0.01, satisfaction_weight=0.2, lora=None),
        # Pairs within these short requests do not help. Likes and similar actions are answers here, not outcomes.
        losses=Losses(main=MainBPR(weight=0.0), warmup_per_class=10, align_every=2).aligned_by(satisfaction=1.0),
        # Most ids are rare: their rows start small and move little. One epoch with a decaying rate would learn little
        # from the last requests.
        optim=Optim(table_lr=0.02, schedule="constant", warmup_steps=10),
    )


BASES: dict[str, Callable[[], Config]] = {
    base.__name__: base for base in (quickstart, easq, movielens, movielens_20m, kuairand)
}
"""Recipes that set data and sizes, with the default alignment."""


def recipe(name: str) -> Config:
    """The config of `BASE`, of `VARIANT` at the size of `easq`, of `BASE_VARIANT`, or of one of these and `_ADDITION`.

    Raises KeyError for others.
    """
    if name in BASES:
        return BASES[name]()
    if name in ADDITIONS:
        return dataclasses.replace(ADDITIONS[name](easq()), recipe=name)
    for addition, change in ADDITIONS.items():
        if name.endswith(f"_{addition}"):
            return dataclasses.replace(change(recipe(name.removesuffix(f"_{addition}"))), recipe=name)
    if name in VARIANTS:
        return dataclasses.replace(VARIANTS[name](easq()), recipe=name)
    for base, made in BASES.items():
        variant = name.removeprefix(f"{base}_")
        if variant != name and variant in VARIANTS:
            return dataclasses.replace(VARIANTS[variant](made()), recipe=name)
    raise KeyError(name)


RECIPES = (*BASES, *VARIANTS, *ADDITIONS)
"""What `easq-rec train RECIPE` accepts; `BASE_VARIANT` and `BASE_VARIANT_ADDITION` name any combination."""
