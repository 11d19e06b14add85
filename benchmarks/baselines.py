"""Baselines of the training step: plain PyTorch rankers on the reference workload, with one sequence per impression.

Without request-level batching each impression is a separate sequence, [user tokens, history tokens, candidate], so a
request's history is embedded and encoded once per candidate. Both baselines below have the same embeddings, tower, loss
and optimizers, and differ only in the Transformer:

- `build_full_encoder`: `nn.TransformerEncoder` over all tokens in all layers, the straightforward implementation;
- `build_equal_math`: attention that computes only what the score needs (the last layer computes only the candidate),
  so that the remaining difference to the request-level step is the repeated encoding of the history.

The block mask is that of the project's model: user and history tokens see each other, the candidate sees all of them
and itself. Tables are plain `nn.Embedding` with sparse gradients under `torch.optim.Adagrad`, the dense part is under
fused AdamW. All histories are full, so no padding mask is needed.

A step allocates and frees hundreds of MiB: with glibc's default thresholds these pages return to the kernel and fault
in again, which takes much of the CPU time. Compare runs only under the same MALLOC_TRIM_THRESHOLD_ and
MALLOC_MMAP_THRESHOLD_.

Shape suffixes:
    R  requests                  N  impressions (R * C), request after request
    C  candidates of a request   H  history entries
    U  user tokens (user id and user features)
    T  tokens of a sequence (U + H + 1); Q, K: tokens that query, tokens that are seen
    G  tags of a video           E  table dim, or dim of a head
    D  token dim                 A  attention heads
    X  experts
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Sizes of the reference workload."""

    requests: int = 128
    """Requests per step."""
    candidates: int = 12
    """Candidates per request."""
    history: int = 50
    users: int = 1_000_000
    videos: int = 1_000_000
    authors: int = 100_000
    tags: int = 5_000
    tags_per_video: int = 3
    user_features: int = 5
    """Number of user features in addition to the user id."""
    user_feature_rows: int = 10_000
    """Table size of each user feature."""
    gap_buckets: int = 32
    """Buckets of the time between a history entry and the request."""
    watch_buckets: int = 16
    """Buckets of a history entry's watch ratio."""
    table_dim: int = 32
    dim: int = 64
    heads: int = 4
    layers: int = 2
    ffn: int = 256
    experts: int = 8
    """Experts of the main tower; the baselines have no satisfaction tower."""
    expert_dim: int = 64
    """Hidden and output width of an expert."""
    gate_floor: float = 0.01
    table_lr: float = 0.05
    dense_lr: float = 1e-3

    @property
    def impressions(self) -> int:
        return self.requests * self.candidates


@dataclass(frozen=True, kw_only=True)
class ImpressionBatch:
    """One step's impressions as flat rows: each has a copy of its request's user features and history."""

    user_NU: Tensor
    """User id, then the user features (int64)."""
    history_video_NH: Tensor
    history_author_NH: Tensor
    history_gap_NH: Tensor
    """Time-gap bucket."""
    history_watch_NH: Tensor
    """Watch-ratio bucket."""
    video_N: Tensor
    author_N: Tensor
    tags_NG: Tensor
    log_duration_N: Tensor
    """log(1 + seconds), float32."""
    utility_N: Tensor
    """Engagement utility, float32."""


class Trainable(Protocol):
    """What `build_full_encoder` and `build_equal_math` return."""

    def step(self, batch: ImpressionBatch) -> float:
        """One whole training step; returns its loss."""
        ...


def synthetic_batch(workload: Workload, generator: torch.Generator) -> ImpressionBatch:
    """A batch with ids drawn uniformly and full histories. Impressions of one request share user and history."""
    r, n, h = workload.requests, workload.impressions, workload.history

    def ids(rows: int, *shape: int) -> Tensor:
        return torch.randint(rows, shape, generator=generator)

    def repeated(value_R: Tensor) -> Tensor:
        return value_R.repeat_interleave(workload.candidates, dim=0)

    features_RU = ids(workload.user_feature_rows, r, workload.user_features)
    return ImpressionBatch(
        user_NU=repeated(torch.cat([ids(workload.users, r, 1), features_RU], dim=1)),
        history_video_NH=repeated(ids(workload.videos, r, h)),
        history_author_NH=repeated(ids(workload.authors, r, h)),
        history_gap_NH=repeated(ids(workload.gap_buckets, r, h)),
        history_watch_NH=repeated(ids(workload.watch_buckets, r, h)),
        video_N=ids(workload.videos, n),
        author_N=ids(workload.authors, n),
        tags_NG=ids(workload.tags, n, workload.tags_per_video),
        log_duration_N=torch.rand(n, generator=generator) * 5.0,
        utility_N=ids(3, n).float(),
    )


