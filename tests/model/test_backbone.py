"""One pass per request equals an impression-level backbone under the same mask, in values and in all gradients.

In the reference below every impression is a separate sequence, [user tokens, history tokens, candidate]. It computes
every token in every layer, masks the whole attention matrix, and reads ids one by one from the columns of the batch. It
shares only the weights with the optimised implementation.

Legend: S tokens of an impression, U user features, D token width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedTensor

from easq_rec.config import Config
from easq_rec.config.losses import DPO
from easq_rec.config.recipes import recipe as config_of
from easq_rec.config.schema import Feature
from easq_rec.data.batch import Answers, RequestBatch, collate
from easq_rec.data.columns import Array, Ragged, RequestColumns
from easq_rec.data.encode import encode
from easq_rec.data.layout import Layout
from easq_rec.kernels import packing
from easq_rec.model.backbones.hstu import HSTUBlock, time_bucket
from easq_rec.model.backbones.transformer import TransformerBlock
from easq_rec.model.lora import AdaptedLinear, Stream, StreamNorm
from easq_rec.model.ranker import Ranker
from easq_rec.model.tokens import AGE_BUCKETS, RATIO_BUCKETS
from tests.builders import BACKBONES, excite, random_requests, small_config, with_every_kind

STREAMS = [Stream.MAIN, Stream.SATISFACTION]


@pytest.fixture(autouse=True, params=["a row for each request", "shared rows"])
def rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs with both forms of the tokens, whichever is cheaper. Shared rows take two or three requests."""
    monkeypatch.setattr(packing, "SAVING", 0.0 if request.param == "a row for each request" else 100.0)
    monkeypatch.setattr(packing, "REQUEST_SLOTS", 25)


both = pytest.mark.parametrize("backbone", BACKBONES)


