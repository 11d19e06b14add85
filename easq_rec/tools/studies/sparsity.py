"""Study `sparsity`: how many answers does each variant need?

A world is generated for every rate: with equal users, videos and tastes for a seed, and with the answers of the rate.
`main_only`, which reads no answers, is also trained on each world, because pairs must have the same requests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from easq_rec.config import Config
from easq_rec.config.variants import VARIANTS
from easq_rec.tools.studies.base import Budget
from easq_rec.tools.studies.comparison import Row, StudyComparison
from easq_rec.tools.studies.grid import BASE, Cell, seeded
from easq_rec.tools.studies.plots import curves, frontier
from easq_rec.tools.studies.study import Findings, Study
from easq_rec.tools.studies.verdict import Check, Verdict

RATES: dict[Budget, tuple[float, ...]] = {"small": (1e-1, 1e-2), "full": (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)}
"""Answers per triggered impression, about which the questionnaire may ask. The paper's
(arXiv 2601.20215) is 1e-4: shown on 0.5%, answered by 2%."""
PAPER = 1e-4
VARIANTS_COMPARED: dict[Budget, tuple[str, ...]] = {
    "small": (BASE, "easq", "paper"),
    "full": (BASE, "easq", "without_evidence", "paper"),
}


def _cells(base: Config, seeds: Sequence[int], budget: Budget) -> list[Cell]:
    cells = []
    for seed in seeds:
        for rate in RATES[budget]:
            world = dataclasses.replace(base.world, density=rate / (base.world.exposure * base.world.response))
            there = dataclasses.replace(base, world=world)
            for variant in VARIANTS_COMPARED[budget]:
                made = there if variant == "easq" else VARIANTS[variant](there)
                series, config = "" if variant == BASE else variant, seeded(made, seed)
                cells.append(Cell(variant=variant, setting=_setting(rate), series=series, x=rate, config=config))
    return cells


def _setting(rate: float) -> str:
    return f"rate {rate:.0e}"


def _conclude(found: StudyComparison, budget: Budget) -> Findings:
    rows = found.rows()
    rates = RATES[budget]
    rate = PAPER if PAPER in rates else rates[-1]
    return Findings(
        verdict=Verdict(
            claim=f"With answers on {rate:g} of the triggered impressions, easq raises satisfaction NDCG@5 above that "
            "of main_only (+0%) and keeps engagement NDCG@5 above -5%",
            checks=[
                Check(
                    what=f"{metric} NDCG@5 of easq at {rate:g} against {BASE}",
                    measured=found.change(f"easq {_setting(rate)}", metric),
                    wanted="above",
                    threshold=threshold,
                )
                for metric, threshold in (("satisfaction", 0.0), ("engagement", -5.0))
            ],
            budget=budget,
        ),
        notes=[note for rate in rates if (note := _note(found, rows, rate))],
        plots={
            "frontier.png": frontier(rows),
            "sparsity.png": curves(rows, xlabel="answers per triggered impression", logarithmic=True),
        },
    )


def _note(found: StudyComparison, rows: Sequence[Row], rate: float) -> str | None:
    """The variant that wins at a rate: the one with the best satisfaction, if the interval of its lead excludes 0."""
    there = [row for row in rows if row.x == rate and row.series and row.change["satisfaction"].count]
    if not there:
        return None
    best, *others = sorted(there, key=lambda row: -row.change["satisfaction"].value)
    # `change` pairs by world, and each rate has separate worlds.
    leads = [found.change(best.label, "satisfaction", other.variant) for other in others]
    if best.change["satisfaction"].low <= 0:
        result = f"no variant is above {BASE} with 95% confidence; the highest is {best.variant}"
    elif all(lead.low > 0 for lead in leads):
        result = f"{best.variant} wins"
    else:
        result = f"{best.variant} is highest, but not by more than chance"
    each = ", ".join(
        f"{row.variant} {row.change['satisfaction'].text()} (engagement {row.change['engagement'].text()})"
        for row in there
    )
    return f"At {rate:g}: {result}. Satisfaction: {each}."


STUDY = Study(
    name="sparsity",
    question="With how few answers does which variant still raise satisfaction?",
    cells=_cells,
    conclude=_conclude,
    worlds_only=True,
)
