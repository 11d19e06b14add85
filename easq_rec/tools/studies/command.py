"""`easq-rec study NAME`: runs a study, and writes and prints its results."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from easq_rec import outputs
from easq_rec.config.recipes import BASES, schema_for_world
from easq_rec.config.schema import require
from easq_rec.config.schema_file import load_schema
from easq_rec.config.world import DEFAULT_VERSION
from easq_rec.data import files
from easq_rec.tools.studies import (
    ab,
    ablation,
    answers_map,
    frontier,
    lambda2,
    operating_point,
    robustness,
    signal,
    sparsity,
    stability,
    trigger,
)
from easq_rec.tools.studies import (
    experts_rank as sizes,
)
from easq_rec.tools.studies.anchors import anchor_cells
from easq_rec.tools.studies.base import WORTH_VERSION, base_config
from easq_rec.tools.studies.behaviour_lift import measure
from easq_rec.tools.studies.comparison import StudyComparison
from easq_rec.tools.studies.families import FAMILIES
from easq_rec.tools.studies.grid import Cell, check_names
from easq_rec.tools.studies.known import take_over, taken_over
from easq_rec.tools.studies.options import StudyOptions
from easq_rec.tools.studies.publish import cell_values, circumstances, publish, table
from easq_rec.tools.studies.ray_runner import RayRunner, require_cluster
from easq_rec.tools.studies.runner import Runner
from easq_rec.tools.studies.store import Run, Store, opened
from easq_rec.tools.studies.study import Study

STUDIES = {
    study.name: study
    for study in (
        frontier.STUDY,
        answers_map.STUDY,
        operating_point.STUDY,
        robustness.STUDY,
        ablation.STUDY,
        lambda2.STUDY,
        sparsity.STUDY,
        stability.STUDY,
        sizes.EXPERTS,
        sizes.RANK_STUDY,
        trigger.STUDY,
        ab.STUDY,
    )
}
"""Studies that train; `signal` and `worth` do not."""


ANCHORED = (
    "random: a random order of the candidates. oracle of satisfaction, of engagement: the orders by true satisfaction "
    "and by the expected engagement utility. Nothing is trained for these rows; they say how much there is to gain."
)


def check(options: StudyOptions) -> None:
    """Raises UserError that names the option with an invalid value."""
    for name in ("seeds", "jobs"):
        value = getattr(options, name)
        require(value is None or value >= 1, f"--{name}", value, "at least 1")
    require(options.first_seed >= 0, "--first-seed", options.first_seed, "0 or more")
    require(options.gpus >= 0, "--gpus", options.gpus, "0 or more")
    require(not options.gpus or options.ray is not None, "--gpus", options.gpus, "given together with --ray")
    if options.ray is not None:
        require(options.name in STUDIES, "--ray", options.ray, f"omitted: study {options.name} trains nothing")
        bounded = options.jobs is None or options.ray == "local"
        require(bounded, "--jobs", options.jobs, "omitted: the CPUs of the Ray cluster limit the number of runs")
        require_cluster(options.ray)
    if options.recipe is not None:
        require(options.recipe in BASES, "--recipe", options.recipe, f"one of {', '.join(BASES)}")
        require(options.data is not None, "--recipe", options.recipe, "given together with --data")
    budgets = STUDIES[options.name].budgets if options.name in STUDIES else ("small", "full")
    require(options.budget in budgets, "--budget", options.budget, f"{' or '.join(budgets)} in study {options.name}")
    if options.world_version is not None:
        require(options.data is None, "--world-version", options.world_version, "omitted with --data")
        only = only_version(options.name)
        allowed = f"{only}, or omitted: study {options.name} runs on World {only}"
        require(only in (None, options.world_version), "--world-version", options.world_version, allowed)
    if options.known is not None:
        require(options.name in STUDIES, "--known", str(options.known), f"omitted: study {options.name} trains nothing")
    if options.name == "worth":
        require(options.seeds is None, "--seeds", options.seeds, "omitted: study worth reads one log")
        require(options.first_seed == 0, "--first-seed", options.first_seed, "omitted: study worth reads one log")
    if options.families:
        require(options.name == "frontier", "--families", options.families, "omitted: only study frontier has them")
        unknown = [name for name in options.families if name not in FAMILIES]
        require(not unknown, "--families", unknown, f"some of {', '.join(FAMILIES)}")
    if options.schema is not None:
        of_data = options.name == "worth" and options.data is not None
        require(of_data, "--schema", str(options.schema), "given with --data, to study worth")
    if options.data is not None:
        worlds_only = options.name in STUDIES and STUDIES[options.name].worlds_only
        require(not worlds_only, "--data", options.data, f"omitted: study {options.name} generates its worlds")
        there = files.is_dir(options.data)
        require(there, "--data", files.display_name(options.data), "a directory with requests/ and answers/")


def only_version(name: str) -> Literal[1, 2] | None:
    """Version of the only world that a study can run on; None: any."""
    return WORTH_VERSION if name == "worth" else STUDIES[name].only_version if name in STUDIES else None


def world_version(options: StudyOptions) -> Literal[1, 2] | None:
    """Version of the study's worlds; None on a data set."""
    if options.data is not None:
        return None
    return options.world_version or only_version(options.name) or DEFAULT_VERSION


