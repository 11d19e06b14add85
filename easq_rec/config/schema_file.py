"""Reads and writes a feature schema as a TOML file, for logs without a recipe. One error lists all problems.

item = "video_id"             also: trigger, satisfaction_dim, count_bucket_minutes

[answers]                     optional; default: dissatisfied, uncertain, satisfied
names = ["no", "yes"]         also: first, uncertain, dissatisfied, satisfied

[[tables]]                    also: id_space, admit_after
name = "video"
rows = 65536
dim = 32

[[candidate]]                 as [[user]] and [[history]]; also: the other fields of `Feature`
name = "video_id"
table = "video"

[[satisfaction]]              optional: counts that only the satisfaction tower reads
name = "video_answer"
kind = "count"

[[outcomes]]
name = "long_view"
weight = 1.0

[[counts]]                    optional; also: half_life_h, bucket_minutes, frozen
name = "video_rate"
outcome = "long_view"         or: of = "answer"
keys = ["video_id"]

[[count_ranges]]              optional
name = "duration"
column = "duration_ms"
edges = [10000.0, 60000.0]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from easq_rec import json_file
from easq_rec.config.parse import entry_place, parse, read_text, remedy, toml_values
from easq_rec.config.schema import FeatureSchema

GROUPS = ("tables", "user", "history", "candidate", "satisfaction", "outcomes", "counts", "count_ranges")
"""Lists of tables in the file, in file order."""


def load_schema(path: Path) -> FeatureSchema:
    """Reads a schema. Raises UserError that lists all problems of the file, each with its place and the remedy."""
    return parse_schema(read_text(path, f"--schema {path}"), str(path))


def parse_schema(text: str, where: str) -> FeatureSchema:
    """Parses the text of a schema file; `where` names the file in messages."""
    values = toml_values(text, where)
    return parse(FeatureSchema, values, title=f"{where} is not a feature schema", form="toml", also=_misnamed(values))


def schema_to_toml(
    schema: FeatureSchema, *, header: str = "", notes: Mapping[tuple[str, str], str] | None = None
) -> str:
    """The text of a schema file; `load_schema` restores an equal schema.

    Args:
        header: comment at the top; may have several lines.
        notes: comment above an entry, by (list, name): ("candidate", "video_id").
    """
    lines = [*_comment(header), f"item = {_literal(schema.item)}"]
    for key in ("trigger", "satisfaction_dim", "count_bucket_minutes"):
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
    """Problems with duplicate names and unknown tables; the entries may also have other faults."""
    named: dict[str, list[Any]] = {}
    for group in GROUPS:
        found = values.get(group)
        entries = found if isinstance(found, list) else []
        named[group] = [entry.get("name") if isinstance(entry, dict) else None for entry in entries]
        first: dict[str, int] = {}
        for index, name in enumerate(named[group]):
            if isinstance(name, str) and first.setdefault(name, index) != index:
                yield f"{_place(group, index)}: name: {name!r} is already that of #{first[name] + 1}: choose another"
    tables = [name for name in named["tables"] if isinstance(name, str)]
    for group in ("user", "history", "candidate", "satisfaction"):
        for index in range(len(named[group])):
            entry = values[group][index]
            table = entry.get("table") if isinstance(entry, dict) else None
            if isinstance(table, str) and table not in tables:
                yield f"{_place(group, index)}: table: {table!r} is not a table of this file: {remedy(table, tables)}"


def _place(group: str, index: int) -> str:
    return entry_place(group, index, "toml")


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def _fields(entry: Any) -> list[str]:
    """One line for each field of a dataclass that differs from its default."""
    values = [(field, getattr(entry, field.name)) for field in dataclasses.fields(entry)]
    return [f"{field.name} = {_literal(value)}" for field, value in values if value != field.default]


def _literal(value: object) -> str:
    """A TOML value. TOML strings are JSON strings in which DEL is also escaped."""
    if isinstance(value, str):
        return json_file.text(value, ascii_only=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_literal, value))}]"
    return repr(value)


def _comment(text: str) -> list[str]:
    return [f"# {line}".rstrip() for line in text.splitlines()]
