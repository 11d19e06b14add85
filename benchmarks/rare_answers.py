"""What do adapters gain and cost where answers are rare, and what if momentum moves them?

    python -m benchmarks.rare_answers [--seeds 10 11] [--scale 6] [--jobs 2] [--folder DIR] [--out FILE]

World 2 with SCALE times the usual requests, users and videos, answered at the paper's rate, is read once in the order
of time, as in study `operating-point`. Nearly all steps have no pair of answers. Rows:

- easq: the default. The adapters rest in these steps.
- moved by momentum: AdamW moves them, as it does with gradients of zero.
- without adapters: the satisfaction tower reads the main representation as a constant.

`main tower` is the ranking with a weight of 0 of the satisfaction score: what the other parts do to the main tower.
No study uses these worlds. Prints JSON.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.report import hardware, publish
from easq_rec.config.variants import VARIANTS
from easq_rec.tools.studies.base import base_config
from easq_rec.tools.studies.comparison import StudyComparison, estimate_values, fused_variant
from easq_rec.tools.studies.families import EASQ, SATISFACTION_WEIGHTS
from easq_rec.tools.studies.grid import BASE, TRAIN, Cell, seeded
from easq_rec.tools.studies.operating_point import scaled
from easq_rec.tools.studies.price import PRICES, Priced
from easq_rec.tools.studies.runner import Runner
from easq_rec.tools.studies.store import opened

MOMENTUM, PLAIN = "moved by momentum", "without adapters"
ROWS = {EASQ: (EASQ, TRAIN), MOMENTUM: (EASQ, "benchmarks.momentum_cell"), PLAIN: ("without_lora", TRAIN)}
"""Variant and program of each row."""
FUSE = (0.0, *SATISFACTION_WEIGHTS)


def cells(seeds: list[int], scale: int) -> list[Cell]:
    made = []
    for seed in seeds:
        base = seeded(scaled(base_config("full", world_version=2), scale, density=1.0), seed)
        made.append(Cell(variant=BASE, config=VARIANTS[BASE](base)))
        for row, (variant, program) in ROWS.items():
            config = base if variant == EASQ else VARIANTS[variant](base)
            made.append(Cell(variant=row, config=config, fuse=FUSE, program=program))
    return made


def row_of(found: StudyComparison, row: str) -> dict[str, Any]:
    priced = Priced.of(found, [fused_variant(row, weight) for weight in SATISFACTION_WEIGHTS])
    tower = {
        metric: estimate_values(found.change(fused_variant(row, 0.0), metric))
        for metric in ("satisfaction", "engagement")
    }
    gains = {f"at {price:g}%": estimate_values(priced.gain(price)) for price in PRICES}
    return {"row": row, "main tower": tower, "gain": gains}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11])
    parser.add_argument("--scale", type=int, default=6)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keeps finished runs, so that the same call continues")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    made = cells(args.seeds, args.scale)
    with (
        tempfile.TemporaryDirectory(prefix="easq-rare-") as temporary,
        opened(args.folder or Path(temporary), study="rare_answers", budget="full", resume=True) as store,
    ):
        runs, failed = Runner(store, jobs=args.jobs).run(made)
    found = StudyComparison(runs)
    publish(
        {
            "benchmark": "rare_answers",
            "seeds": args.seeds,
            "requests": made[0].config.world.requests,
            "rows": [row_of(found, row) for row in ROWS],
            **hardware(),
        },
        args.out,
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