def run(options: StudyOptions) -> int:
    """Runs a study; returns the exit code: 0, 1 if a cell failed, 130 on Ctrl-C.

    Raises:
        UserError: an option is invalid, or the output directory has another study.
    """
    check(options)
    if options.data is not None and not files.is_remote(options.data):
        outputs.check_outside("--out", options.directory, [Path(options.data)])
    with opened(options.directory, study=options.name, budget=options.budget, resume=options.resume) as store:
        try:
            if options.name == "signal":
                return _signal(options, store)
            if options.name == "worth":
                return _worth(options, store)
            return _train(options, store)
        except KeyboardInterrupt:
            print("interrupted; the same command with --resume continues it", file=sys.stderr)
            return 130


def study_of(options: StudyOptions) -> Study:
    """The study that the options name, one that trains."""
    return frontier.study(options.families) if options.families else STUDIES[options.name]


def trainings(options: StudyOptions) -> list[Cell]:
    """The cells that a study trains."""
    base = base_config(options.budget, recipe=options.recipe, data=options.data, world_version=world_version(options))
    return study_of(options).cells(base, options.seed_list, options.budget)


def _train(options: StudyOptions, store: Store) -> int:
    begin, study = time.perf_counter(), study_of(options)
    cells = trainings(options)
    cells += anchor_cells(cells)
    check_names(cells)
    if options.known is not None:
        versions = circumstances([])["versions"]
        taken = take_over(options.known, store, cells, study=study.name, versions=versions)
        print(f"{taken} of {len(cells)} cells are taken from {options.known}", flush=True)
    where = f"{options.job_count} at a time" if options.ray is None else f"on Ray {options.ray}"
    print(f"study {study.name}, budget {options.budget}: {len(cells)} cells, {where}", flush=True)
    runs, failed = _runner(options, store).run(cells)
    _conclude(options, study, store, runs, failed, begin)
    return 1 if failed else 0


def _runner(options: StudyOptions, store: Store) -> Runner | RayRunner:
    if options.ray is None:
        return Runner(store, jobs=options.job_count)
    return RayRunner(store, address=options.ray, jobs=options.job_count, gpus=options.gpus)


def _conclude(
    options: StudyOptions, study: Study, store: Store, runs: Sequence[Run], failed: Sequence[str], begin: float
) -> None:
    """Writes and prints the results of the cells."""
    found = StudyComparison(runs)
    rows = found.rows()
    findings = study.conclude(found, options.budget)
    incomplete = [f"{len(failed)} of {len(runs) + len(failed)} cells failed: {', '.join(failed)}"] if failed else []
    shown = table(rows, "worlds" if options.data is None else "seeds")
    publish(
        store.out,
        results={
            "study": study.name,
            "question": study.question,
            **_common(options, begin),
            **({"known": origin} if (origin := taken_over(store)) is not None else {}),
            "cell_seconds": round(sum(run.seconds for run in runs), 1),
            "cells": [cell_values(run) for run in runs],
            "failed": failed,
            "rows": [row.values() for row in rows],
            "verdict": findings.verdict.values(),
            "notes": list(findings.notes),
            **findings.extra,
        },
        text=[
            _title(options),
            study.question,
            findings.verdict.text(),
            *incomplete,
            shown,
            "Δ is the change against main_only in percent, paired by world (by seed on a data set), with its 95% t "
            "interval.",
            ANCHORED,
            *findings.tables,
            *findings.notes,
        ],
        figures=findings.plots,
    )
    tables = [line for one in findings.tables for line in (one, "")]
    print(
        "\n".join(["", shown, "", ANCHORED, "", *tables, *findings.notes, "", findings.verdict.text(), "", *incomplete])
    )
    print(f"written to {store.out}")


