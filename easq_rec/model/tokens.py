"""From embeddings to the tokens that a backbone reads.

Legend: R requests, U user features, H history entries, L the longest history, S = U + L request tokens, C candidates,
T = S + C, E table dim, D token width, F numbers of float features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from easq_rec.config import Model
from easq_rec.config.schema import FeatureSchema, numbers
from easq_rec.kernels.jagged import Lists
from easq_rec.model.initial import Law, Normal
from easq_rec.model.lora import AdaptedLinear, Stream, adapter

RATIO_BUCKETS = 16
AGE_BUCKETS = 32


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tokens of R requests, padded, and what a backbone must know of them."""

    x_RTD: Tensor
    """User tokens, history tokens (oldest first), then candidate tokens."""
    users: int
    """U, the number of user tokens per request; at least one."""
    histories: Lists
    """How the history entries are distributed over requests."""
    age_H: Tensor
    """Seconds from the history entry to the request, float32. Candidates have age 0, user tokens have none."""

    @property
    def requests(self) -> int:
        """S, the number of request tokens per request, padding included."""
        return self.users + self.histories.longest

    def mask(self) -> Tensor | None:
        """(R, S), True at real request tokens; None: no padding. The first one of a request is always real."""
        if self.histories.full:
            return None
        users = torch.ones(self.histories.count, self.users, dtype=torch.bool, device=self.x_RTD.device)
        return torch.cat([users, self.histories.mask()], dim=1)


class Tokenizer(nn.Module):
    """One token per user id feature, one for all floats of the user, one per history entry and one per candidate."""

    def __init__(self, schema: FeatureSchema, config: Model, max_history: int) -> None:
        super().__init__()
        dims = {table.name: table.dim for table in schema.tables}
        self.user_dim = dims[str(schema.user_ids[0].table)]
        self.history_dim = history_dim = dims[str(schema.history_ids[0].table)]
        candidate_dim = sum(dims[str(f.table)] for f in schema.candidate if f.table) + numbers(schema.floats)
        self.user = AdaptedLinear(self.user_dim, config.dim, adapter(config, "input"))
        user_floats, history_floats = numbers(schema.user_floats), numbers(schema.history_floats)
        self.user_float: AdaptedLinear | None = None
        if user_floats:
            self.user_float = AdaptedLinear(user_floats, config.dim, adapter(config, "input"))
        self.user_width = len(schema.user_ids) * self.user_dim
        user_tokens = len(schema.user_ids) + (1 if user_floats else 0)
        self.user_feature_UD = nn.Parameter(torch.empty(user_tokens, config.dim))
        self.history_float: AdaptedLinear | None = None
        if history_floats:
            self.history_float = AdaptedLinear(history_floats, history_dim, adapter(config, "input"))
        self.history = AdaptedLinear(history_dim, config.dim, adapter(config, "input"))
        # Applied directly to the concatenated embeddings of a candidate and its float features.
        self.candidate = AdaptedLinear(candidate_dim, config.dim, adapter(config, "input"))
        # One small table for position, age and watch ratio: three rows of it are summed in one lookup.
        self.max_history = max_history
        self.context = nn.EmbeddingBag(max_history + AGE_BUCKETS + RATIO_BUCKETS, history_dim, mode="sum")

    def laws(self) -> Mapping[str, Law]:
        return {"user_feature_UD": Normal(0.02), "context.weight": Normal(0.02)}

    def users(self, embedded_RM: Tensor, stream: Stream) -> Tensor:
        """Embeddings side by side, then floats, to (R, U, D)."""
        feature_UD = self.user_feature_UD if stream is Stream.MAIN else self.user_feature_UD.detach()
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
        # Ages range from seconds to years: half-octave buckets up to 2^16 s (18 h), then one bucket.
        age = (2 * torch.log2(1 + age_H.clamp(min=0))).long().clamp_(max=AGE_BUCKETS - 1)
        ratio = (ratio_H * 8).long().clamp_(0, RATIO_BUCKETS - 1)
        return torch.stack(
            [
                recency_H.clamp(max=self.max_history - 1),
                age + self.max_history,
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
