"""One ranker in a simulated experiment: `python -m easq_rec.tools.studies.online_cell CONFIG.json SETTINGS`.

Trains it on a world's log like any cell, lets it serve, and adds the measured metrics to RUN_DIR/metrics.jsonl.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from easq_rec import json_file
from easq_rec.config.serialization import from_dict
from easq_rec.tools.simulation.online import Experiment
from easq_rec.tools.studies.cell import add_course, add_metrics, call, read_config

PROGRAM = "easq_rec.tools.studies.online_cell"
DAY, WEEK = "day_", "week_"
"""Prefixes of the metrics of a day and of the measured week."""


def settings(experiment: Experiment, fuse: float | None) -> str:
    """The second argument: the experiment, and the weight of the reference score in the served score."""
    return json_file.text({"experiment": asdict(experiment), "fuse": fuse}, sort_keys=True)


def main(argv: Sequence[str]) -> int:
    """Returns the exit code."""
    path, wanted = argv
    config, values = read_config(path), json.loads(wanted)
    experiment: Experiment = from_dict(Experiment, values["experiment"])
    from easq_rec.tools.simulation.default_data import prepare_data
    from easq_rec.tools.studies import closed_loop
    from easq_rec.training import session

    code = session.train(config, prepare_data)
    if not code:
        days, week = closed_loop.run(config, experiment, fuse=values["fuse"])
        run_dir = Path(str(config.run_dir))
        add_course(run_dir, "online", [_named(DAY, day) for day in days])
        add_metrics(run_dir, _named(WEEK, week))
    return code


def _named(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}{name}": value for name, value in values.items()}


if __name__ == "__main__":
    sys.exit(call(main))
