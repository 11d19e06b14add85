"""From embeddings to the tokens that a backbone reads.

Legend: R requests, U user features, H history entries, L the longest history, S = U + L request tokens, C candidates,
T = S + C, E table dim, D token width, F numbers of float features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easq_rec.config import Model
from easq_rec.config.schema import FeatureSchema
from easq_rec.data.batch import RequestBatch
from easq_rec.kernels.jagged import Lists
from easq_rec.kernels.packing import Packing
from easq_rec.model.floats import EncodedFloats, FloatEncoder
from easq_rec.model.initial import Law, Normal
from easq_rec.model.lora import AdaptedLinear, Stream, adapter

RATIO_BUCKETS = 16
AGE_BUCKETS = 56
"""Half-octaves from a second to 2^28 s, which is 8.5 years."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tokens of R requests in rows, and what a backbone must know of them.

    Each request has a row, as long as the longest request; or short requests share rows (`kernels.packing`).
    """

    x_RTD: Tensor
    """Rows of S request tokens (user tokens, then history tokens, oldest first), then C candidate tokens."""
    users: int
    """U, the number of user tokens per request; at least one."""
    histories: Lists
    """How the history entries are distributed over requests."""
    candidates: Lists
    """How the candidates are distributed over requests."""
    age_H: Tensor
    """Seconds from the history entry to the request, float32. Candidates have age 0, user tokens have none."""
    packing: Packing | None
    """Where the tokens of requests that share rows lie; None: each request has a row."""

    @staticmethod
    def of(
        user_RUD: Tensor,
        history_HD: Tensor,
        candidate_ND: Tensor,
        histories: Lists,
        candidates: Lists,
        age_H: Tensor,
    ) -> Tokens:
        """Puts the tokens of requests into rows, in the form that takes less room."""
        users = user_RUD.shape[1]
        packing = Packing.of(users, histories, candidates)
        if packing is None:
            x_RTD = torch.cat([user_RUD, histories.pad(history_HD), candidates.pad(candidate_ND)], dim=1)
        else:
            x_RTD = packing.pack(torch.cat([user_RUD.flatten(0, 1), history_HD, candidate_ND]))
        return Tokens(
            x_RTD=x_RTD, users=users, histories=histories, candidates=candidates, age_H=age_H, packing=packing
        )

    @property
    def requests(self) -> int:
        """S, the number of request tokens of a row, padding included."""
        return self.users + self.histories.longest if self.packing is None else self.packing.requests

    def mask(self) -> Tensor | None:
        """Which request tokens a query sees: (R, 1, S) if each request has a row, (R, T, S) if requests share rows;
        None: all. Every query sees at least one."""
        if self.packing is not None:
            return self.packing.visible()
        if self.histories.full:
            return None
        users = torch.ones(self.histories.count, self.users, dtype=torch.bool, device=self.x_RTD.device)
        return torch.cat([users, self.histories.mask()], dim=1)[:, None]

    def spread(self, value_H: Tensor) -> Tensor:
        """A number of each history entry where requests share rows, 0 at other slots, (H,) to (R, T)."""
        assert self.packing is not None
        before, after = self.histories.count * self.users, self.candidates.total
        return F.pad(value_H, (before, after))[self.packing.token_PT].view(self.packing.request_PT.shape)

    def is_user(self) -> Tensor:
        """True at user tokens where requests share rows, (R, T)."""
        assert self.packing is not None
        return (self.packing.token_PT < self.histories.count * self.users).view(self.packing.request_PT.shape)

    def flatten(self, h_RCD: Tensor) -> Tensor:
        """What a backbone computed for candidates, without padding, (R, C, D) to (N, D)."""
        return self.candidates.flatten(h_RCD) if self.packing is None else self.packing.flatten(h_RCD)


class Tokenizer(nn.Module):
    """User tokens, one token per history entry and one per candidate.

    With `model.user_tokens="each"` each id feature of the user has a token, and all its floats together have one. With
    "one", one token holds all features of the user.
    """

    def __init__(self, schema: FeatureSchema, config: Model, max_history: int) -> None:
        super().__init__()
        dims = {table.name: table.dim for table in schema.tables}
        self.user_dim = dims[str(schema.user_ids[0].table)]
        self.history_dim = history_dim = dims[str(schema.history_ids[0].table)]
        self.user_numbers = FloatEncoder(schema.user_floats, config.quantiles)
        self.history_numbers = FloatEncoder(schema.history_floats, config.quantiles)
        self.candidate_numbers = FloatEncoder(schema.floats, config.quantiles)
        candidate_dim = sum(dims[str(f.table)] for f in schema.candidate if f.table) + self.candidate_numbers.width
        self.user_width = len(schema.user_ids) * self.user_dim
        self.one_user_token = config.user_tokens == "one"
        self.user_float: AdaptedLinear | None = None
        if self.one_user_token:
            user_tokens, user_dim = 1, self.user_width + self.user_numbers.width
        else:
            user_tokens, user_dim = len(schema.user_ids), self.user_dim
            if self.user_numbers.width:
                user_tokens += 1
                self.user_float = AdaptedLinear(self.user_numbers.width, config.dim, adapter(config, "input"))
        self.user = AdaptedLinear(user_dim, config.dim, adapter(config, "input"))
        self.user_feature_UD = nn.Parameter(torch.empty(user_tokens, config.dim))
        self.history_float: AdaptedLinear | None = None
        if self.history_numbers.width:
            self.history_float = AdaptedLinear(self.history_numbers.width, history_dim, adapter(config, "input"))
        self.history = AdaptedLinear(history_dim, config.dim, adapter(config, "input"))
        # Applied directly to the concatenated embeddings of a candidate and its float features.
        self.candidate = AdaptedLinear(candidate_dim, config.dim, adapter(config, "input"))
        # One small table for position, age and watch ratio: three rows of it are summed in one lookup.
        self.max_history = max_history
        self.context = nn.EmbeddingBag(max_history + AGE_BUCKETS + RATIO_BUCKETS, history_dim, mode="sum")

    def laws(self) -> Mapping[str, Law]:
        return {"user_feature_UD": Normal(0.02), "context.weight": Normal(0.02)}

    def numbers(self, batch: RequestBatch) -> EncodedFloats:
        """The float features of a batch as the network reads them."""
        return EncodedFloats(
            user_RF=self.user_numbers(batch.user_float_RF),
            history_HF=self.history_numbers(batch.history_float_HF),
            candidate_NF=self.candidate_numbers(batch.float_NF),
        )

    def users(self, embedded_RM: Tensor, stream: Stream) -> Tensor:
        """Embeddings side by side, then floats, to (R, U, D)."""
        feature_UD = self.user_feature_UD if stream is Stream.MAIN else self.user_feature_UD.detach()
        if self.one_user_token:
            return self.user(embedded_RM, stream)[:, None] + feature_UD
        if self.user_float is None:
            return self.user(embedded_RM.unflatten(-1, (-1, self.user_dim)), stream) + feature_UD
        embedded_RM, float_RF = embedded_RM.tensor_split([self.user_width], dim=-1)
        token_RUD = self.user(embedded_RM.unflatten(-1, (-1, self.user_dim)), stream)
        return torch.cat([token_RUD, self.user_float(float_RF, stream)[:, None]], dim=1) + feature_UD

    def context_rows(self, recency_H: Tensor, age_H: Tensor, ratio_H: Tensor) -> Tensor:
        """Rows of the context table for each history entry, (H, 3).

        Args:
            recency_H: 0 for the newest entry of its request, counting backwards.
            age_H: seconds from the entry to the request.
            ratio_H: watch ratio.
        """
        # Clamped first: the integer of a number beyond 2^63 is anything.
        ratio = (ratio_H * 8).clamp(0, RATIO_BUCKETS - 1).long()
        return torch.stack(
            [
                recency_H.clamp(max=self.max_history - 1),
                age_bucket(age_H) + self.max_history,
                ratio + self.max_history + AGE_BUCKETS,
            ],
            dim=1,
        )

    def histories(self, embedded_HG: Tensor, context_H3: Tensor, stream: Stream) -> Tensor:
        """Embeddings summed over the ids of each entry, then its floats, with `context_rows`, to (H, D)."""
        weight = self.context.weight if stream is Stream.MAIN else self.context.weight.detach()
        context_HE = nn.functional.embedding_bag(context_H3, weight, mode="sum")
        if self.history_float is None:
            return self.history(embedded_HG + context_HE, stream)
        embedded_HE, float_HF = embedded_HG.tensor_split([self.history_dim], dim=-1)
        return self.history(embedded_HE + context_HE + self.history_float(float_HF, stream), stream)


def age_bucket(age_H: Tensor) -> Tensor:
    """2 log2(1 + age), rounded down, for ages in seconds; int64. The last bucket takes all that are older.

    It compares the exponent and the mantissa of the float, which is exact on every CPU; a logarithm is not.
    """
    mantissa_H, exponent_H = torch.frexp(1 + age_H.clamp(min=0))
    bucket_H = 2 * (exponent_H - 1) + (mantissa_H >= math.sqrt(0.5))
    return bucket_H.long().clamp_(max=AGE_BUCKETS - 1)