class ImpressionRanker:
    """A slow, simple reference that scores one impression at a time."""

    def __init__(self, ranker: Ranker, config: Config, columns: RequestColumns, stream: Stream) -> None:
        self.ranker, self.config, self.columns, self.stream = ranker, config, columns, stream
        self.network = ranker.network

    def score(self, request: int, candidate: int) -> Tensor:
        """The score of one impression: the main tower's in the main stream, otherwise the satisfaction tower's."""
        x_SD = torch.cat([self.user_tokens(request), self.history_tokens(request), self.token(request, candidate)])
        for block in self.network.backbone.blocks:
            x_SD = self.hstu(block, x_SD, request) if isinstance(block, HSTUBlock) else self.transformer(block, x_SD)
        if self.stream is Stream.MAIN:
            return self.network.main.reference(x_SD[-1:])[0]
        h_1D = x_SD[-1:]
        if self.config.schema.satisfaction_dim:
            h_1D = h_1D + self.satisfaction_embeddings(request, candidate) @ self.network.own.weight.T
        score = self.network.satisfaction.reference(h_1D)[0]
        counts = self.answer_rates(request, candidate)
        if counts:
            for weight, (rate, prior) in zip(self.network.answer_rates.weight_C, counts, strict=True):
                score = score + weight * (rate - prior)
        return score

    def satisfaction_embeddings(self, request: int, candidate: int) -> Tensor:
        """The concatenated embeddings that only the satisfaction tower reads, which are never constants."""
        candidates, parts = self.columns.candidates, []
        at = int(candidates.offsets[request]) + candidate
        for feature in self.config.schema.candidate:
            if feature.table is None:
                continue
            weight = self.ranker.embeddings.candidate.embedding_bags[f"satisfaction_{feature.table}"].weight
            pairs = weighted_ids(feature, candidates.children[feature.column], at)
            parts.append(sum((share * weight[value % len(weight)] for value, share in pairs), start=0 * weight[0]))
        return torch.cat(parts)[None]

    def answer_rates(self, request: int, candidate: int) -> list[tuple[float, float]]:
        """(logit of the rate, that of the overall rate) of each count of answers."""
        candidates = self.columns.candidates
        at = int(candidates.offsets[request]) + candidate
        found = []
        for feature in self.config.schema.satisfaction:
            column = candidates.children[feature.column]
            assert not isinstance(column, Ragged)
            prior = float(column[at][2])
            found.append((numbers(feature, column, at)[0], math.log(prior / (1 - prior))))
        return found

    def transformer(self, block: TransformerBlock, x_SD: Tensor) -> Tensor:
        tokens, width = x_SD.shape
        n_SD = self.norm(block.attention_norm, x_SD)
        query = self.linear(block.query, n_SD)
        key, value = self.linear(block.key_value, n_SD).split(width, dim=1)
        # Request tokens attend to request tokens. The candidate, which is last, attends to all.
        seen = torch.ones(tokens, tokens, dtype=torch.bool)
        seen[:-1, -1] = False
        head_width = width // block.heads
        mixed = []
        for head in range(block.heads):
            part = slice(head * head_width, (head + 1) * head_width)
            logit_SS = query[:, part] @ key[:, part].T / math.sqrt(head_width)
            mixed.append(logit_SS.masked_fill(~seen, -math.inf).softmax(1) @ value[:, part])
        x_SD = x_SD + self.linear(block.attention_out, torch.cat(mixed, dim=1))
        hidden = F.relu(self.linear(block.ffn_in, self.norm(block.ffn_norm, x_SD)))
        return x_SD + self.linear(block.ffn_out, hidden)

    def hstu(self, block: HSTUBlock, x_SD: Tensor, request: int) -> Tensor:
        """Equations 1 to 3 of arXiv 2402.17152, pair by pair."""
        tokens, width = x_SD.shape
        n_SD = self.norm(block.attention_norm, x_SD)
        query, gate = F.silu(self.linear(block.query, n_SD)), F.silu(self.linear(block.gate, n_SD))
        key, value = F.silu(self.linear(block.key_value, n_SD)).split(width, dim=1)
        bias = self.biases(block, request)
        head_width = width // block.heads
        mixed = []
        for q in range(tokens):
            # Request tokens attend to request tokens. The candidate, which is last, attends to all.
            seen = range(tokens if q == tokens - 1 else tokens - 1)
            heads = [slice(first, first + head_width) for first in range(0, width, head_width)]
            weights = [
                [F.silu(query[q, part] @ key[k, part] / math.sqrt(head_width) + bias[q][k]) for k in seen]
                for part in heads
            ]
            parts = [
                sum((w * value[k, part] for k, w in zip(seen, head, strict=True)), start=torch.zeros(head_width))
                for part, head in zip(heads, weights, strict=True)
            ]
            mixed.append(torch.cat(parts) / len(seen))
        gated = self.norm(block.mixed_norm, torch.stack(mixed)) * gate
        return x_SD + self.linear(block.attention_out, gated)

    def biases(self, block: HSTUBlock, request: int) -> list[list[Tensor]]:
        """The bias of each query for each key. Histories are oldest first, and the candidate follows the newest."""
        users, history = len(self.config.schema.user), self.columns.history
        first, last = int(history.offsets[request]), int(history.offsets[request + 1])
        now = int(self.columns.timestamp_ms[request])
        ages = [(now - int(time)) / 1_000 for time in history.column("timestamp_ms")[first:last]] + [0.0]
        position, time = self.own(block.position_P), self.own(block.time_B)

        def bias(q: int, k: int) -> Tensor:
            if min(q, k) < users:
                return position[-1] + time[0]
            seconds = abs(np.float32(ages[q - users]) - np.float32(ages[k - users]))
            return position[k - q + self.network.tokens.max_history] + time[max(int(seconds), 1).bit_length() - 1]

        tokens = range(users + len(ages))
        return [[bias(q, k) for k in tokens] for q in tokens]

    def linear(self, linear: AdaptedLinear, x: Tensor) -> Tensor:
        """h + sg(h_LoRA) in the main stream, sg(h) + h_LoRA in the satisfaction stream."""
        h = x @ linear.weight.T + linear.bias
        if linear.lora_a is None:
            return h if self.stream is Stream.MAIN else h.detach()
        h_lora = linear.scale * (x @ linear.lora_a.T @ linear.lora_b.T)
        return h + h_lora.detach() if self.stream is Stream.MAIN else h.detach() + h_lora

    def norm(self, norm: StreamNorm, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        weight, bias = self.own(norm.weight), self.own(norm.bias)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt() * weight + bias

    def own(self, parameter: Tensor) -> Tensor:
        """A parameter outside the adapters is a constant of the satisfaction stream."""
        return parameter if self.stream is Stream.MAIN else parameter.detach()

    def user_tokens(self, request: int) -> Tensor:
        tokens = []
        floats: list[float] = []
        for feature in self.config.schema.user:
            path = feature.column if feature.column == "user_id" else f"user.{feature.column}"
            column = self.columns.column(path)
            if feature.table is None:
                floats += numbers(feature, column, request)
            else:
                tokens.append(self.linear(self.network.tokens.user, self.pooled("user", feature, column, request)))
        if floats:
            tokens.append(self.linear(self.network.tokens.user_float, torch.tensor(floats)))
        return torch.stack(tokens) + self.own(self.network.tokens.user_feature_UD)

    def history_tokens(self, request: int) -> Tensor:
        history, tokens = self.columns.history, self.network.tokens
        context = self.own(tokens.context.weight)
        first, last = int(history.offsets[request]), int(history.offsets[request + 1])
        rows = []
        for entry in range(first, last):
            ids = [
                self.row("sequence", feature, int(history.column(feature.column)[entry]))
                for feature in self.config.schema.history
                if feature.table is not None
            ]
            floats = [
                value
                for feature in self.config.schema.history
                if feature.table is None
                for value in numbers(feature, history.children[feature.column], entry)
            ]
            if floats:
                ids.append(self.linear(tokens.history_float, torch.tensor(floats)))
            age_s = (int(self.columns.timestamp_ms[request]) - int(history.column("timestamp_ms")[entry])) / 1_000
            age = min(int(2 * math.log2(1 + max(age_s, 0))), AGE_BUCKETS - 1)
            ratio = min(int(8 * float(history.column("watch_ratio")[entry])), RATIO_BUCKETS - 1)
            position = min(last - 1 - entry, tokens.max_history - 1)
            own = (
                context[position]
                + context[tokens.max_history + age]
                + context[tokens.max_history + AGE_BUCKETS + ratio]
            )
            rows.append(self.linear(tokens.history, sum(ids, start=own)))
        return torch.stack(rows) if rows else torch.zeros(0, self.config.model.dim, dtype=context.dtype)

    def token(self, request: int, candidate: int) -> Tensor:
        candidates = self.columns.candidates
        at = int(candidates.offsets[request]) + candidate
        shared = {feature.name for feature in self.config.schema.shared}
        parts: list[Tensor] = []
        floats: list[float] = []
        for feature in self.config.schema.candidate:
            column = candidates.children[feature.column]
            if feature.table is None:
                floats += numbers(feature, column, at)
            else:
                owner = "sequence" if feature.name in shared else "candidate"
                parts.append(self.pooled(owner, feature, column, at))
        x = torch.cat([*parts, torch.tensor(floats)])
        return self.linear(self.network.tokens.candidate, x[None])

    def pooled(self, owner: str, feature: Feature, column: Array | Ragged, entry: int) -> Tensor:
        """The pooled embedding of an entry's ids."""
        rows = [share * self.row(owner, feature, identity) for identity, share in weighted_ids(feature, column, entry)]
        return sum(rows, start=torch.zeros(self.config.schema.table(str(feature.table)).dim))

    def row(self, owner: str, feature: Feature, identity: int) -> Tensor:
        """One embedding. In the isolated satisfaction stream it is a constant."""
        tables = getattr(self.ranker.embeddings, owner)
        weight = getattr(tables, "embeddings" if owner == "sequence" else "embedding_bags")[feature.table].weight
        embedding = weight[identity % self.config.schema.table(str(feature.table)).rows]
        isolated = self.stream is Stream.SATISFACTION and self.config.model.isolate_embeddings
        return embedding.detach() if isolated else embedding


def weighted_ids(feature: Feature, column: Array | Ragged, entry: int) -> list[tuple[int, float]]:
    """The ids of an entry, each with its factor in the sum that pools them."""
    if not isinstance(column, Ragged):
        return [(int(column[entry]), 1.0)]
    begin, end = int(column.offsets[entry]), int(column.offsets[entry + 1])
    ids = column.column("values")[begin:end].tolist()
    weights = column.column("weights")[begin:end].tolist() if feature.kind == "weighted_id_list" else [1.0] * len(ids)
    total = sum(weights) if feature.pooling == "mean" else 1.0
    return [(identity, weight / total if total else 0.0) for identity, weight in zip(ids, weights, strict=True)]


def numbers(feature: Feature, column: Array | Ragged, entry: int) -> list[float]:
    """The numbers of an entry, transformed."""
    assert not isinstance(column, Ragged)
    values = np.atleast_1d(column[entry])
    if feature.kind == "count":
        shown, happened, prior = values.tolist()
        rate = (happened + feature.smoothing * prior) / (shown + feature.smoothing)
        # The network does not read the overall rate.
        return [math.log(rate / (1 - rate)), math.log(1 + shown)]
    return [float(np.log1p(np.float32(value))) if feature.transform == "log1p" else float(value) for value in values]


def build(config: Config, *, autocast: torch.dtype | None = None) -> Ranker:
    """A ranker in training mode whose main stream covers replayed requests, with non-zero adapters."""
    if config.aligned:
        config = dataclasses.replace(
            config, losses=dataclasses.replace(config.losses, dpo=DPO(weight=1.0), align_every=1)
        )
    ranker = Ranker(config, torch.device("cpu"), autocast=autocast)
    excite(ranker)
    with torch.no_grad():
        for block in ranker.network.backbone.blocks:
            if isinstance(block, HSTUBlock):
                # Biases start so small that an error in them would hardly change the scores.
                block.position_P.mul_(25)
                block.time_B.mul_(25)
    return ranker


def requests_and_answers(
    config: Config, histories: Sequence[int], candidates: Sequence[int], replayed: int
) -> tuple[RequestColumns, RequestBatch, list[tuple[int, int]]]:
    """The requests of a batch, the batch, and its answered (request, candidate) pairs.

    The last `replayed` requests are answered: the first of them on one candidate, the next on two, and so on.
    """
    rng = np.random.default_rng(1)
    columns = random_requests(config.schema, rng, histories, candidates)
    encoded, split = encode(Layout.of(config.schema), columns), len(columns) - replayed
    answered = [
        (request, candidate)
        for request in range(replayed)
        for candidate in range(min(request + 1, candidates[split + request]))
    ]
    answers = Answers(
        requests=encoded.take(np.arange(split, len(columns))),
        request_A=np.array([request for request, _ in answered], np.int64),
        candidate_A=np.array([candidate for _, candidate in answered], np.int64),
        answer_A=np.zeros(len(answered), np.int8),
    )
    batch = collate(config.schema, encoded.take(np.arange(split)), answers if replayed else None)
    return columns, batch, [(split + request, candidate) for request, candidate in answered]


def gradients(loss: Tensor, module: nn.Module) -> dict[str, Tensor]:
    module.zero_grad()
    loss.backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in module.named_parameters()
    }