def build_full_encoder(workload: Workload) -> Trainable:
    """The baseline with `nn.TransformerEncoder`; weights come from torch's global generator."""
    return Baseline(workload, FullEncoder(workload))


def build_equal_math(workload: Workload) -> Trainable:
    """The baseline whose last layer computes the candidate only; weights come from torch's global generator.

    It uses the fastest attention for the current `torch.set_float32_matmul_precision`, which must be set before.
    """
    fused = torch.get_float32_matmul_precision() == "highest"
    return Baseline(workload, EqualMathEncoder(workload, fused=fused))


class Baseline:
    """A ranker with its two optimizers."""

    def __init__(self, workload: Workload, encoder: nn.Module) -> None:
        self.candidates = workload.candidates
        self.ranker = ImpressionRanker(workload, encoder)
        tables = list(self.ranker.tables.parameters())
        dense = [p for name, p in self.ranker.named_parameters() if not name.startswith("tables.")]
        self.table_optimizer = torch.optim.Adagrad(tables, lr=workload.table_lr)
        self.dense_optimizer = torch.optim.AdamW(dense, lr=workload.dense_lr, weight_decay=0.0, fused=True)

    def step(self, batch: ImpressionBatch) -> float:
        """Clears gradients, runs forward, backward and both optimizers; returns the loss."""
        self.table_optimizer.zero_grad()
        self.dense_optimizer.zero_grad()
        loss = bpr_loss(self.ranker(batch), batch.utility_N, self.candidates)
        loss.backward()
        # Adagrad builds sparse tensors from valid gradients; torch warns unless the check is set explicitly.
        with torch.sparse.check_sparse_tensor_invariants(False):
            self.table_optimizer.step()
        self.dense_optimizer.step()
        return float(loss.detach())


def bpr_loss(score_N: Tensor, utility_N: Tensor, candidates: int) -> Tensor:
    """Mean of -log sigmoid(s_i - s_j) over the within-request pairs with utility_i > utility_j; 0 without a pair."""
    score_RC, utility_RC = score_N.view(-1, candidates), utility_N.view(-1, candidates)
    better_RCC = utility_RC[:, :, None] > utility_RC[:, None, :]
    loss_RCC = F.softplus(score_RC[:, None, :] - score_RC[:, :, None])
    return (loss_RCC * better_RCC).sum() / better_RCC.sum().clamp(min=1)


# ---------------------------------------------------------------------------------------------------------------------
# Model


class ImpressionRanker(nn.Module):
    """Embeddings, a Transformer over one sequence per impression, and the main tower."""

    def __init__(self, workload: Workload, encoder: nn.Module) -> None:
        super().__init__()
        self.tables = Tables(workload)
        self.tokens = Tokens(workload)
        self.encoder = encoder
        self.tower = Tower(workload)

    def forward(self, batch: ImpressionBatch) -> Tensor:
        """Scores (N,)."""
        token_NTD: Tensor = self.tokens(self.tables(batch), batch)
        score_N: Tensor = self.tower(self.encoder(token_NTD))
        return score_N


@dataclass(frozen=True, kw_only=True)
class Looked:
    """Rows of the large tables."""

    user_NUE: Tensor
    video_NKE: Tensor
    """History, then the candidate (K = H + 1)."""
    author_NKE: Tensor
    tags_NE: Tensor


