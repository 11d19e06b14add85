"""`easq-rec data inspect`: a report of a data directory, a first schema, and plots."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from easq_rec.config.answer_scale import THREE_ANSWERS
from easq_rec.config.schema_file import load_schema
from easq_rec.data import files
from easq_rec.data.layout import Layout
from easq_rec.errors import UserError
from easq_rec.tools.inspect.checks import Refusals, find_duplicates, find_refusals
from easq_rec.tools.inspect.draft import draft
from easq_rec.tools.inspect.plots import plot
from easq_rec.tools.inspect.report import Inspection, text
from easq_rec.tools.inspect.scan import scan


def inspect(directory: files.Location, out: Path, schema: Path | None) -> None:
    """Prints the report and writes schema.toml, report.json and PNGs to `out`.

    Args:
        directory: holds requests/ and answers/, or is a dataset itself.
        schema: TOML file; what its reader would refuse is reported as well.

    Raises:
        UserError: no data, unreadable files, or files of different columns.
    """
    given = None if schema is None else load_schema(schema)
    folders = find_datasets(directory)
    scale = THREE_ANSWERS if given is None else given.answers
    scans = {name: scan(folder, answers=scale, progress=True) for name, folder in folders.items()}
    refusals: dict[str, Refusals] | None = None
    if given is not None:
        refusals = {
            name: find_refusals(folder, Layout.of(given, answers=name == "answers")) for name, folder in folders.items()
        }
    found = Inspection(
        scans=scans,
        duplicates={name: find_duplicates(folder, scans[name].rows) for name, folder in folders.items()},
        refusals=refusals,
        draft=draft(next(iter(scans.values())), scans.get("answers")),
    )
    print(text(found))
    _write(found, out)
    print(f"\nwritten to {out}: {', '.join(sorted(file.name for file in out.iterdir()))}")
    if found.draft.schema is not None and "answers" in folders:
        print(f"next: easq-rec train easq --data {files.shown(directory)} --schema {out / 'schema.toml'}")


def find_datasets(directory: files.Location) -> dict[str, files.Location]:
    """Folders by name, the requests first. Raises UserError where one is missing."""
    shown = files.shown(directory)
    if not files.is_dir(directory):
        raise UserError(f"{shown}: no such directory")
    folders: dict[str, files.Location] = {name: files.join(directory, name) for name in ("requests", "answers")}
    there = [name for name, folder in folders.items() if files.is_dir(folder)]
    if there == ["requests"]:
        alone = files.shown(folders["requests"])
        raise UserError(f"{shown}: no folder answers/ beside requests/; without a questionnaire, inspect {alone} alone")
    if there == ["answers"]:
        raise UserError(f"{shown}: no folder requests/ beside answers/ (see the data contract in the README)")
    return folders if there else {Path(shown).absolute().name: directory}


def _write(found: Inspection, out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.json").write_text(json.dumps(found.values(), indent=2) + "\n")
        if found.draft.schema is not None:
            (out / "schema.toml").write_text(found.draft.toml(), encoding="utf-8")
        else:
            print("no schema.toml: see above for what is missing", file=sys.stderr)
        plot(found, out)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error}") from error