def check(config: Config, stream: Stream, histories: Sequence[int], candidates: Sequence[int], replayed: int) -> None:
    ranker = build(config)
    columns, batch, answered = requests_and_answers(config, histories, candidates, replayed)
    output = ranker(batch)
    reference = ImpressionRanker(ranker, config, columns, stream)
    if stream is Stream.MAIN:
        impressions = [(r, c) for r in range(len(columns)) for c in range(candidates[r])]
        score_N = output.main.score_N
    else:
        impressions, score_N = answered, output.answered.score_N
        assert score_N is not None
    expected_N = torch.stack([reference.score(request, candidate) for request, candidate in impressions])
    torch.testing.assert_close(score_N, expected_N, rtol=1e-5, atol=1e-5)
    weight_N = torch.randn(len(impressions), generator=torch.Generator().manual_seed(3))
    fast, slow = gradients((score_N * weight_N).sum(), ranker), gradients((expected_N * weight_N).sum(), ranker)
    assert any(bool(gradient.any()) for gradient in slow.values())
    for name, gradient in slow.items():
        scale = float(gradient.abs().max())
        message = partial("{}: {}".format, name)
        torch.testing.assert_close(fast[name], gradient, rtol=1e-5, atol=1e-5 * max(scale, 0.3), msg=message)


