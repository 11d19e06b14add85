"""`easq-rec data inspect`: a report of a data directory, a draft of its feature schema, and plots."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from easq_rec import json_file, outputs
from easq_rec.config.answer_scale import THREE_ANSWERS
from easq_rec.config.schema_file import load_schema
from easq_rec.data import files
from easq_rec.data.count_files import declared_beside
from easq_rec.data.layout import Layout
from easq_rec.errors import UserError
from easq_rec.tools.inspect.checks import find_duplicates, find_refusals
from easq_rec.tools.inspect.draft import draft
from easq_rec.tools.inspect.plots import plot
from easq_rec.tools.inspect.report import Inspection, text
from easq_rec.tools.inspect.scan import scan
from easq_rec.tools.inspect.sql_dataset import SqlDataset, count_ids, engine


def inspect(directory: files.Location, out: Path, schema: Path | None) -> None:
    """Prints the report and writes schema.toml, report.json and PNGs to `out`.

    Args:
        directory: holds requests/ and answers/, or is a dataset itself.
        schema: TOML file; the report then lists all that its reader would refuse.

    Raises:
        UserError: no data, unreadable files, files whose columns differ, or `out` cannot be written.
    """
    given = None if schema is None else load_schema(schema)
    folders = find_datasets(directory)
    outputs.check_folder("--out", out, inputs=[Path(one) for one in folders.values() if not files.is_remote(one)])
    with engine() as connection:
        datasets = {name: SqlDataset(connection, name, folder) for name, folder in folders.items()}
        scale = THREE_ANSWERS if given is None else given.answers
        stats = {name: scan(dataset, answers=scale, progress=True) for name, dataset in datasets.items()}
        found = Inspection(
            datasets=stats,
            duplicates={name: find_duplicates(dataset) for name, dataset in datasets.items()},
            refusals={
                name: find_refusals(dataset, Layout.of(given, answers=name == "answers"))
                for name, dataset in datasets.items()
                if given is not None
            },
            draft=draft(
                next(iter(stats.values())),
                stats.get("answers"),
                partial(count_ids, datasets.values()),
                declared_beside(directory),
            ),
        )
    print(text(found))
    _write(found, out)
    print(f"\nwritten to {out}: {', '.join(sorted(file.name for file in out.iterdir()))}")
    if found.draft.schema is not None and "answers" in folders:
        print(f"next: easq-rec train easq --data {files.display_name(directory)} --schema {out / 'schema.toml'}")


def find_datasets(directory: files.Location) -> dict[str, files.Location]:
    """Folders by name, the requests first. Raises UserError if one is missing."""
    shown = files.display_name(directory)
    if not files.is_dir(directory):
        raise UserError(f"{shown}: no such directory")
    folders: dict[str, files.Location] = {name: files.join(directory, name) for name in ("requests", "answers")}
    present = [name for name, folder in folders.items() if files.is_dir(folder)]
    if present == ["requests"]:
        only = files.display_name(folders["requests"])
        raise UserError(f"{shown}: no folder answers/ next to requests/; without a questionnaire, inspect {only}")
    if present == ["answers"]:
        raise UserError(f"{shown}: no folder requests/ next to answers/ (see docs/reference/data-contract.md)")
    return folders if present else {Path(shown).absolute().name: directory}


def _write(found: Inspection, out: Path) -> None:
    with outputs.writing("--out", out):
        json_file.write(out / "report.json", found.values())
        if found.draft.schema is not None:
            (out / "schema.toml").write_text(found.draft.toml(), encoding="utf-8")
        else:
            print("no schema.toml: the report says what is missing", file=sys.stderr)
        plot(found, out)
