"""The process of a cell that also measures its world's questionnaire:
`python -m easq_rec.tools.studies.asked_cell CONFIG.json [WEIGHT ...] [PARTNER=WEIGHT ...]`.

Trains like any cell, and adds statistics of its world's questionnaire to RUN_DIR/metrics.jsonl.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from easq_rec.tools.studies.cell import add_metrics, call, main, read_config

PROGRAM = "easq_rec.tools.studies.asked_cell"
PREFIX = "asked_"
"""Prefix of these metrics."""


def train_and_measure(argv: Sequence[str]) -> int:
    """Returns the exit code."""
    path, *served = argv
    code = main(path, served)
    if not code:
        from easq_rec.tools.studies.questionnaire_stats import measure

        config = read_config(path)
        found = measure(config.world, Path(str(config.data.path)))
        add_metrics(Path(str(config.run_dir)), {f"{PREFIX}{name}": value for name, value in found.items()})
    return code


if __name__ == "__main__":
    sys.exit(call(train_and_measure))