@both
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("recipe", ["everything", "paper"])
@pytest.mark.parametrize("stream", STREAMS)
def test_ragged_requests(stream: Stream, recipe: str, layers: int, backbone: str) -> None:
    """Histories and candidate lists have different lengths, both streamed and replayed.

    Some histories are empty, and some candidate lists have one entry.
    """
    check(
        small_config(recipe, layers=layers, backbone=backbone),
        stream,
        histories=[0, 3, 7, 1, 5, 0, 2],
        candidates=[4, 1, 6, 2, 3, 1, 5],
        replayed=3,
    )


@pytest.mark.parametrize("recipe", ["everything", "paper"])
@pytest.mark.parametrize("stream", STREAMS)
def test_every_kind_of_feature(stream: Stream, recipe: str) -> None:
    """Covers floats, lists of floats and weighted ids of users, history entries and candidates."""
    config = small_config(recipe)
    config = dataclasses.replace(config, schema=with_every_kind(config.schema))
    check(config, stream, histories=[0, 3, 7, 1, 5], candidates=[4, 1, 6, 2, 3], replayed=2)


SHAPES = {
    "no history anywhere": ([0, 0, 0, 0], [2, 3, 1, 4], 2),
    "one candidate everywhere": ([2, 0, 5, 1], [1, 1, 1, 1], 2),
    "all equally long": ([3, 3, 3, 3], [2, 2, 2, 2], 1),
    "one request": ([4], [3], 1),
    "one blank impression": ([0], [1], 1),
    "history only in the stream": ([3, 6, 0, 0], [2, 3, 4, 1], 2),
    "history only replayed": ([0, 0, 3, 6], [2, 3, 4, 1], 2),
    "longest list replayed": ([1, 2, 7], [1, 2, 6], 1),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stream", STREAMS)
@both
def test_shapes(backbone: str, stream: Stream, shape: str) -> None:
    """Covers the shapes at which padding, masks or slices are degenerate."""
    histories, candidates, replayed = SHAPES[shape]
    check(small_config("paper", backbone=backbone), stream, histories, candidates, replayed)


@pytest.mark.parametrize("recipe", ["main_only", "movielens"])
def test_other_structures(recipe: str) -> None:
    """Covers a model without a satisfaction pathway, and MovieLens with one history id and a pooled single id."""
    config = small_config(recipe)
    if recipe == "movielens":
        config = dataclasses.replace(config, schema=config_of(recipe).schema)
    check(config, Stream.MAIN, histories=[0, 3, 7, 1], candidates=[4, 1, 6, 2], replayed=1 if config.aligned else 0)


@pytest.mark.parametrize(
    ("backbone", "target"),
    [(name, target) for name, backbone in BACKBONES.items() for target in ("input", *sorted(backbone.linears))],
)
@pytest.mark.parametrize("stream", STREAMS)
def test_a_single_adapter(stream: Stream, backbone: str, target: str) -> None:
    """With adapters on one linear only, the others are constants of the satisfaction stream."""
    config = small_config("paper", backbone=backbone)
    assert config.model.lora is not None
    lora = dataclasses.replace(config.model.lora, targets=(target,))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, lora=lora))
    check(config, stream, histories=[0, 3, 5], candidates=[4, 1, 3], replayed=2)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_names_its_linears(name: str) -> None:
    """Its configuration lists the linears of a block, for the checks of model.lora.targets."""
    config = small_config(backbone=name)
    (block, _) = Ranker(config, torch.device("cpu")).network.backbone.blocks
    found = {child for child, module in block.named_children() if isinstance(module, AdaptedLinear)}
    assert found == config.model.backbone.linears


