"""Statistics of one training step, computed only in steps that are logged."""

from __future__ import annotations

import torch
from torch import Tensor

from easq_rec.losses.divergence import bernoulli_kl
from easq_rec.losses.objective import StepOutput
from easq_rec.losses.ranks import Ranks
from easq_rec.model.network import NetworkOutput
from easq_rec.model.towers import TowerOutput


@torch.no_grad()
def step_statistics(output: StepOutput, ranks: Ranks, impressions: int) -> tuple[dict[str, float], float]:
    """Losses, pairs and divergence over all ranks, with this rank's score spreads and shares of open gates.

    Issues one all-reduce.

    Args:
        impressions: trained on by this rank since the last step that was logged.

    Returns:
        the statistics by name, and the impressions of all ranks. "divergence" is the mean KL of sigmoid(policy score)
        from sigmoid(reference score) over all candidates, in nats. A gate's share is that of the candidates for which
        it is open.
    """
    network = output.network
    parts = {f"loss_{name}": value.float() for name, value in output.losses.items()}
    kl_N = _divergences(network)
    counts = kl_N.new_tensor([len(kl_N), impressions], dtype=torch.float32)
    local = torch.cat([torch.stack([*parts.values(), kl_N.sum().float()]), counts])
    *summed, kl, candidates, all_impressions = ranks.sum(local).tolist()
    figures = dict(zip(parts, summed, strict=True))
    figures |= {f"pairs_{name}": float(count) for name, count in output.pairs.items()}
    figures["policy_std"] = _std(network.main)
    figures |= _gates("main", network.main)
    if network.reference is not None:
        figures["divergence"] = kl / max(candidates, 1.0)
        figures["reference_std"] = _std(network.reference)
        figures |= _gates("satisfaction", network.reference)
    return figures, all_impressions


def _divergences(network: NetworkOutput) -> Tensor:
    """KL of each candidate, (N,); empty without a reference."""
    policy_N = network.main.score_N
    if network.reference is None:
        return policy_N.new_zeros(0)
    return bernoulli_kl(policy_N, network.reference.score_N)


def _std(tower: TowerOutput) -> float:
    return float(tower.score_N.std()) if len(tower.score_N) > 1 else 0.0


def _gates(name: str, tower: TowerOutput) -> dict[str, float]:
    """Share of this rank's candidates for which each gate is open."""
    if not len(tower.gate_NK):
        return {}
    open_K = (tower.gate_NK > 0).float().mean(0)
    return {f"gate_{name}_{index}": share for index, share in enumerate(open_K.tolist())}
