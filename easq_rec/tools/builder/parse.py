"""Reads the TOML file of `easq-rec data build` as a `Build`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from easq_rec.config import parse as config_parser
from easq_rec.tools.builder.config import Build
from easq_rec.tools.builder.summary import TABLES

FIELDS = (("impressions", "outcomes"), ("impressions", "features"), ("users", "features"), ("videos", "features"))
"""Tables whose entries are `Field`s and can be given as a column name."""


def load(path: Path) -> Build:
    """Reads the builder's configuration. Raises UserError that lists all problems of the file."""
    return parse(config_parser.toml_values(config_parser.read_text(path, str(path)), str(path)), str(path))


def parse(values: dict[str, Any], where: str) -> Build:
    """Converts the parsed tables; `where` names the file in messages."""
    title = f"{where} does not describe a build"
    return config_parser.parse(Build, _written_out(values), title=title, form="toml", also=_unnamed(values))


def _unnamed(values: dict[str, Any]) -> list[str]:
    """Tables that are neither in files nor in a catalog."""
    given = {name: values.get(name) for name in TABLES}
    return [
        f'{name}.path: missing: add path = "...", or table = "..." for a table of Spark\'s catalog'
        for name, table in given.items()
        if isinstance(table, dict) and "path" not in table and "table" not in table
    ]


def _written_out(values: dict[str, Any]) -> dict[str, Any]:
    """The values with every `name = "column"` expanded to a table, and with the default type of outcomes."""
    written = dict(values)
    for part, group in FIELDS:
        table = written.get(part)
        if isinstance(table, dict) and isinstance(table.get(group), dict):
            # Outcomes are mostly flags, features mostly ids.
            usual = {"type": "flag"} if group == "outcomes" else {}
            fields = {name: _field(given, usual) for name, given in table[group].items()}
            written[part] = {**table, group: fields}
    return written


def _field(given: object, usual: dict[str, str]) -> object:
    """A field as a table; the parser rejects a value that is neither text nor a table."""
    match given:
        case str():
            return {**usual, "column": given}
        case dict():
            return {**usual, **given}
    return given