@both
def test_streamed_scores_are_equal_with_and_without_replayed_requests(backbone: str) -> None:
    """If no loss needs the main stream of replayed requests, only streamed requests have one.

    This does not change their scores.
    """
    config = small_config(backbone=backbone)
    ranker = Ranker(config, torch.device("cpu"))
    excite(ranker)
    _, batch, _ = requests_and_answers(config, [1, 0, 3, 7], [2, 1, 4, 6], 2)
    alone = ranker(batch)
    everything = ranker.eval()(batch)
    assert alone.candidates.total == 3 and everything.candidates.total == 13
    torch.testing.assert_close(alone.main.score_N, everything.main.score_N[:3])
    torch.testing.assert_close(alone.reference.score_N, everything.reference.score_N[:3])


def test_the_order_of_features_from_the_tables_has_no_effect() -> None:
    """Sharded tables return features in the order of the plan, which differs between runs.

    The model finds a feature by its key.
    """
    config = small_config("paper")
    ranker = build(config).eval()
    _, batch, _ = requests_and_answers(config, [1, 0, 3], [2, 1, 4], 1)
    user, sequence, candidate = ranker.embeddings(batch)
    keys = sorted(user.keys(), reverse=True)
    assert keys != user.keys()
    shuffled = KeyedTensor(keys, [config.schema.tables[0].dim] * len(keys), torch.cat([user[key] for key in keys], 1))
    expected = ranker.network(user, sequence, candidate, batch)
    found = ranker.network(shuffled, sequence, candidate, batch)
    torch.testing.assert_close(found.main.score_N, expected.main.score_N, rtol=0, atol=0)
    torch.testing.assert_close(found.reference.score_N, expected.reference.score_N, rtol=0, atol=0)


