"""Attention under the block mask: request tokens see request tokens, a candidate sees request tokens and itself.

A candidate's softmax runs over S request keys and the candidate's own key. It can be written as a gate. Let L be the
log-sum-exp of the candidate's request logits and o the logit of its own key. Its own value then has the weight
a = sigmoid(o - L), and the softmax mixture over the request tokens has the weight 1 - a. So all queries share one
product with the request keys.

Legend: R rows, each of one request or of several (`kernels.packing`), S request tokens, C candidates, T = S + C,
Q queries (T, or only C), V different masks of the queries (Q or 1), D width, G heads, E = D / G.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from easq_rec.upstream.torch_operators import softmax_backward

PACKED_LOGITS = 1 << 19
"""Largest number of logits of all heads for which the heads are computed together: 2 MiB, about a core's cache."""


def attend(
    query_RQD: Tensor, key_RTD: Tensor, value_RTD: Tensor, requests: int, bias_R1VS: Tensor | None, heads: int
) -> Tensor:
    """Multi-head attention under the block mask. Chooses the form for the device and the size.

    Args:
        query_RQD: queries of all T tokens, or only of the candidates. Candidates come last.
        key_RTD: keys of all tokens.
        value_RTD: values of all tokens.
        requests: S, the number of request tokens, padding included.
        bias_R1VS: 0 where a query sees a request token, else -inf. V is Q, or 1: the same for all queries of a row.
            Every query must see one. None: all see all.
        heads: G.

    Returns:
        Mixed values, (R, Q, D).
    """
    if query_RQD.device.type == "cpu" and query_RQD.dtype == torch.float32 and not torch.compiler.is_exporting():
        logits = heads * query_RQD.shape[0] * query_RQD.shape[1] * key_RTD.shape[1]
        function = _PackedAttention if logits <= PACKED_LOGITS else _HostAttention
        mixed: Tensor = function.apply(query_RQD, key_RTD, value_RTD, requests, bias_R1VS, heads)
        return mixed
    return attend_reference(query_RQD, key_RTD, value_RTD, requests, bias_R1VS, heads)


