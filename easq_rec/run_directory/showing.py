"""`easq-rec runs show`: the details of one run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from easq_rec import json_file
from easq_rec.config.recipes import recipe
from easq_rec.config.serialization import to_dict
from easq_rec.run_directory.checksums import damage
from easq_rec.run_directory.event_file import WINDOW, Event
from easq_rec.run_directory.formatting import metric
from easq_rec.run_directory.listing import row, table
from easq_rec.run_directory.paths import CheckpointDirectory, RunDirectory, damaged
from easq_rec.run_directory.plan_file import read_plan
from easq_rec.run_directory.progress_file import read_score
from easq_rec.run_directory.status import RunStatus, read_run

HIDDEN = {"host", "pid", "restarts", "world_size", "local_rank", "step", "traceback", "report"}
HIDDEN |= {"metrics", "argv", "versions"}
"""Fields that are not printed in the timeline."""
PLACES = ("run_dir", "schema_file", "data.path", "schema")
"""Beginnings of the names of fields that are not compared with the recipe."""
TRACE = 6
"""Lines of a traceback or report that are printed; the log has all of them."""

Problems = dict[CheckpointDirectory, str | None]
"""What is wrong with the files of each checkpoint; None: nothing."""


def show_run(directory: Path, *, verify: bool) -> int:
    """Prints one run; returns the exit code: 1 if `verify` finds a damaged checkpoint.

    Args:
        verify: compare every file of every checkpoint with its checksum.

    Raises:
        UserError: the directory is not that of a run.
    """
    run = read_run(directory)
    problems = {checkpoint: damage(checkpoint) for checkpoint in run.checkpoints} if verify else None
    for title, lines in sections(run, problems):
        found = list(lines)
        if found:
            print(f"\n{title}" if title else "", *(f"  {line}" if title else line for line in found), sep="\n")
    return 1 if problems is not None and any(problems.values()) else 0


def sections(run: RunStatus, problems: Problems | None) -> Iterator[tuple[str, Iterator[str]]]:
    """(title, lines) of each section.

    Args:
        problems: None: the files of the checkpoints were not read.
    """
    yield "", iter(table([row(run)]))
    yield "differs from its recipe", differences(run.config)
    yield "what happened", timeline(run)
    yield "held-out requests", _metrics(run)
    yield "checkpoints", checkpoints(run, problems)
    yield "tables", _plan(RunDirectory(run.directory).plan)
    yield "files", _files(run)


def differences(config: dict[str, Any]) -> Iterator[str]:
    """Fields whose value differs from that of the recipe."""
    try:
        base = json.loads(json_file.text(to_dict(recipe(str(config["recipe"])))))
    except KeyError:
        yield f"{config['recipe']} is no recipe of this version"
        return
    wanted, stored = dict(_flat(base)), dict(_flat(config))
    for name in sorted({*wanted, *stored}):
        if not name.startswith(PLACES) and wanted.get(name) != stored.get(name):
            yield f"{name} {json_file.text(stored.get(name))} (recipe: {json_file.text(wanted.get(name))})"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}" if name else key)
    else:
        yield name, value


def timeline(run: RunStatus) -> Iterator[str]:
    """The events of rank 0, except windows of steps, and the warnings and errors of other ranks."""
    for event in run.events:
        if event.name != WINDOW and (event.rank == 0 or event.level != "INFO"):
            yield _line(event)
            trace = str(event.fields.get("traceback", "")).strip().splitlines()
            report = str(event.fields.get("report", "")).splitlines()
            yield from (f"    {text}" for text in (*trace[-TRACE:], *report[:TRACE]))
    windows = [event for event in run.events if event.name == WINDOW and event.rank == 0]
    if windows:
        yield f"last window: {_line(windows[-1])}"


def _line(event: Event) -> str:
    fields = " ".join(f"{name} {_short(value)}" for name, value in event.fields.items() if name not in HIDDEN)
    # The step is None before the model is built.
    step = f"step {event.fields['step']}" if event.fields.get("step") is not None else ""
    ranks = f"of {event.fields.get('world_size')} on {event.fields.get('host')}" if event.name == "start" else ""
    words = (event.time.strftime("%Y-%m-%d %H:%M:%SZ"), f"rank {event.rank}", event.name, step, ranks, fields)
    return " ".join(word for word in words if word)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(part)}" for name, part in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _metrics(run: RunStatus) -> Iterator[str]:
    if run.held_out is not None:
        yield f"at step {run.held_out.step} ({run.held_out.split})"
        yield from (f"{name:<38}{metric(value)}" for name, value in run.held_out.values.items())


def checkpoints(run: RunStatus, problems: Problems | None) -> Iterator[str]:
    """Each checkpoint with its size, score and state; `problems` as in `sections`."""
    for checkpoint in run.checkpoints:
        size = sum(file.stat().st_size for file in checkpoint.path.iterdir())
        score = read_score(checkpoint)
        words = [f"step {checkpoint.step}", f"{size / 2**20:,.0f} MiB"]
        if score is not None:
            words.append(f"score {metric(score)}")
        if problems is not None:
            words.append(problems[checkpoint] or "whole: every file matches its checksum")
        elif not checkpoint.checksums.is_file():
            words.append(f"{checkpoint.checksums.name} is missing")
        yield ", ".join(words)
    for path in damaged(RunDirectory(run.directory).checkpoints):
        yield f"{path.name}: set aside"


def _plan(path: Path) -> Iterator[str]:
    """Where each table lies; the error of a plan that cannot be read."""
    if not path.is_file():
        return
    try:
        plan = read_plan(path, source=str(path))
    except ValueError as error:
        yield str(error)
        return
    for name, placed in plan.tables.items():
        ranks = ", ".join(str(rank) for rank in sorted(set(placed.ranks)))
        size = f"{placed.rows:>13,} x {placed.dim:<5}"
        yield f"{name:<24}{size}{placed.type} ({placed.kernel}) on rank {ranks}"


def _files(run: RunStatus) -> Iterator[str]:
    for entry in sorted(run.directory.iterdir()):
        yield f"{entry}{'/' if entry.is_dir() else ''}"
    for name, count in run.torn.items():
        yield f"{name}: {count:,} incomplete {'line was' if count == 1 else 'lines were'} skipped"
