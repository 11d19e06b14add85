"""How far the policy is from the reference.

Legend: N candidates.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bernoulli_kl(policy_N: Tensor, reference_N: Tensor) -> Tensor:
    """KL divergence of sigmoid(policy) from sigmoid(reference) in nats, elementwise."""
    return policy_N.sigmoid() * (policy_N - reference_N) + F.softplus(reference_N) - F.softplus(policy_N)