def _signal(options: StudyOptions, store: Store) -> int:
    begin = time.perf_counter()
    if options.data is None:
        locations = signal.worlds(options.budget, options.seed_list, store, world_version(options) or DEFAULT_VERSION)
    else:
        locations = [options.data]
    found = measure(locations)
    verdict, shown = signal.verdict(found, options.budget if options.data is None else "full"), signal.table(found)
    notes = signal.notes(found)
    publish(
        store.out,
        results={
            "study": "signal",
            "question": signal.QUESTION,
            **_common(options, begin),
            "rows": signal.values(found),
            "verdict": verdict.values(),
            "notes": notes,
        },
        text=[_title(options), signal.QUESTION, verdict.text(), shown, *notes],
        figures=signal.figures(found),
    )
    print("\n".join(["", shown, "", *notes, "", verdict.text(), "", f"written to {store.out}"]))
    return 0


def _worth(options: StudyOptions, store: Store) -> int:
    # It imports torch, for which wrong options must not wait.
    from easq_rec.tools.studies.worth import study as worth

    begin = time.perf_counter()
    config = base_config(options.budget, recipe=options.recipe, data=options.data)
    if options.data is None:
        location, schema = worth.world(options.budget, store), schema_for_world(config.schema, WORTH_VERSION)
    else:
        location, schema = options.data, config.schema
        schema = schema if options.schema is None else load_schema(options.schema)
    found = worth.run(location, schema, say=lambda text: print(text, flush=True))
    notes, tables = found.notes(options.budget if options.data is None else "full"), found.tables
    publish(
        store.out,
        results={
            "study": "worth",
            "question": worth.QUESTION,
            **_common(options, begin),
            **found.values(),
            "notes": notes,
        },
        text=[
            _title(options),
            worth.QUESTION,
            found.decision.markdown(),
            *(part for heading, shown in tables.items() for part in (f"## {heading}", shown)),
            "## Notes",
            *notes,
        ],
        figures=found.figures,
    )
    shown = [line for heading, shown in tables.items() for line in (heading, "", shown, "")]
    print("\n".join(["", *shown, *notes, "", found.decision.text(), "", f"written to {store.out}"]))
    return 0


def _title(options: StudyOptions) -> str:
    version = world_version(options)
    return f"# Study {options.name}" + (f", World {version}" if version is not None else "")


def _common(options: StudyOptions, begin: float) -> dict[str, Any]:
    return {
        **circumstances(_command(options)),
        "budget": options.budget,
        **({"world_version": version} if (version := world_version(options)) is not None else {}),
        "seeds": options.seed_list if options.name != "worth" else None,
        "wall_seconds": round(time.perf_counter() - begin, 1),
    }


def _command(options: StudyOptions) -> list[str]:
    """The call that repeats the study, for results.json."""
    data = [] if options.data is None else ["--data", files.display_name(options.data)]
    world = [] if options.world_version is None else ["--world-version", str(options.world_version)]
    recipe = [] if options.recipe is None else ["--recipe", options.recipe]
    recipe += ["--families", *options.families] if options.families else []
    recipe += [] if options.schema is None else ["--schema", str(options.schema)]
    if options.ray is None or options.ray == "local":
        where = ["--jobs", str(options.job_count)]
    else:
        where = []
    where += [] if options.ray is None else ["--ray", options.ray]
    where += ["--gpus", f"{options.gpus:g}"] if options.gpus else []
    where += ["--known", str(options.known)] if options.known is not None else []
    seeds = ["--seeds", str(len(options.seed_list))] if options.name != "worth" else []
    seeds += ["--first-seed", str(options.first_seed)] if options.first_seed else []
    return [
        *("easq-rec", "study", options.name, *seeds, "--budget", options.budget),
        *("--out", str(options.directory), *where, *world, *data, *recipe),
    ]
