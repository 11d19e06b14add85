"""A ReLU router each of whose gates is open for a wanted share of the candidates.

A candidate's representation is mostly the same for all candidates. A router that reads it as it is learns to scale its
gates by the common part, and the gates become open or closed for all candidates. So this router reads the difference
from the running mean, in units of the running standard deviation. What remains of the distance from the wanted share
is removed by its biases, which follow counts of open gates and no gradient (auxiliary-loss-free load balance, arXiv
2408.15664).

Legend: N candidates, D token width, K experts, X = K + 2 D + 1 sums.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easq_rec.model.initial import Law, fan_in

MEMORY = 0.9
"""Weight of the past in the running statistics, per update."""
RATE = 0.1
"""Change of a bias per update and unit of share."""
START_STD = 1 / math.sqrt(3)
"""Standard deviation of an output before training, for standardised and independent inputs."""
EPSILON = 1e-5
"""Added to the variance of an input."""


class Router(nn.Module):
    """Linear over standardised inputs, before the ReLU.

    Args:
        activity: target share of the candidates for which each output is above 0.
    """

    bias_K: Tensor
    count: Tensor
    mean_D: Tensor
    square_D: Tensor

    def __init__(self, dim: int, experts: int, activity: float) -> None:
        super().__init__()
        self.activity = activity
        self.weight = nn.Parameter(torch.empty(experts, dim))
        # What training updates without a gradient is part of the checkpoint.
        self.register_buffer("bias_K", torch.full((experts,), NormalDist().inv_cdf(activity) * START_STD))
        # As if one candidate of mean 0 and variance 1 had been seen.
        self.register_buffer("count", torch.ones((), dtype=torch.float64))
        self.register_buffer("mean_D", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("square_D", torch.ones(dim, dtype=torch.float64))

    @property
    def sums_length(self) -> int:
        """Number X of sums."""
        experts, dim = self.weight.shape
        return experts + 2 * dim + 1

    def laws(self) -> Mapping[str, Law]:
        return {"weight": fan_in(self.weight.shape[1])}

    def forward(self, n_ND: Tensor) -> Tensor:
        """Outputs (N, K) of representations (N, D), which get no gradient."""
        variance_D = (self.square_D - self.mean_D.square()).clamp(min=0)
        scale_D = (variance_D + EPSILON).rsqrt()
        z_ND = (n_ND.detach() - self.mean_D.to(n_ND.dtype)) * scale_D.to(n_ND.dtype)
        return F.linear(z_ND, self.weight, self.bias_K)

    @torch.no_grad()
    def sums(self, n_ND: Tensor, open_NK: Tensor) -> Tensor:
        """The argument of `update` from one forward pass, before it is added up over the ranks: the number of
        open gates of each expert, the sums of the inputs and of their squares, and the number of candidates; (X,),
        FP64."""
        n_ND = n_ND.double()
        count_1 = n_ND.new_full((1,), len(n_ND))
        return torch.cat([(open_NK > 0).sum(0).double(), n_ND.sum(0), n_ND.square().sum(0), count_1])

    @torch.no_grad()
    def update(self, sum_X: Tensor, skip: Tensor) -> None:
        """Moves the running statistics and the biases.

        Args:
            sum_X: `sums` over all ranks; zeros change nothing.
            skip: 1 to change nothing, else 0. It is read on the device.
        """
        experts, dim = self.weight.shape
        open_K, sum_D, square_D, count_1 = sum_X.split([experts, dim, dim, 1])
        count = count_1.squeeze()
        rests = (skip > 0) | (count == 0)
        past = MEMORY * self.count
        total = past + count
        # Not a product with 0: sums of a skipped step may be NaN.
        for mean_D, new_D in ((self.mean_D, sum_D), (self.square_D, square_D)):
            mean_D.copy_(torch.where(rests, mean_D, (past * mean_D + new_D) / total))
        self.count.copy_(torch.where(rests, self.count, total))
        move_K = RATE * (self.activity - open_K / count.clamp(min=1))
        self.bias_K.copy_(torch.where(rests, self.bias_K, self.bias_K + move_K.to(self.bias_K.dtype)))
