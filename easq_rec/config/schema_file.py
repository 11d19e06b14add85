"""A feature schema as a TOML file, for logs that no recipe knows: read with all problems in one message, and written.

item = "video_id"             also: trigger, satisfaction_dim

[answers]                     may be left out: then it is dissatisfied, uncertain, satisfied
names = ["no", "yes"]         also: first, uncertain, dissatisfied, satisfied

[[tables]]                    also: id_space
name = "video"
rows = 65536
dim = 32

[[candidate]]                 as [[user]] and [[history]]; also: kind, source, pooling, transform
name = "video_id"
table = "video"

[[outcomes]]
name = "long_view"
weight = 1.0
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from easq_rec.config.parse import entry_place, parse, read_text, remedy, toml_values
from easq_rec.config.schema import FeatureSchema

GROUPS = ("tables", "user", "history", "candidate", "outcomes")
"""Lists of tables in the file, in the order in which they are written."""


def load_schema(path: Path) -> FeatureSchema:
    """Reads a schema. Raises UserError that lists all problems of the file, each with its place and the remedy."""
    return parse_schema(read_text(path, f"--schema {path}"), str(path))


def parse_schema(text: str, where: str) -> FeatureSchema:
    """The same for the file's text; `where` names it in messages."""
    values = toml_values(text, where)
    return parse(FeatureSchema, values, title=f"{where} is no feature schema", form="toml", also=_misnamed(values))


def schema_to_toml(
    schema: FeatureSchema, *, header: str = "", notes: Mapping[tuple[str, str], str] | None = None
) -> str:
    """The file of a schema, from which `load_schema` makes an equal one.

    Args:
        header: comment at the top; may have several lines.
        notes: comment in front of an entry, by (list, name): ("candidate", "video_id").
    """
    lines = [*_comment(header), f"item = {_literal(schema.item)}"]
    for key in ("trigger", "satisfaction_dim"):
        if getattr(schema, key) != getattr(FeatureSchema, key):
            lines.append(f"{key} = {_literal(getattr(schema, key))}")
    if schema.answers != FeatureSchema.answers:
        lines += ["", "[answers]", *_fields(schema.answers)]
    for group in GROUPS:
        for entry in getattr(schema, group):
            lines += ["", *_comment((notes or {}).get((group, entry.name), "")), f"[[{group}]]"]
            lines += _fields(entry)
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def _misnamed(values: dict[str, Any]) -> Iterator[str]:
    """Names that occur twice, and tables that do not exist; in entries that may be broken otherwise."""
    named: dict[str, list[Any]] = {}
    for group in GROUPS:
        found = values.get(group)
        entries = found if isinstance(found, list) else []
        named[group] = [entry.get("name") if isinstance(entry, dict) else None for entry in entries]
        first: dict[str, int] = {}
        for index, name in enumerate(named[group]):
            if isinstance(name, str) and first.setdefault(name, index) != index:
                yield f"{_place(group, index)}: name: {name!r} is that of #{first[name] + 1} already: choose another"
    tables = [name for name in named["tables"] if isinstance(name, str)]
    for group in ("user", "history", "candidate"):
        for index in range(len(named[group])):
            entry = values[group][index]
            table = entry.get("table") if isinstance(entry, dict) else None
            if isinstance(table, str) and table not in tables:
                yield f"{_place(group, index)}: table: {table!r} is no table of this file: {remedy(table, tables)}"


def _place(group: str, index: int) -> str:
    return entry_place(group, index, "toml")


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def _fields(entry: Any) -> list[str]:
    """A line for every field of a dataclass that is not at its default."""
    values = [(field, getattr(entry, field.name)) for field in dataclasses.fields(entry)]
    return [f"{field.name} = {_literal(value)}" for field, value in values if value != field.default]


def _literal(value: object) -> str:
    """A TOML value. Its strings are those of JSON, but for DEL, which they must escape as well."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return f"[{', '.join(map(_literal, value))}]"
    return repr(value)


def _comment(text: str) -> list[str]:
    return [f"# {line}".rstrip() for line in text.splitlines()]
