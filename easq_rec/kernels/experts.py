"""All experts of a tower as two matrix products, with explicit gradients.

The outputs of the experts are summed, weighted by gates. Gating the inputs of the second linears instead makes all
second linears one product. The explicit backward pass computes the gradient of the widest tensor once, and gates and
masks it in place.

Legend: N candidates, D input width, K experts, H hidden width, M = K * H, O output width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from easq_rec.kernels.linear import autocast, product, weight_gradient
from easq_rec.upstream.torch_operators import relu_backward_


def mix_experts(
    x_ND: Tensor, gate_NK: Tensor, in_KHD: Tensor, in_KH: Tensor, out_KOH: Tensor, out_KO: Tensor
) -> Tensor:
    """Sum over k of gate_k * (out_k relu(in_k x)), where every expert is two linears with bias.

    Args:
        x_ND: inputs.
        gate_NK: weight of each expert.
        in_KHD: first linears' weights.
        in_KH: first linears' biases.
        out_KOH: second linears' weights.
        out_KO: second linears' biases.

    Returns:
        (N, O).
    """
    out_OM = out_KOH.transpose(0, 1).flatten(1)
    if torch.compiler.is_exporting():
        hidden_NM = F.linear(x_ND, in_KHD.flatten(0, 1), in_KH.flatten()).relu()
        return F.linear(_gate(hidden_NM, gate_NK), out_OM) + gate_NK @ out_KO
    x_ND, gate_NK, in_MD, in_M, out_OM, out_KO = autocast(
        x_ND, gate_NK, in_KHD.flatten(0, 1), in_KH.flatten(), out_OM, out_KO
    )
    mixed: Tensor = _MixExperts.apply(x_ND, gate_NK, in_MD, in_M, out_OM, out_KO)
    return mixed


class _MixExperts(torch.autograd.Function):
    """See `mix_experts`."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, gate_NK: Tensor, in_MD: Tensor, in_M: Tensor, out_OM: Tensor, out_KO: Tensor
    ) -> Tensor:
        hidden_NM = product(x_ND, in_MD, in_M, relu=True)
        ctx.save_for_backward(x_ND, gate_NK, in_MD, out_OM, out_KO, hidden_NM)
        return product(_gate(hidden_NM, gate_NK), out_OM, None).addmm_(gate_NK, out_KO)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, gate_NK, in_MD, out_OM, out_KO, hidden_NM = ctx.saved_tensors
        grad_NO = grads[0]
        # The gated activation is computed again. Kept, it would be among the largest tensors at the step's memory peak.
        grad_OM = weight_gradient(grad_NO, _gate(hidden_NM, gate_NK))
        grad_NM = product(grad_NO, out_OM.t(), None)
        grad_NK = _experts(grad_NM * hidden_NM, gate_NK).sum(-1).addmm_(grad_NO, out_KO.t())
        grad_NM = relu_backward_(_gate(grad_NM, gate_NK, out=grad_NM), hidden_NM)
        return (
            product(grad_NM, in_MD.t(), None) if ctx.needs_input_grad[0] else None,
            grad_NK,
            weight_gradient(grad_NM, x_ND),
            grad_NM.sum(0),
            grad_OM,
            gate_NK.t() @ grad_NO,
        )


def _gate(x_NM: Tensor, gate_NK: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Multiplies the H columns of each expert by its gate. Writes into `out` if given."""
    out_NKH = _experts(out, gate_NK) if out is not None else None
    return torch.mul(_experts(x_NM, gate_NK), gate_NK[..., None], out=out_NKH).flatten(1)


def _experts(x_NM: Tensor, gate_NK: Tensor) -> Tensor:
    """(N, M) to (N, K, H)."""
    return x_NM.view(*gate_NK.shape, x_NM.shape[1] // gate_NK.shape[1])