@both
def test_the_score_of_a_candidate_does_not_depend_on_the_others(backbone: str) -> None:
    """A candidate keeps its score if the other candidates of its request are replaced."""
    config = small_config(backbone=backbone)
    ranker = build(config).eval()
    columns = random_requests(config.schema, np.random.default_rng(5), [4, 4], [5, 5])
    first: dict[str, object] = {}
    for name, child in columns.candidates.children.items():
        # Candidate 0 of request 0 keeps its columns, all others are replaced by those of the other request.
        rows = np.array([0, 6, 7, 8, 9, 5, 6, 7, 8, 9])
        first[name] = child.take(rows) if isinstance(child, Ragged) else child[rows]
    changed = dataclasses.replace(columns, candidates=dataclasses.replace(columns.candidates, children=first))
    before, after = (
        ranker.score(collate(config.schema, encode(Layout.of(config.schema), c))).main_N for c in (columns, changed)
    )
    torch.testing.assert_close(before[0], after[0])
    assert not torch.isclose(before[1:5], after[1:5]).any()


@both
def test_padding_has_no_effect(backbone: str) -> None:
    """A request has the same scores by itself and with a request that has a longer history and more candidates."""
    config = small_config(backbone=backbone)
    ranker = build(config).eval()
    columns = random_requests(config.schema, np.random.default_rng(5), [3, 7], [2, 6])
    encoded = encode(Layout.of(config.schema), columns)
    beside, by_itself = (
        ranker.score(collate(config.schema, encoded.take(np.arange(requests)))).main_N[:2] for requests in (2, 1)
    )
    torch.testing.assert_close(beside, by_itself)


def test_time_buckets() -> None:
    """Borders are powers of two of a second, and values at a border are in the right bucket."""
    seconds = [0, 1, 2, 3, 4, 7, 8, *(2**power - 1 for power in range(4, 24)), *(2**power for power in range(4, 32))]
    expected = [max(one, 1).bit_length() - 1 for one in seconds]
    assert time_bucket(torch.tensor(seconds, dtype=torch.float32)).tolist() == expected
    assert time_bucket(-torch.tensor([0.5, 1.99, 2.0, 1e12, math.inf])).tolist() == [0, 0, 1, 31, 31]


@both
@pytest.mark.parametrize("recipe", ["everything", "paper"])
def test_under_bf16_autocast(recipe: str, backbone: str) -> None:
    """Scores and gradients of ragged requests are near those of fp32. The network returns its scores in fp32."""
    _, batch, _ = requests_and_answers(small_config(recipe), [0, 3, 7, 1, 5, 0, 2], [4, 1, 6, 2, 3, 1, 5], 3)

    def step(autocast: torch.dtype | None) -> tuple[Tensor, dict[str, Tensor]]:
        ranker = build(small_config(recipe, backbone=backbone), autocast=autocast)
        output = ranker(batch)
        assert output.answered is not None
        score_N = torch.cat([output.main.score_N, output.answered.score_N])
        assert score_N.dtype == torch.float32
        return score_N.detach(), gradients(score_N.square().sum(), ranker)

    exact_N, exact = step(None)
    score_N, found = step(torch.bfloat16)
    assert not torch.equal(score_N, exact_N)
    torch.testing.assert_close(score_N, exact_N, rtol=0.05, atol=0.05)
    flat, exact_flat = (torch.cat([gradient.flatten() for gradient in g.values()]) for g in (found, exact))
    assert flat.isfinite().all()
    # Rounding opens or closes a few of the ReLUs.
    assert (flat - exact_flat).norm() < 0.25 * exact_flat.norm()
