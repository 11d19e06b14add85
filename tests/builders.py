"""Small random configurations, requests and answers, for any feature schema."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from easq_rec.config import HSTU, Config, LoRA, Optim, Replay, TrainerConfig, Transformer, recipes
from easq_rec.config.counts import with_usual_answer_counts
from easq_rec.config.recipes import world_schema
from easq_rec.config.schema import Feature, FeatureSchema, Table
from easq_rec.data.batch import Answers, RequestBatch, collate
from easq_rec.data.columns import Array, Ragged, RequestColumns
from easq_rec.data.encode import EncodedRequests, encode
from easq_rec.data.layout import Layout, user_path

HISTORY = 7
"""Longest history of a random request."""
CANDIDATES = 6
"""Most candidates of a random request."""
NOW_MS = 1_700_000_000_000


BACKBONES = {"transformer": Transformer(heads=2, ffn=24), "hstu": HSTU(heads=2)}
"""Small backbones, by name."""


EVERYTHING = "everything"
"""Name of the default alignment with all that it leaves out: L_dense, and the satisfaction tower's own embeddings and
counts of answers."""


def small_config(recipe: str = EVERYTHING, *, dim: int = 8, layers: int = 2, backbone: str | None = None) -> Config:
    """A recipe at a size of a few thousand parameters, with the world's schema and tables of width `dim`.

    Args:
        recipe: name of a recipe, or `EVERYTHING`.
        backbone: one of `BACKBONES`. None: the backbone of the recipe.
    """
    config = everything() if recipe == EVERYTHING else recipes.recipe(recipe)
    small = BACKBONES[backbone or type(config.model.backbone).__name__.lower()]
    # With several experts also where the recipe has one, except in `shared_bottom`, so that routers are tested.
    alone = config.model.pathway == "shared"
    towers = {
        name: dataclasses.replace(
            tower, experts=min(tower.experts, most) if tower.experts != 1 or alone else most, hidden=8, out=16
        )
        for (name, tower), most in zip(config.model.towers.items(), (3, 2), strict=False)
    }
    model = dataclasses.replace(
        config.model,
        dim=16,
        backbone=dataclasses.replace(small, layers=layers),
        lora=LoRA(rank=3, alpha=6.0) if config.model.lora is not None else None,
        shared_experts=min(config.model.shared_experts, 3),
        **towers,
    )
    schema = world_schema(users=40, videos=64, dim=dim)
    if config.schema.satisfaction:
        schema = with_usual_answer_counts(schema)
    return dataclasses.replace(
        config,
        schema=dataclasses.replace(schema, satisfaction_dim=config.schema.satisfaction_dim),
        data=dataclasses.replace(config.data, max_history=HISTORY),
        model=model,
        optim=Optim(warmup_steps=0, schedule="constant"),
        replay=Replay(answers_per_step=16),
        trainer=TrainerConfig(batch_size=8, device="cpu", threads=1),
    )


def everything() -> Config:
    """The default alignment with L_dense, and with embeddings and counts of answers of the satisfaction tower."""
    config = recipes.recipe("with_embeddings_answer_counts")
    return dataclasses.replace(config, losses=config.losses.weighted(dense=0.3))


def with_every_kind(schema: FeatureSchema) -> FeatureSchema:
    """The schema with additional features of all kinds for users, history entries and candidates."""
    dim = schema.table(str(schema.user_ids[0].table)).dim
    tables = [Table(name=name, rows=11, dim=dim) for name in ("interest", "topic", "mood")]
    return dataclasses.replace(
        schema,
        tables=(*schema.tables, *tables),
        user=(
            Feature(name="age", kind="float", transform="log1p"),
            *schema.user,
            Feature(name="taste", kind="float_list", length=3),
            Feature(name="interests", kind="weighted_id_list", table="interest", pooling="mean"),
        ),
        history=(
            Feature(name="content", kind="float_list", length=2),
            *schema.history,
            Feature(name="length", kind="float", transform="log1p"),
        ),
        candidate=(
            Feature(name="content", kind="float_list", length=2),
            *schema.candidate,
            Feature(name="topics", kind="weighted_id_list", table="topic"),
            Feature(name="moods", kind="weighted_id_list", table="mood", pooling="mean"),
            Feature(name="rate", kind="count"),
        ),
    )


def random_requests(
    schema: FeatureSchema,
    rng: np.random.Generator,
    histories: Sequence[int],
    candidates: Sequence[int],
    users: Sequence[int] | None = None,
) -> RequestColumns:
    """One request per entry of the two sequences, which give its number of history entries and of candidates.

    Args:
        users: user id of every request. None: random ids, which hardly ever repeat.
    """
    count, entries, impressions = len(histories), int(sum(histories)), int(sum(candidates))
    times = rng.integers(NOW_MS, NOW_MS + 10**9, count)
    scalars: dict[str, Array] = {
        "request_id": rng.permutation(10 * count)[:count],
        "user_id": rng.integers(-(10**9), 10**9, count) if users is None else np.asarray(users, np.int64),
        "timestamp_ms": times,
    }
    lists = {}
    for feature in schema.user:
        if user_path(feature) == "user_id":
            continue
        column = _column(schema, feature, rng, count)
        if isinstance(column, Ragged):
            lists[user_path(feature)] = column
        else:
            scalars[user_path(feature)] = column
    history: dict[str, Array | Ragged] = {f.column: _column(schema, f, rng, entries) for f in schema.history}
    history["timestamp_ms"] = np.repeat(times, histories) - rng.integers(0, 10**8, entries)
    history["watch_ratio"] = 2.5 * rng.random(entries, dtype=np.float32)
    candidate: dict[str, Array | Ragged] = {}
    for feature in schema.candidate:
        candidate[feature.column] = _column(schema, feature, rng, impressions)
    for outcome in schema.outcomes:
        candidate[outcome.name] = rng.integers(0, 2, impressions).astype(np.float32)
    # From a generator of their own, so that the other columns are the same with and without them.
    (others,) = rng.spawn(1)
    for feature in schema.satisfaction:
        candidate[feature.column] = _column(schema, feature, others, impressions)
    return RequestColumns(
        scalars=scalars,
        lists=lists,
        history=Ragged(offsets=_offsets(histories), children=history),
        candidates=Ragged(offsets=_offsets(candidates), children=candidate),
    )


def ragged_requests(schema: FeatureSchema, rng: np.random.Generator, count: int) -> RequestColumns:
    """Requests of random lengths. The first request has no history, the second a single candidate."""
    histories, candidates = rng.integers(0, HISTORY + 1, count), rng.integers(2, CANDIDATES + 1, count)
    histories[:1], candidates[1:2] = 0, 1
    return random_requests(schema, rng, histories, candidates)


def feed_requests(schema: FeatureSchema, rng: np.random.Generator, users: Sequence[int]) -> RequestColumns:
    """Requests of a feed, one for each user of the sequence: most have one candidate, the second has none."""
    lengths = np.where(rng.random(len(users)) < 0.8, 1, 2)
    lengths[1:2] = 0
    return random_requests(schema, rng, rng.integers(0, HISTORY + 1, len(users)), lengths, users)


def random_answers(requests: EncodedRequests, rng: np.random.Generator, *, codes: Sequence[int] = (0, 2)) -> Answers:
    """One or two answers for each request. The answers cycle through the codes."""
    lengths = requests.candidates.lengths
    pairs = [
        (request, int(candidate))
        for request, length in enumerate(lengths)
        for candidate in np.sort(rng.permutation(length)[: 1 + request % 2])
    ]
    return Answers(
        requests=requests,
        request_A=np.array([request for request, _ in pairs], np.int64),
        candidate_A=np.array([candidate for _, candidate in pairs], np.int64),
        answer_A=np.array([codes[index % len(codes)] for index in range(len(pairs))], np.int8),
    )


def with_random_weights(answers: Answers, rng: np.random.Generator) -> Answers:
    """The answers with weights between 0.2 and 3."""
    return dataclasses.replace(answers, weight_A=rng.uniform(0.2, 3.0, len(answers.answer_A)).astype(np.float32))


def random_batch(
    config: Config, seed: int = 0, *, requests: int = 6, answered: int = 5, aligned: bool = True
) -> RequestBatch:
    """A ragged batch, with answers if the config is aligned.

    If the losses compare candidates of users, it is a feed of three users, with three times as many requests.
    """
    rng = np.random.default_rng(seed)
    layout, by_user = Layout.of(config.schema), config.losses.groups == "user"

    def part(count: int) -> EncodedRequests:
        if by_user:
            made = feed_requests(config.schema, rng, rng.integers(0, 3, 3 * count).tolist())
        else:
            made = ragged_requests(config.schema, rng, count)
        return encode(layout, made)

    stream, answers = part(requests), None
    if config.aligned and answered:
        replayed = part(answered)
        answers = random_answers(replayed.take(np.flatnonzero(replayed.candidates.lengths)), rng)
        if config.losses.weighs_answers:
            answers = with_random_weights(answers, rng)
    weight_O = random_evidence(config.schema)
    return collate(
        config.schema, stream, answers, evidence_O=weight_O, reward_O=weight_O, aligned=aligned, by_user=by_user
    )


def random_evidence(schema: FeatureSchema) -> Array:
    """Weights of evidence, or of rewards, of both signs, (O,). The weight of the first outcome is 0."""
    weights: Array = 1.5 * np.cos(np.arange(len(schema.outcomes), dtype=np.float32))
    weights[0] = 0.0
    return weights


@torch.no_grad()
def excite(module: nn.Module, *, seed: int = 0) -> None:
    """Adds random values to parameters that start at a constant, such as adapters' B, biases and norms.

    Zeros and ones hide errors.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.numel() and bool((parameter == parameter.flatten()[0]).all()):
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def _column(schema: FeatureSchema, feature: Feature, rng: np.random.Generator, count: int) -> Array | Ragged:
    """Values of a feature as the reader returns them."""
    match feature.kind:
        case "id":
            return _ids(schema, feature, rng, count)
        case "id_list":
            return _id_list(schema, feature, rng, count)
        case "weighted_id_list":
            lists = _id_list(schema, feature, rng, count)
            # Some weights are 0, and so are all weights of some lists.
            weights = np.maximum(rng.normal(size=int(lists.offsets[-1])), 0).astype(np.float32)
            return Ragged(offsets=lists.offsets, children={**lists.children, "weights": weights})
        case "float":
            return 30 * rng.random(count, dtype=np.float32)
        case "float_list":
            assert feature.length is not None
            return rng.normal(size=(count, feature.length)).astype(np.float32)
        case "count":
            shown = rng.integers(0, 100, count)
            return np.stack([shown, shown * rng.random(count), rng.random(count)], axis=1).astype(np.float32)


def _ids(schema: FeatureSchema, feature: Feature, rng: np.random.Generator, count: int) -> Array:
    """Ids of a dense table are its rows. Ids of other tables are any integers, including negative ones; those of an
    admitted table occur again."""
    table = schema.table(str(feature.table))
    match table.id_space:
        case "dense":
            return rng.integers(0, table.rows, count)
        case "hashed":
            return rng.integers(-(10**9), 10**9, count)
        case "admitted":
            return rng.integers(-(2 * table.rows), 2 * table.rows, count) * 10**12


def _id_list(schema: FeatureSchema, feature: Feature, rng: np.random.Generator, count: int) -> Ragged:
    """Lists of 0 to 3 ids."""
    lengths = rng.integers(0, 4, count)
    return Ragged(offsets=_offsets(lengths), children={"values": _ids(schema, feature, rng, int(lengths.sum()))})


def _offsets(lengths: Sequence[int] | Array) -> Array:
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))]).astype(np.int64)