def attend_reference(
    query_RQD: Tensor, key_RTD: Tensor, value_RTD: Tensor, requests: int, bias_R1VS: Tensor | None, heads: int
) -> Tensor:
    """`attend` in plain operators. It runs on GPUs, in low precision and in exported programs, and tests hold the CPU
    forms equal to it."""
    key, value = _heads(key_RTD, heads), _heads(value_RTD, heads)
    query = _heads(query_RQD, heads) * (query_RQD.shape[-1] // heads) ** -0.5
    first = query.shape[2] - (key.shape[2] - requests)
    logit_RGQS = query @ key[:, :, :requests].transpose(2, 3)
    if bias_R1VS is not None:
        logit_RGQS = logit_RGQS + bias_R1VS
    own_RGC1 = (query[:, :, first:] * key[:, :, requests:]).sum(-1, keepdim=True)
    share_RGCS1 = torch.cat([logit_RGQS[:, :, first:], own_RGC1], dim=-1).softmax(-1).to(value.dtype)
    request_value = value[:, :, :requests]
    mixed = share_RGCS1[..., :-1] @ request_value + share_RGCS1[..., -1:] * value[:, :, requests:]
    if first:
        share_RGSS = logit_RGQS[:, :, :first].softmax(-1).to(value.dtype)
        mixed = torch.cat([share_RGSS @ request_value, mixed], dim=2)
    return mixed.transpose(1, 2).reshape(query_RQD.shape)


class _HostAttention(torch.autograd.Function):
    """`attend` with explicit gradients, head by head.

    On CPU the plain form spends most of its time on copying heads for the batched products and on the extra column of
    the candidate's own key. Here a head is a strided view, which needs no copy, and the gate replaces the column.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, requests: int, bias: Tensor | None, heads: int
    ) -> Tensor:
        scale = (query.shape[-1] // heads) ** -0.5
        first = query.shape[1] - (key.shape[1] - requests)
        query = query * scale
        share = query.new_empty(heads, *query.shape[:2], requests)
        peak_GRC = query.new_empty(heads, query.shape[0], query.shape[1] - first)
        mixed = torch.empty_like(query)
        # One head at a time: its logits stay in the cache until the softmax has read them.
        logit_RQS = torch.empty_like(share[0])
        of_candidates = logit_RQS[:, first:]
        parts = (*(_split(x, heads) for x in (query, key[:, :requests], value[:, :requests], mixed)), share, peak_GRC)
        for q, k, v, out, p, peak in zip(*parts, strict=True):
            torch.bmm(q, k.transpose(1, 2), out=logit_RQS)
            if bias is not None:
                logit_RQS += bias[:, 0]
            torch.amax(of_candidates, -1, out=peak)
            torch.softmax(logit_RQS, -1, out=p)
            out.copy_(torch.bmm(p, v))
        # log-sum-exp of the request logits: the largest logit minus the logarithm of its share, which is at least 1 /
        # S.
        total_GRC = peak_GRC.sub_(share[:, :, first:].amax(-1).log_())
        own_RCG = _unflatten(query[:, first:] * key[:, requests:], heads).sum(-1)
        gate_RCG1 = own_RCG.sub_(total_GRC.permute(1, 2, 0)).sigmoid_().unsqueeze_(-1)
        mixed_RCGE = _unflatten(mixed[:, first:], heads)
        from_requests = mixed_RCGE.clone()
        mixed_RCGE.lerp_(_unflatten(value[:, requests:], heads), gate_RCG1)
        ctx.save_for_backward(query, key, value, share, gate_RCG1, from_requests)
        ctx.requests, ctx.heads, ctx.first, ctx.scale = requests, heads, first, scale
        return mixed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        query, key, value, share, gate_RCG1, from_requests = ctx.saved_tensors
        requests, heads, first = ctx.requests, ctx.heads, ctx.first
        grad = grads[0].clone()
        grad_query, grad_key, grad_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        # The gate depends on the candidate's own logit and, with the opposite sign, on the requests' log-sum-exp.
        out_RCGE = _unflatten(grad[:, first:], heads)
        towards = (_unflatten(value[:, requests:], heads) - from_requests).mul_(out_RCGE).sum(-1, keepdim=True)
        grad_own_RCG1 = towards.mul_(gate_RCG1).mul_(1 - gate_RCG1)
        grad_own_value = out_RCGE * gate_RCG1
        grad_value[:, requests:] = grad_own_value.flatten(-2)
        out_RCGE -= grad_own_value
        grad_key[:, requests:] = (_unflatten(query[:, first:], heads) * grad_own_RCG1).flatten(-2)
        # The mixture over the request tokens, one head at a time.
        of_requests = (key[:, :requests], value[:, :requests], grad_key[:, :requests], grad_value[:, :requests])
        parts = (
            *(_split(tensor, heads) for tensor in (query, grad, grad_query, *of_requests)),
            *(tensor.unbind() for tensor in (share, share[:, :, first:], grad_own_RCG1.permute(2, 0, 1, 3))),
        )
        for q, out, dq, k, v, dk, dv, p, p_candidates, grad_own in zip(*parts, strict=True):
            dv.copy_(torch.bmm(p.transpose(1, 2), out))
            logit = softmax_backward(torch.bmm(out, v.transpose(1, 2)), p)
            logit[:, first:].addcmul_(p_candidates, grad_own, value=-1)
            dq.copy_(torch.bmm(logit, k))
            dk.copy_(torch.bmm(logit.transpose(1, 2), q))
        _unflatten(grad_query[:, first:], heads).addcmul_(_unflatten(key[:, requests:], heads), grad_own_RCG1)
        return grad_query.mul_(ctx.scale), grad_key, grad_value, None, None, None


class _PackedAttention(torch.autograd.Function):
    """`attend` for few logits: all heads at once under a mask, with explicit gradients.

    For few logits the launches of operators take more time than the arithmetic. This form launches a fifth as many.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, requests: int, bias: Tensor | None, heads: int
    ) -> Tensor:
        ctx.heads, ctx.scale = heads, (query.shape[-1] // heads) ** -0.5
        q, k, v = _pack(query * ctx.scale, heads), _pack(key, heads), _pack(value, heads)
        logit, mask = torch.bmm(q, k.transpose(1, 2)), _block_mask(query.shape[1], key.shape[1], requests, query.dtype)
        if bias is not None:
            # One mask for all heads, so that one pass over the logits is enough.
            mask = mask + F.pad(bias, (0, key.shape[1] - requests))
        logit.view(len(query), heads, *logit.shape[1:]).add_(mask)
        share = torch.softmax(logit, -1)
        ctx.save_for_backward(q, k, v, share)
        return _unpack(torch.bmm(share, v), heads)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, share = ctx.saved_tensors
        grad = _pack(grads[0], ctx.heads)
        grad_value = torch.bmm(share.transpose(1, 2), grad)
        logit = softmax_backward(torch.bmm(grad, v.transpose(1, 2)), share)
        grad_query, grad_key = torch.bmm(logit, k).mul_(ctx.scale), torch.bmm(logit.transpose(1, 2), q)
        unpacked = (_unpack(tensor, ctx.heads) for tensor in (grad_query, grad_key, grad_value))
        return *unpacked, None, None, None


def _block_mask(queries: int, tokens: int, requests: int, dtype: torch.dtype) -> Tensor:
    """(Q, T): 0 where a query sees a token, else -inf. The queries of candidates come last."""
    mask_QT = torch.zeros(queries, tokens, dtype=dtype)
    mask_QT[:, requests:].fill_(-math.inf)
    mask_QT[queries - (tokens - requests) :, requests:].diagonal().zero_()
    return mask_QT


def _pack(x_RTD: Tensor, heads: int) -> Tensor:
    """(R, T, D) to (R * G, T, E)."""
    return _heads(x_RTD, heads).flatten(0, 1)


def _unpack(x: Tensor, heads: int) -> Tensor:
    """(R * G, T, E) to (R, T, D)."""
    return x.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)


def _heads(x_RTD: Tensor, heads: int) -> Tensor:
    """(R, T, D) to (R, G, T, E)."""
    return _unflatten(x_RTD, heads).transpose(1, 2)


def _unflatten(x_RTD: Tensor, heads: int) -> Tensor:
    """(R, T, D) to (R, T, G, E)."""
    return x_RTD.view(*x_RTD.shape[:-1], heads, x_RTD.shape[-1] // heads)


def _split(x_RTD: Tensor, heads: int) -> tuple[Tensor, ...]:
    """A view (R, T, E) per head."""
    return x_RTD.chunk(heads, dim=-1)
