"""`easq-rec runs show`: all that an operator may ask of one run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from easq_rec.config.recipes import recipe
from easq_rec.config.serialization import to_dict
from easq_rec.run_directory.checkpoint_files import CHECKSUMS, DAMAGED, check_format, damage
from easq_rec.run_directory.formatting import metric
from easq_rec.run_directory.listing import row, table
from easq_rec.run_directory.status import Event, Run, checkpoint_step, read_run

QUIET = {"window"}
"""Events that come all the time."""
UNTOLD = {"host", "pid", "restarts", "world_size", "local_rank", "step", "traceback", "report"}
UNTOLD |= {"metrics", "argv", "versions"}
"""Fields that a line of the timeline leaves out."""
PLACES = ("run_dir", "schema_file", "data.path", "schema")


def show_run(directory: Path, *, verify: bool) -> int:
    """Prints one run; returns the exit code, which is 1 where `verify` finds a damaged checkpoint.

    Args:
        verify: read every file of every checkpoint and compare its checksum.

    Raises:
        ValueError: it is no run.
    """
    run = read_run(directory)
    problems = {path: damage(path) for path in run.checkpoints} if verify else {}
    for title, lines in sections(run, problems if verify else None):
        found = list(lines)
        if found:
            print(f"\n{title}" if title else "", *(f"  {line}" if title else line for line in found), sep="\n")
    return 1 if any(problems.values()) else 0


def sections(run: Run, problems: dict[Path, str | None] | None) -> Iterator[tuple[str, Iterator[str]]]:
    """(title, lines)

    Args:
        problems: of each checkpoint what is wrong with its files; None: they were not read.
    """
    yield "", iter(table([row(run)]))
    yield "differs from its recipe", differences(run.config)
    yield "what happened", timeline(run)
    yield "held-out requests", _metrics(run)
    yield "checkpoints", checkpoints(run, problems)
    yield "tables", _plan(run.directory / "plan.json")
    yield "files", _files(run.directory)


def differences(config: dict[str, Any]) -> Iterator[str]:
    """Fields that have another value than the recipe of that name gives them."""
    try:
        base = json.loads(json.dumps(to_dict(recipe(str(config["recipe"])))))
    except KeyError:
        yield f"{config['recipe']} is no recipe of this version"
        return
    wanted, stored = dict(_flat(base)), dict(_flat(config))
    for name in sorted({*wanted, *stored}):
        if not name.startswith(PLACES) and wanted.get(name) != stored.get(name):
            yield f"{name} {json.dumps(stored.get(name))} (recipe: {json.dumps(wanted.get(name))})"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}" if name else key)
    else:
        yield name, value


def timeline(run: Run) -> Iterator[str]:
    """Everything but the windows of steps: rank 0's, and of other ranks what went wrong there."""
    for event in run.events:
        if event.name not in QUIET and (event.rank == 0 or event.level != "INFO"):
            yield _line(event)
            trace = str(event.fields.get("traceback", "")).strip().splitlines()
            told = str(event.fields.get("report", "")).splitlines()
            yield from (f"    {text}" for text in (*trace[-TRACE:], *told[:TRACE]))
    windows = [event for event in run.events if event.name in QUIET and event.rank == 0]
    if windows:
        yield f"last window: {_line(windows[-1])}"


TRACE = 6
"""Lines of a traceback, or of a report, that are shown; all are in the log."""


def _line(event: Event) -> str:
    told = " ".join(f"{name} {_short(value)}" for name, value in event.fields.items() if name not in UNTOLD)
    # None: it was before the model was there.
    step = f"step {event.fields['step']}" if event.fields.get("step") is not None else ""
    ranks = f"of {event.fields.get('world_size')} on {event.fields.get('host')}" if event.name == "start" else ""
    words = (event.time.strftime("%Y-%m-%d %H:%M:%SZ"), f"rank {event.rank}", event.name, step, ranks, told)
    return " ".join(word for word in words if word)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(part)}" for name, part in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _metrics(run: Run) -> Iterator[str]:
    if run.held_out is not None:
        yield f"at step {run.held_out.step} ({run.held_out.split})"
        yield from (f"{name:<38}{metric(value)}" for name, value in run.held_out.values.items())


def checkpoints(run: Run, problems: dict[Path, str | None] | None) -> Iterator[str]:
    """Each with what is known of its state; `problems` as in `sections`."""
    for path in run.checkpoints:
        size = sum(file.stat().st_size for file in path.iterdir())
        score = check_format(path).get("score")
        told = [f"step {checkpoint_step(path)}", f"{size / 2**20:,.0f} MiB"]
        if score is not None:
            told.append(f"score {metric(score)}")
        if problems is not None:
            told.append(problems[path] or "whole: every file matches its checksum")
        elif not (path / CHECKSUMS).is_file():
            told.append(f"{CHECKSUMS} is missing")
        yield ", ".join(told)
    for path in sorted((run.directory / "checkpoints").glob(f"*{DAMAGED}")):
        yield f"{path.name}: set aside"


def _plan(path: Path) -> Iterator[str]:
    if not path.is_file():
        return
    try:
        plan = json.loads(path.read_text())
        for name, entry in plan["tables"].items():
            ranks = ", ".join(str(rank) for rank in sorted({shard["rank"] for shard in entry["shards"]}))
            size = f"{entry['rows']:>13,} x {entry['dim']:<5}"
            yield f"{name:<24}{size}{entry['type']} ({entry['kernel']}) on rank {ranks}"
    except (ValueError, KeyError, TypeError) as error:
        yield f"{path} is no plan: {error!r}"


def _files(directory: Path) -> Iterator[str]:
    for entry in sorted(directory.iterdir()):
        yield f"{entry}{'/' if entry.is_dir() else ''}"
