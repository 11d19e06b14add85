"""HSTU, the Hierarchical Sequential Transduction Unit (arXiv 2402.17152, section 3), at request level.

A block attends without softmax. A query adds up the values of the tokens that it sees, each with the weight
SiLU(q k / sqrt(E) + b), and divides by their number. The bias b depends on the relative position and on the relative
time of query and key. The result is normalised and multiplied by a gate that is computed from the query's token; the
gate replaces the feed-forward net of the Transformer.

Block mask: request tokens see request tokens; a candidate sees the request tokens and itself, never another candidate.
So request tokens are computed once, and the last block computes candidate queries only. Values and gradients equal
those of an impression-level HSTU under the same mask.

What differs from the paper: request tokens see each other in both directions, so the position bias keeps the sign of
the distance; the sum is divided by the number of visible tokens, not by a constant, so that padding changes nothing;
logits are scaled by 1 / sqrt(E), as in the Transformer.

Legend: R rows of tokens, each of one request or of several, S request tokens, U user tokens, L history tokens, C
candidates, T = S + C, V queries whose pairs differ, D token width, G heads, E = D / G, P relative positions,
B time buckets, X = P * B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easq_rec.config import HSTU, Model
from easq_rec.model.initial import Law, Normal
from easq_rec.model.lora import AdaptedLinear, Stream, StreamNorm, adapter
from easq_rec.model.tokens import Tokens

TIME_BUCKETS = 32
"""Bucket i holds distances of 2^i to 2^(i + 1) seconds. The first one starts at 0, the last one (68 years) is open."""


class HSTUBackbone(nn.Module):
    """`backbone.layers` blocks.

    Args:
        max_history: longest history; larger relative positions share one bias.
    """

    def __init__(self, config: Model, backbone: HSTU, max_history: int) -> None:
        super().__init__()
        self.max_history = max_history
        self.blocks = nn.ModuleList(HSTUBlock(config, backbone, max_history) for _ in range(backbone.layers))

    def forward(self, tokens: Tokens, stream: Stream) -> Tensor:
        """Representations of the candidates, (R, C, D)."""
        x_RTD, distances = tokens.x_RTD, Distances.of(tokens, self.max_history)
        for index, block in enumerate(self.blocks):
            x_RTD = block(x_RTD, distances, stream, index == len(self.blocks) - 1)
        return x_RTD


class HSTUBlock(nn.Module):
    """Gated pointwise attention, pre-norm and residual.

    The paper computes gate, value, query and key by one linear. Here they are three, since the last block needs queries
    and gates of candidates only.
    """

    def __init__(self, config: Model, backbone: HSTU, max_history: int) -> None:
        super().__init__()
        self.heads = backbone.heads
        dim = config.dim
        self.attention_norm = StreamNorm(dim)
        self.query = AdaptedLinear(dim, dim, adapter(config, "query"))
        self.gate = AdaptedLinear(dim, dim, adapter(config, "gate"))
        self.key_value = AdaptedLinear(dim, 2 * dim, adapter(config, "key_value"))
        self.position_P = nn.Parameter(torch.empty(2 * max_history + 2))
        self.time_B = nn.Parameter(torch.empty(TIME_BUCKETS))
        self.mixed_norm = StreamNorm(dim)
        self.attention_out = AdaptedLinear(dim, dim, adapter(config, "attention_out"))

    def laws(self) -> Mapping[str, Law]:
        return {"position_P": Normal(0.02), "time_B": Normal(0.02)}

    def forward(self, x_RTD: Tensor, distances: Distances, stream: Stream, candidates_only: bool) -> Tensor:
        """(R, T, D) to (R, T, D), or to (R, C, D) with `candidates_only`."""
        n_RTD = self.attention_norm(x_RTD, stream)
        key_RTD, value_RTD = F.silu(self.key_value(n_RTD, stream)).chunk(2, dim=-1)
        if candidates_only:
            first = distances.pair_RVS.shape[-1]
            x_RTD, n_RTD = x_RTD[:, first:], n_RTD[:, first:]
        query_RTD, gate_RTD = F.silu(self.query(n_RTD, stream)), F.silu(self.gate(n_RTD, stream))
        bias_X = (self.position_P[:, None] + self.time_B).flatten()
        if stream is Stream.SATISFACTION:
            bias_X = bias_X.detach()
        mixed_RTD = attend_pointwise(query_RTD, key_RTD, value_RTD, bias_X, distances, self.heads)
        gated_RTD = self.mixed_norm(mixed_RTD.to(x_RTD.dtype), stream) * gate_RTD
        return x_RTD + self.attention_out(gated_RTD, stream)


@dataclass(frozen=True, kw_only=True)
class Distances:
    """Which bias each pair of query and key has, and which keys a query sees. The same for all blocks and heads.

    A pair is one index into the biases (P, B) as a flat list: relative position * B + time bucket. If each request has
    a row, all its candidates are at the same distance from its tokens, and share one row of pairs.
    """

    pair_RVS: Tensor
    """Pairs of a query and a request token, int64. V queries: the request tokens, then one for all candidates of the
    row, or one for each."""
    own_pair: int
    """The pair of a token with itself."""
    mask_RVS: Tensor | None
    """True where a query sees a request token, with V as above or 1; None: all see all."""
    count_RV1: Tensor
    """Number of request tokens that a query sees, int64; V as in `mask_RVS`."""

    @classmethod
    def of(cls, tokens: Tokens, max_history: int) -> Distances:
        """The distances between tokens.

        The candidate has position 0 and age 0, the newest history entry has position 1. Pairs with a user token have
        neither a relative position nor a relative time; they share the last position.
        """
        histories, users, mask_RVS = tokens.histories, tokens.users, tokens.mask()
        length_R = histories.offsets_R1.diff()
        nowhere = (2 * max_history + 1) * TIME_BUCKETS
        if tokens.packing is None:
            position_RL = length_R[:, None] - torch.arange(histories.longest, device=length_R.device)
            age_RL = histories.pad(tokens.age_H[:, None]).squeeze(-1)
            # Queries are the history entries, then the candidate.
            pair_RQL = _pairs(F.pad(position_RL, (0, 1)), position_RL, F.pad(age_RL, (0, 1)), age_RL, max_history)
            pair_RVS = F.pad(pair_RQL, (users, 0, users, 0), value=nowhere)
            count_RV1 = (length_R + users)[:, None, None]
        else:
            assert mask_RVS is not None
            newest_H = histories.spread(histories.offsets_R1[1:])
            position_H = newest_H - torch.arange(histories.total, device=length_R.device)
            position_RT = tokens.spread(position_H)
            age_RT = tokens.spread(tokens.age_H)
            user_RT = tokens.is_user()
            requests = tokens.requests
            pair_RVS = _pairs(position_RT, position_RT[:, :requests], age_RT, age_RT[:, :requests], max_history)
            pair_RVS = pair_RVS.masked_fill_(user_RT[:, :, None] | user_RT[:, None, :requests], nowhere)
            count_RV1 = mask_RVS.sum(-1, keepdim=True)
        return cls(pair_RVS=pair_RVS, own_pair=max_history * TIME_BUCKETS, mask_RVS=mask_RVS, count_RV1=count_RV1)


def _pairs(query_RV: Tensor, key_RS: Tensor, query_age_RV: Tensor, key_age_RS: Tensor, max_history: int) -> Tensor:
    """Pairs of queries and keys by their positions and ages, (R, V, S)."""
    steps_RVS = query_RV[:, :, None] - key_RS[:, None]
    seconds_RVS = query_age_RV[:, :, None] - key_age_RS[:, None]
    return (steps_RVS.clamp(-max_history, max_history) + max_history) * TIME_BUCKETS + time_bucket(seconds_RVS)


def time_bucket(seconds: Tensor) -> Tensor:
    """floor(log2(|seconds|)) of float32 distances, 0 below one second and at most B - 1; int64.

    The exponent of the floating-point number is exact. A logarithm may differ between CPUs at powers of two.
    """
    exponent: Tensor = torch.frexp(seconds.abs().clamp(1, 2**TIME_BUCKETS - 1)).exponent
    return (exponent - 1).clamp(max=TIME_BUCKETS - 1).long()


def attend_pointwise(
    query_RQD: Tensor, key_RTD: Tensor, value_RTD: Tensor, bias_X: Tensor, distances: Distances, heads: int
) -> Tensor:
    """Multi-head attention with the weights SiLU(logit) / (number of visible tokens), under the block mask.

    Args:
        query_RQD: queries of all T tokens, or only of the candidates. Candidates come last.
        key_RTD: keys of all tokens.
        value_RTD: values of all tokens.
        bias_X: biases by the pairs of `distances`.
        heads: G.

    Returns:
        Mixed values, (R, Q, D).
    """
    requests = distances.pair_RVS.shape[-1]
    first = query_RQD.shape[1] - (key_RTD.shape[1] - requests)
    mask_RVS, count_R1V1 = distances.mask_RVS, distances.count_RV1[:, None]
    request_value, own_value = value_RTD[:, :requests], value_RTD[:, requests:]
    if mask_RVS is not None and mask_RVS.shape[1] == 1:
        # Without softmax, a value of zero is all that a mask needs.
        request_value, mask_RVS = request_value * mask_RVS.transpose(1, 2), None
    query = _heads(query_RQD, heads) * (query_RQD.shape[-1] // heads) ** -0.5
    key, own_key = _heads(key_RTD[:, :requests], heads), _heads(key_RTD[:, requests:], heads)
    value, own_value = _heads(request_value, heads), _heads(own_value, heads)

    def from_requests(query_RGQE: Tensor, queries: slice) -> Tensor:
        """Mixed values of request tokens, not yet divided. `queries`: those of `distances`."""
        pair_RVS = distances.pair_RVS[:, queries]
        if torch.compiler.is_exporting():
            bias_R1VS = bias_X[pair_RVS][:, None]
        else:
            # index_select has a deterministic and fast gradient on CPU.
            bias_R1VS = bias_X.index_select(0, pair_RVS.flatten()).view(pair_RVS.shape)[:, None]
        weight_RGQS = F.silu(query_RGQE @ key.transpose(2, 3) + bias_R1VS)
        if mask_RVS is not None:
            weight_RGQS = weight_RGQS * mask_RVS[:, None, queries]
        return weight_RGQS.to(value.dtype) @ value

    def counts(queries: slice) -> Tensor:
        return count_R1V1[:, :, queries] if count_R1V1.shape[2] > 1 else count_R1V1

    candidate, of_candidates = query[:, :, first:], slice(requests, None)
    own_RGC1 = F.silu((candidate * own_key).sum(-1, keepdim=True) + bias_X[distances.own_pair]).to(value.dtype)
    mixed = (from_requests(candidate, of_candidates) + own_RGC1 * own_value) / (counts(of_candidates) + 1)
    if first:
        of_requests = slice(requests)
        mixed = torch.cat([from_requests(query[:, :, :first], of_requests) / counts(of_requests), mixed], dim=2)
    return mixed.transpose(1, 2).reshape(query_RQD.shape)


def _heads(x_RTD: Tensor, heads: int) -> Tensor:
    """(R, T, D) to (R, G, T, E)."""
    return x_RTD.unflatten(-1, (heads, -1)).transpose(1, 2)
