"""Figures of one training step, computed on the steps that are logged alone."""

from __future__ import annotations

import torch

from easq_rec import losses
from easq_rec.model import Ranks, StepOutput
from easq_rec.nn.moe import TowerOutput


@torch.no_grad()
def step_statistics(output: StepOutput, ranks: Ranks) -> dict[str, float]:
    """Losses over all ranks, score spreads, and the share of candidates for which each expert's gate is open."""
    network = output.network
    values = {f"loss_{name}": value for name, value in output.losses.items()}
    named = ranks.sum(torch.stack([value.float() for value in values.values()]))
    figures = dict(zip(values, named.tolist(), strict=True))
    figures["pairs_main"] = float(output.pairs_main)
    figures["policy_std"] = _std(network.main)
    figures |= _gates("main", network.main)
    if len(output.losses) > 1:
        figures["pairs_answered"] = float(output.pairs_answered)
    if network.reference is not None:
        figures["divergence"] = _divergence(network.main, network.reference, ranks)
        figures["reference_std"] = _std(network.reference)
        figures |= _gates("satisfaction", network.reference)
    return figures


def _divergence(policy: TowerOutput, reference: TowerOutput, ranks: Ranks) -> float:
    """Mean KL of sigmoid(policy score) from sigmoid(reference score) over all candidates of all ranks, in nats."""
    kl_N = losses.bernoulli_kl(policy.score_N, reference.score_N)
    total, count = ranks.sum(torch.stack([kl_N.sum(), kl_N.new_tensor(float(len(kl_N)))])).tolist()
    return float(total / max(count, 1.0))


def _std(tower: TowerOutput) -> float:
    return float(tower.score_N.std()) if len(tower.score_N) > 1 else 0.0


def _gates(name: str, tower: TowerOutput) -> dict[str, float]:
    """Share of this rank's candidates for which each gate is open."""
    if not len(tower.gate_NK):
        return {}
    open_K = (tower.gate_NK > 0).float().mean(0)
    return {f"gate_{name}_{index}": share for index, share in enumerate(open_K.tolist())}
