"""What a page says about runs: what ran, how it was configured, what came out, and how it got there."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from easq_rec import json_file
from easq_rec.data import files
from easq_rec.run_directory.formatting import NONE, short
from easq_rec.run_directory.metrics_file import FINAL, TRAIN
from easq_rec.run_directory.run_files import RunFiles
from easq_rec.tools.report import configs
from easq_rec.tools.report.parts import PageTable, PlotGroup, code, strong
from easq_rec.tools.report.reliability import reliability
from easq_rec.tools.report.run_curves import curves
from easq_rec.tools.report.run_metrics import HeldOut, held_out


@dataclass(frozen=True, kw_only=True)
class RunsView:
    """The parts in the order of the page."""

    names: list[str]
    facts: PageTable
    config_remarks: list[str]
    config: PageTable | None
    """Fields worth a line; None where there are none."""
    whole_configs: list[tuple[str, str]]
    """(name, JSON) of each run."""
    metrics: HeldOut
    curves: list[PlotGroup]


def runs_view(runs: Sequence[RunFiles]) -> RunsView:
    """All runs of the report, side by side.

    Args:
        runs: at least one; the others are compared with the first.
    """
    remarks, table = _config(runs)
    return RunsView(
        names=[run.name for run in runs],
        facts=_facts(runs),
        config_remarks=remarks,
        config=table,
        whole_configs=[(run.name, _whole(run)) for run in runs],
        metrics=held_out(runs),
        curves=[*([reliability(runs)] if any(run.reliability for run in runs) else []), *curves(runs)],
    )


def _facts(runs: Sequence[RunFiles]) -> PageTable:
    facts: list[tuple[str, list[str]]] = [
        ("recipe", [run.recipe for run in runs]),
        ("directory", [str(run.directory) for run in runs]),
        ("data", [_data(run) for run in runs]),
        ("features", [str(run.setting("schema_file") or "the recipe's") for run in runs]),
        ("seeds", [_seeds(run) for run in runs]),
        ("steps", [_steps(run) for run in runs]),
        ("requests per step and rank", [_plain(run.setting("trainer.batch_size")) for run in runs]),
        ("impressions per second, median", [_speed(run) for run in runs]),
        ("evaluation", [_evaluation(run) for run in runs]),
        ("versions", [_versions(run) for run in runs]),
    ]
    rows = [[name, *values] for name, values in facts if any(value != NONE for value in values)]
    headings = ["", *(run.name for run in runs)]
    return PageTable(caption="What ran", headings=headings, rows=rows, numeric_from=len(headings))


def _data(run: RunFiles) -> str:
    path = run.setting("data.path")
    return files.display_name(str(path)) if path else "the built-in synthetic world"


def _seeds(run: RunFiles) -> str:
    training, world = run.setting("trainer.seed"), run.setting("world.seed")
    # A run on a data set generates no world.
    return f"training {_plain(training)}" + ("" if run.setting("data.path") else f", world {_plain(world)}")


def _steps(run: RunFiles) -> str:
    wanted = run.setting("trainer.max_steps")
    of = f" of {wanted:,}" if isinstance(wanted, int) else ""
    ended = any(record.split == FINAL for record in run.records)
    return f"{run.last_step:,}{of}{'' if ended else ', not finished'}"


def _speed(run: RunFiles) -> str:
    rates = [rate for _, rate in run.course("impressions_per_second", TRAIN)]
    return f"{statistics.median(rates):,.0f}" if rates else NONE


def _evaluation(run: RunFiles) -> str:
    found = run.evaluation
    if found is None:
        return NONE
    counted = ", ".join(f"{_plain(found.get(name))} {name}" for name in ("requests", "users") if name in found)
    calibration = f", outcomes calibrated ({found['calibration']})" if found.get("calibration") else ""
    return f"step {_plain(found.get('step'))}, ranked by {found.get('served')}{calibration}; {counted}"


def _versions(run: RunFiles) -> str:
    found = (run.evaluation or {}).get("versions")
    return ", ".join(f"{name} {version}" for name, version in found.items()) if isinstance(found, dict) else NONE


def _plain(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return short(value)
    return NONE if value is None else str(value)


def _config(runs: Sequence[RunFiles]) -> tuple[list[str], PageTable | None]:
    """(remarks, table) of the fields in which runs differ from each other or from their recipes."""
    settings = configs.notable([run.config for run in runs])
    recipes = list(dict.fromkeys(run.recipe for run in runs))
    unknown = [name for name in recipes if configs.recipe_defaults(name) is None]
    remarks = []
    if unknown:
        remarks.append(f"{', '.join(unknown)}: not a recipe of this version, so its defaults are unknown.")
    single = len(runs) == 1
    if not settings:
        if not (single and unknown):
            remarks.append(
                "All fields have the values of the recipe."
                if single
                else "The runs do not differ, and all fields have the values of their recipes."
            )
        return remarks, None
    remarks.append(
        "Fields that differ from the recipe."
        if single
        else "Fields that differ between the runs or from their recipes; bold: different from the recipe."
    )
    # Runs of several recipes have no common default.
    default = len(recipes) == 1 and not unknown
    rows: list[list[str]] = []
    for setting in settings:
        values = [
            strong(configs.shown(value)) if setting.chosen(run) else configs.shown(value)
            for run, value in enumerate(setting.values)
        ]
        rows.append([code(setting.field), *([configs.shown(setting.defaults[0])] if default else []), *values])
    headings = ["field", *([f"recipe {recipes[0]}"] if default else []), *(run.name for run in runs)]
    caption = "Differences of the configurations"
    return remarks, PageTable(caption=caption, headings=headings, rows=rows, numeric_from=len(headings))


def _whole(run: RunFiles) -> str:
    data = run.config.get("data")
    # The options of a URL may hold credentials.
    config = run.config | ({"data": data | {"path": _data(run)}} if isinstance(data, dict) and data.get("path") else {})
    return json_file.text(config, indent=2, ascii_only=False)