class Tables(nn.Module):
    """The large tables, with sparse gradients. History and candidate share video and author, in one lookup each."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()

        def table(rows: int) -> nn.Embedding:
            return nn.Embedding(rows, workload.table_dim, sparse=True)

        features = [workload.user_feature_rows] * workload.user_features
        self.user = nn.ModuleList([table(rows) for rows in (workload.users, *features)])
        self.video = table(workload.videos)
        self.author = table(workload.authors)
        self.tags = nn.EmbeddingBag(workload.tags, workload.table_dim, mode="mean", sparse=True)

    def forward(self, batch: ImpressionBatch) -> Looked:
        user_NE = [table(id_N) for table, id_N in zip(self.user, batch.user_NU.unbind(1), strict=True)]
        return Looked(
            user_NUE=torch.stack(user_NE, dim=1),
            video_NKE=self.video(torch.cat([batch.history_video_NH, batch.video_N[:, None]], dim=1)),
            author_NKE=self.author(torch.cat([batch.history_author_NH, batch.author_N[:, None]], dim=1)),
            tags_NE=self.tags(batch.tags_NG),
        )


class Tokens(nn.Module):
    """Embeddings to the token sequence of each impression."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        table_dim, dim = workload.table_dim, workload.dim
        self.user = nn.Linear(table_dim, dim)
        self.user_feature = nn.Parameter(torch.randn(workload.user_features + 1, dim) * 0.02)
        # So small that dense gradients are faster.
        self.position = nn.Embedding(workload.history, table_dim)
        self.gap = nn.Embedding(workload.gap_buckets, table_dim)
        self.watch = nn.Embedding(workload.watch_buckets, table_dim)
        self.history = nn.Linear(table_dim, dim)
        self.candidate = nn.Linear(3 * table_dim + 1, dim)

    def forward(self, looked: Looked, batch: ImpressionBatch) -> Tensor:
        """Tokens (N, T, D): user features, history (oldest first), candidate."""
        user_NUD = self.user(looked.user_NUE) + self.user_feature
        side_NHE = self.position.weight + self.gap(batch.history_gap_NH) + self.watch(batch.history_watch_NH)
        history_NHD = self.history(looked.video_NKE[:, :-1] + looked.author_NKE[:, :-1] + side_NHE)
        video_NE, author_NE = looked.video_NKE[:, -1], looked.author_NKE[:, -1]
        features_NF = torch.cat([video_NE, author_NE, looked.tags_NE, batch.log_duration_N[:, None]], dim=1)
        return torch.cat([user_NUD, history_NHD, self.candidate(features_NF)[:, None]], dim=1)


class Tower(nn.Module):
    """LayerNorm, then a ReLU-routed mixture of Linear-ReLU-Linear experts, ReLU, Linear to the score.

    The experts' first layers are one product, and so are the second layers, after the gate has scaled each expert's
    hidden
    values: sum_x g_x (W_x a_x + b_x) = W [g_x a_x]_x + sum_x g_x b_x.
    """

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        experts, width = workload.experts, workload.expert_dim
        self.shape, self.gate_floor = (experts, width), workload.gate_floor
        self.norm = nn.LayerNorm(workload.dim)
        self.gate_norm = nn.LayerNorm(workload.dim)
        self.gate = nn.Linear(workload.dim, experts)
        self.hidden = nn.Linear(workload.dim, experts * width)
        self.out = nn.Linear(experts * width, width, bias=False)
        self.out_bias_XD = nn.Parameter(torch.zeros(experts, width))
        self.score = nn.Linear(width, 1)
        nn.init.normal_(self.out.weight, std=width**-0.5)  # the fan-in of one expert, not of all

    def forward(self, token_ND: Tensor) -> Tensor:
        h_ND = self.norm(token_ND)
        gate_NX = self.gate(self.gate_norm(h_ND)).relu() + self.gate_floor
        hidden_NXD = self.hidden(h_ND).relu().unflatten(1, self.shape) * gate_NX[:, :, None]
        mixed_ND = self.out(hidden_NXD.flatten(1)) + gate_NX @ self.out_bias_XD
        score_N: Tensor = self.score(mixed_ND.relu()).squeeze(1)
        return score_N


# ---------------------------------------------------------------------------------------------------------------------
# Transformers: token_NTD -> the candidate's last state (N, D). Both have the same parameter names.


def block_mask(tokens: int) -> Tensor:
    """(T, T) bool, True if a query (row) may not see a key: only the candidate, which is last, sees itself."""
    hidden_TT = torch.zeros(tokens, tokens, dtype=torch.bool)
    hidden_TT[:-1, -1] = True
    return hidden_TT


