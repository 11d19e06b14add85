"""Study `ablation`: what does each part of `easq` and of `paper` contribute?

Parts are taken away from the default, and others are added to it. Where the satisfaction score counts in the policy
score, the variant is also ranked with other weights of it: the gain at an equal price says whether a part moves a
variant to another frontier, or only along it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from easq_rec.config import Config
from easq_rec.config.variants import VARIANTS
from easq_rec.tools.studies.base import Budget
from easq_rec.tools.studies.comparison import StudyComparison, fused_variant
from easq_rec.tools.studies.families import FEW, SATISFACTION_WEIGHTS
from easq_rec.tools.studies.grid import BASE, Cell, grid
from easq_rec.tools.studies.plots import bars, frontier
from easq_rec.tools.studies.price import PRICES, Priced
from easq_rec.tools.studies.price_view import lead_text
from easq_rec.tools.studies.study import Findings, Study
from easq_rec.tools.studies.verdict import Check, Verdict

VARIANTS_COMPARED: dict[Budget, tuple[str, ...]] = {
    "small": (BASE, "paper"),
    "full": (BASE, "paper", "shared_bottom", "mmoe", "ple", "direct"),
}
"""Whole methods, by their names in `easq_rec.config.variants`. Append another name to compare it."""
PARTS = {
    "easq_without_lora": "without_lora",
    "easq_without_isolation": "without_isolation",
    "easq_without_evidence": "without_evidence",
    "easq_without_answers": "without_answers",
    "easq_with_embeddings": "with_embeddings",
    "easq_with_dense": "with_dense",
    "easq_with_dpo": "with_dpo",
    "easq_with_moe": "with_moe",
    "paper_without_lora": "paper_without_lora",
    "paper_without_moe": "paper_without_moe",
    "paper_without_dpo": "paper_without_dpo",
}
"""Label of each ablation, and its name in `easq_rec.config.variants`."""
SMALL_PARTS = ("easq_without_lora", "paper_without_lora")
"""Ablations in the verdict."""
WEIGHTS: dict[Budget, tuple[float, ...]] = {
    "small": tuple(SATISFACTION_WEIGHTS[place] for place in FEW),
    "full": SATISFACTION_WEIGHTS,
}
"""Weights of the satisfaction score at which variants are also ranked."""
PRICE = PRICES[0]
REFERENCE = "answers_holdout_reference_accuracy"
COST = -1.0
"""Claimed minimum cost of removing the adapters, in percent of satisfaction NDCG@5."""


def _cells(base: Config, seeds: Sequence[int], budget: Budget) -> list[Cell]:
    names = {name: name for name in VARIANTS_COMPARED[budget]}
    names |= {label: PARTS[label] for label in (PARTS if budget == "full" else SMALL_PARTS)}
    variants = {"easq": base} | {label: VARIANTS[name](base) for label, name in names.items()}
    served = [label for label, config in variants.items() if config.model.satisfaction_weight]
    return grid(variants, seeds, fuse=dict.fromkeys(served, WEIGHTS[budget]))


def _conclude(found: StudyComparison, budget: Budget) -> Findings:
    trained = [row for row in found.rows() if row.series == ""]
    parts = [(label, label.split("_")[0]) for label in PARTS if label in found.labels]
    return Findings(
        verdict=Verdict(
            claim=f"In easq and in paper, removing the adapters (LoRA) costs at least {-COST:g}% of satisfaction "
            "NDCG@5",
            checks=[
                Check(
                    what=f"satisfaction NDCG@5 of {name}_without_lora against {name}",
                    measured=found.change(f"{name}_without_lora", "satisfaction", name),
                    wanted="below",
                    threshold=COST,
                )
                for name in ("easq", "paper")
            ],
            budget=budget,
        ),
        notes=[
            f"{label} against {whole}: satisfaction {found.change(label, 'satisfaction', whole).text()}, "
            f"engagement {found.change(label, 'engagement', whole).text()}."
            for label, whole in parts
        ]
        + _at_a_price(found, budget)
        + _references(found),
        plots={"frontier.png": frontier(trained), "ablation.png": bars(trained)},
    )


def _at_a_price(found: StudyComparison, budget: Budget) -> list[str]:
    """Gains of the variants whose satisfaction score is served, at an equal price."""
    labels = ("easq", *PARTS, *VARIANTS_COMPARED[budget])
    priced = {label: Priced.of(found, [fused_variant(label, weight) for weight in WEIGHTS[budget]]) for label in labels}
    return [
        f"{label} at a price of {PRICE:g}% engagement: satisfaction {one.gain(PRICE).text()}"
        + ("." if label == "easq" else f", {lead_text(one.lead(priced['easq'], PRICE))} against easq.")
        for label, one in priced.items()
        if one.by_world
    ]


def _references(found: StudyComparison) -> list[str]:
    """Accuracy of each reference on pairs of held-out answers."""
    accuracy = {label: found.mean(label, REFERENCE) for label in found.labels}
    shown = [f"{label} {100 * value:.0f}%" for label, value in accuracy.items() if math.isfinite(value)]
    share = "Share of held-out pairs of a satisfied and a dissatisfied answer that the reference orders correctly"
    return [f"{share}: {', '.join(shown)}."] if shown else []


STUDY = Study(
    name="ablation",
    question="What does each part of easq and of paper contribute?",
    cells=_cells,
    conclude=_conclude,
)
