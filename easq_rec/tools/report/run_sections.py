"""The part of the page about runs: what ran, how it was configured, what came out, and how it got there."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from easq_rec.data import files
from easq_rec.run_directory.formatting import NONE, short
from easq_rec.run_directory.metrics_file import FINAL, TRAIN
from easq_rec.run_directory.run_files import RunFiles
from easq_rec.tools.report import configs
from easq_rec.tools.report.markup import Child, Markup, breakable, folded, join, table, tag
from easq_rec.tools.report.run_curves import curves
from easq_rec.tools.report.run_metrics import metrics


def runs_section(runs: Sequence[RunFiles]) -> Markup:
    """All runs of the report, side by side."""
    heading = "Run" if len(runs) == 1 else f"{len(runs)} runs"
    return tag(
        "section",
        tag("h2", f"{heading}: {', '.join(run.name for run in runs)}", id="runs"),
        tag("h3", "What ran"),
        _facts(runs),
        tag("h3", "Configuration"),
        _differences(runs),
        *(folded(f"Whole configuration of {run.name}", _whole(run)) for run in runs),
        tag("h3", "Held-out metrics"),
        metrics(runs),
        curves(runs),
    )


def _facts(runs: Sequence[RunFiles]) -> Markup:
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
    rows: list[list[Child]] = [[name, *values] for name, values in facts if any(value != NONE for value in values)]
    return table(["", *(run.name for run in runs)], rows, numeric_from=len(runs) + 1, caption="What ran")


def _data(run: RunFiles) -> str:
    path = run.setting("data.path")
    return files.shown(str(path)) if path else "the built-in synthetic world"


def _seeds(run: RunFiles) -> str:
    training, world = run.setting("trainer.seed"), run.setting("world.seed")
    # With data of its own a run reads no world.
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
    return f"step {_plain(found.get('step'))}, ranked by {found.get('served')}; {counted}"


def _versions(run: RunFiles) -> str:
    found = (run.evaluation or {}).get("versions")
    return ", ".join(f"{name} {version}" for name, version in found.items()) if isinstance(found, dict) else NONE


def _plain(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return short(value)
    return NONE if value is None else str(value)


def _differences(runs: Sequence[RunFiles]) -> Markup:
    settings = configs.notable([run.config for run in runs])
    recipes = list(dict.fromkeys(run.recipe for run in runs))
    unknown = [name for name in recipes if configs.recipe_defaults(name) is None]
    why = f"{', '.join(unknown)}: no recipe of this version, so nothing is known of its defaults."
    remark = tag("p", why, class_="muted") if unknown else Markup("")
    if not settings:
        one = len(runs) == 1
        same = "Everything is as its recipe has it." if one else "The runs do not differ, and depart from no recipe."
        return remark if one and unknown else join(remark, tag("p", same))
    # With several recipes there is no one default.
    default = len(recipes) == 1 and not unknown
    rows: list[list[Child]] = []
    for setting in settings:
        values: list[Child] = [
            tag("b", configs.shown(value)) if setting.chosen(run) else configs.shown(value)
            for run, value in enumerate(setting.values)
        ]
        of_recipe: list[Child] = [configs.shown(setting.defaults[0])] if default else []
        rows.append([tag("code", breakable(setting.field)), *of_recipe, *values])
    told = (
        "Fields in which the run departs from its recipe."
        if len(runs) == 1
        else "Fields in which the runs differ, or depart from their recipes; bold: not what the recipe has."
    )
    headings: list[Child] = ["field", *([f"recipe {recipes[0]}"] if default else []), *(run.name for run in runs)]
    return join(
        remark,
        tag("p", told, class_="muted"),
        table(headings, rows, numeric_from=len(headings), caption="Differences of the configurations"),
    )


def _whole(run: RunFiles) -> Markup:
    data = run.config.get("data")
    # The options of a URL are nobody's business.
    config = run.config | ({"data": data | {"path": _data(run)}} if isinstance(data, dict) and data.get("path") else {})
    text = json.dumps(config, indent=2, ensure_ascii=False)
    return tag("pre", tag("code", text), class_="scroll", tabindex="0")
