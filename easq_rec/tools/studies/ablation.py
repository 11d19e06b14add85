"""Study `ablation`: what does each part of `easq` and of `paper` contribute?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from easq_rec.config import Config
from easq_rec.config.variants import VARIANTS
from easq_rec.tools.studies.base import Budget
from easq_rec.tools.studies.comparison import StudyComparison
from easq_rec.tools.studies.grid import BASE, Cell, grid
from easq_rec.tools.studies.plots import bars, frontier
from easq_rec.tools.studies.study import Findings, Study
from easq_rec.tools.studies.verdict import Check, Verdict

VARIANTS_COMPARED: dict[Budget, tuple[str, ...]] = {
    "small": (BASE, "paper"),
    "full": (BASE, "paper", "shared_bottom", "mmoe", "ple", "direct"),
}
"""Whole methods, by their names in `easq_rec.config.variants`. Append another name to compare it."""
PARTS = {
    "easq_without_lora": "without_lora",
    "easq_without_dense": "without_dense",
    "easq_without_isolation": "without_isolation",
    "easq_without_embeddings": "without_embeddings",
    "easq_without_evidence": "without_evidence",
    "easq_without_answers": "without_answers",
    "easq_with_moe": "with_moe",
    "paper_without_lora": "paper_without_lora",
    "paper_without_moe": "paper_without_moe",
    "paper_without_dpo": "paper_without_dpo",
}
"""Label of each ablation, and its name in `easq_rec.config.variants`."""
SMALL_PARTS = ("easq_without_lora", "paper_without_lora")
"""Ablations in the verdict."""
REFERENCE = "answers_holdout_reference_accuracy"
COST = -1.0
"""Claimed minimum cost of removing the adapters, in percent of satisfaction NDCG@5."""


def _cells(base: Config, seeds: Sequence[int], budget: Budget) -> list[Cell]:
    names = {name: name for name in VARIANTS_COMPARED[budget]}
    names |= {label: PARTS[label] for label in (PARTS if budget == "full" else SMALL_PARTS)}
    return grid({"easq": base} | {label: VARIANTS[name](base) for label, name in names.items()}, seeds)


def _conclude(found: StudyComparison, budget: Budget) -> Findings:
    rows = found.rows()
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
        + _references(found),
        plots={"frontier.png": frontier(rows), "ablation.png": bars(rows)},
    )


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
