"""The request-level Transformer: one pass per request, however many candidates it has.

Block mask: request tokens see request tokens; a candidate sees the request tokens and itself, never another candidate.
So request tokens are computed once, candidates are extra queries with one extra key, and the last layer computes
candidate queries only. Values and gradients equal those of an impression-level Transformer under the same mask.

Legend: R rows of tokens (one per request, or shared by several), S request tokens, C candidates, T = S + C, V queries
with different masks (T, or 1 if all queries of a row have the same), D token width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from easq_rec.config import Model, Transformer
from easq_rec.kernels.attention import attend
from easq_rec.model.lora import AdaptedLinear, Stream, StreamNorm, adapter, feed_forward
from easq_rec.model.tokens import Tokens


class TransformerBackbone(nn.Module):
    """Pre-norm Transformer of `backbone.layers` blocks."""

    def __init__(self, config: Model, backbone: Transformer) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(config, backbone) for _ in range(backbone.layers))

    def forward(self, tokens: Tokens, stream: Stream) -> Tensor:
        """Representations of the candidates, (R, C, D)."""
        x_RTD, mask_RVS, bias_R1VS = tokens.x_RTD, tokens.mask(), None
        if mask_RVS is not None:
            bias_R1VS = torch.zeros_like(mask_RVS, dtype=x_RTD.dtype).masked_fill_(~mask_RVS, -math.inf)[:, None]
        for index, block in enumerate(self.blocks):
            x_RTD = block(x_RTD, tokens.requests, bias_R1VS, stream, index == len(self.blocks) - 1)
        return x_RTD


class TransformerBlock(nn.Module):
    """Attention and a ReLU feed-forward net, both pre-norm and residual."""

    def __init__(self, config: Model, backbone: Transformer) -> None:
        super().__init__()
        self.heads = backbone.heads
        dim, ffn = config.dim, backbone.ffn
        self.attention_norm = StreamNorm(dim)
        self.query = AdaptedLinear(dim, dim, adapter(config, "query"))
        self.key_value = AdaptedLinear(dim, 2 * dim, adapter(config, "key_value"))
        self.attention_out = AdaptedLinear(dim, dim, adapter(config, "attention_out"))
        self.ffn_norm = StreamNorm(dim)
        self.ffn_in = AdaptedLinear(dim, ffn, adapter(config, "ffn_in"))
        self.ffn_out = AdaptedLinear(ffn, dim, adapter(config, "ffn_out"))

    def forward(
        self, x_RTD: Tensor, requests: int, bias_R1VS: Tensor | None, stream: Stream, candidates_only: bool
    ) -> Tensor:
        """(R, T, D) to (R, T, D), or to (R, C, D) with `candidates_only`."""
        n_RTD = self.attention_norm(x_RTD, stream)
        key_RTD, value_RTD = self.key_value(n_RTD, stream).chunk(2, dim=-1)
        if candidates_only:
            x_RTD, n_RTD = x_RTD[:, requests:], n_RTD[:, requests:]
            if bias_R1VS is not None and bias_R1VS.shape[2] > 1:
                bias_R1VS = bias_R1VS[:, :, requests:]
        query_RTD = self.query(n_RTD, stream)
        mixed = attend(query_RTD, key_RTD, value_RTD, requests, bias_R1VS, self.heads)
        x_RTD = x_RTD + self.attention_out(mixed, stream)
        return x_RTD + feed_forward(self.ffn_in, self.ffn_out, self.ffn_norm(x_RTD, stream), stream)