class FullEncoder(nn.Module):
    """`nn.TransformerEncoder`: every layer computes every token, though only the candidate's last state is used."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            workload.dim,
            workload.heads,
            workload.ffn,
            dropout=0.0,
            activation="relu",
            batch_first=True,
            norm_first=True,
        )
        encoder = nn.TransformerEncoder(layer, workload.layers, enable_nested_tensor=False)
        self.layers = encoder.layers  # the container adds nothing but copies of the layer
        tokens = workload.user_features + 1 + workload.history + 1
        self.register_buffer("hidden_TT", block_mask(tokens), persistent=False)

    def forward(self, token_NTD: Tensor) -> Tensor:
        for layer in self.layers:
            token_NTD = layer(token_NTD, src_mask=self.hidden_TT)
        return token_NTD[:, -1]


class EqualMathEncoder(nn.Module):
    """Custom attention: all layers except the last compute every token, and the last one computes only the candidate.

    `fused` selects `scaled_dot_product_attention` instead of an explicit softmax(Q K^T) V. Timed on one AVX-512 core
    (torch 2.13, float32, two layers, forward and backward, 1,536 impressions, malloc thresholds raised), fused against
    explicit: 0.63 against 0.64 s at matmul precision 'highest', 1.49 against 0.43 s at 'medium', at which the fused CPU
    kernel is slow. One masked call per layer is faster than a separate call for the candidate's row (0.67 s).
    """

    def __init__(self, workload: Workload, *, fused: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([EqualMathLayer(workload, fused=fused) for _ in range(workload.layers)])
        tokens = workload.user_features + 1 + workload.history + 1
        bias_TT = torch.zeros(tokens, tokens).masked_fill_(block_mask(tokens), float("-inf"))
        self.register_buffer("bias_TT", bias_TT, persistent=False)

    def forward(self, token_NTD: Tensor) -> Tensor:
        *layers, last = self.layers
        for layer in layers:
            token_NTD = layer(token_NTD, bias_TT=self.bias_TT)
        # The candidate sees all tokens, so its row of the mask is empty.
        candidate_N1D: Tensor = last(token_NTD, queries=1)
        return candidate_N1D[:, 0]


class EqualMathLayer(nn.Module):
    """A pre-norm layer with the parameters and initial values of `nn.TransformerEncoderLayer`."""

    def __init__(self, workload: Workload, *, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        dim = workload.dim
        self.heads = workload.heads
        self.norm1 = nn.LayerNorm(dim)
        self.self_attn = nn.MultiheadAttention(dim, workload.heads, batch_first=True)  # holds weights, never called
        self.norm2 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, workload.ffn)
        self.linear2 = nn.Linear(workload.ffn, dim)

    def forward(self, token_NTD: Tensor, *, queries: int | None = None, bias_TT: Tensor | None = None) -> Tensor:
        """The layer's output for the last `queries` tokens (None: for all), (N, Q, D). Keys and values: all tokens."""
        norm_NTD = self.norm1(token_NTD)
        weight, bias = self.self_attn.in_proj_weight, self.self_attn.in_proj_bias
        if queries is None:
            query_NQD, key_NTD, value_NTD = F.linear(norm_NTD, weight, bias).chunk(3, dim=-1)
        else:
            dim = token_NTD.shape[-1]
            token_NTD = token_NTD[:, -queries:]
            query_NQD = F.linear(norm_NTD[:, -queries:], weight[:dim], bias[:dim])
            key_NTD, value_NTD = F.linear(norm_NTD, weight[dim:], bias[dim:]).chunk(2, dim=-1)
        mixed_NAQE = self._attend(self._split(query_NQD), self._split(key_NTD), self._split(value_NTD), bias_TT)
        token_NQD: Tensor = token_NTD + self.self_attn.out_proj(mixed_NAQE.transpose(1, 2).flatten(2))
        ffn_NQD: Tensor = self.linear2(self.linear1(self.norm2(token_NQD)).relu())
        return token_NQD + ffn_NQD

    def _attend(self, query_NAQE: Tensor, key_NAKE: Tensor, value_NAKE: Tensor, bias_QK: Tensor | None) -> Tensor:
        if self.fused:
            return F.scaled_dot_product_attention(query_NAQE, key_NAKE, value_NAKE, attn_mask=bias_QK)
        logit_NAQK = (query_NAQE * query_NAQE.shape[-1] ** -0.5) @ key_NAKE.transpose(2, 3)
        if bias_QK is not None:
            logit_NAQK = logit_NAQK + bias_QK
        mixed_NAQE: Tensor = logit_NAQK.softmax(dim=-1) @ value_NAKE
        return mixed_NAQE

    def _split(self, x_NTD: Tensor) -> Tensor:
        """(N, T, D) to (N, A, T, D / A)."""
        return x_NTD.view(*x_NTD.shape[:-1], self.heads, -1).transpose(1, 2)
