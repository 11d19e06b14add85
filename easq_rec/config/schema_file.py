"""A feature schema as a TOML file, for logs that no recipe knows: read with all problems in one message, and written.

item = "video_id"             also: trigger, satisfaction_dim

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
import difflib
import json
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from easq_rec.config.schema import Feature, FeatureSchema, Outcome, Table

GROUPS: dict[str, type[Any]] = {
    "tables": Table,
    "user": Feature,
    "history": Feature,
    "candidate": Feature,
    "outcomes": Outcome,
}
"""Lists of tables in the file, in the order in which they are written."""

SCALARS: dict[str, tuple[type[Any], str]] = {
    "item": (str, "the candidate column that identifies the item"),
    "trigger": (str, "the outcome that a candidate must have to be asked about"),
    "satisfaction_dim": (int, "the width of the satisfaction tower's own embeddings"),
}
"""Keys at the top of the file, which may be left out."""

WORDS = {str: "text in quotes", int: "a whole number", float: "a number"}


def load_schema(path: Path) -> FeatureSchema:
    """Reads a schema. Raises ValueError that lists all problems of the file, each with its place and the remedy."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--schema {path}: cannot be read: {error}") from error
    return parse_schema(text, str(path))


def parse_schema(text: str, where: str) -> FeatureSchema:
    """The same for the file's text; `where` names it in messages."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{where}: is not TOML: {error}") from error
    problems: list[str] = []
    known = (*GROUPS, *SCALARS)
    problems += [f"{key}: unknown key: {_remedy(key, known)}" for key in values if key not in known]
    fields: dict[str, Any] = {name: _entries(name, values.get(name), problems) for name in GROUPS}
    for key, (kind, meaning) in SCALARS.items():
        if key in values:
            fields[key] = values[key]
            if type(values[key]) is not kind:
                problems.append(f"{key}: is {values[key]!r}, expected {WORDS[kind]}: {meaning}")
    problems += _misnamed(values)
    if not problems:
        try:
            return FeatureSchema(**fields)
        except ValueError as error:
            problems = str(error).splitlines()
    raise ValueError(f"{where} is no feature schema:\n" + "\n".join(f"  {problem}" for problem in problems))


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
    for group in GROUPS:
        for entry in getattr(schema, group):
            lines += ["", *_comment((notes or {}).get((group, entry.name), "")), f"[[{group}]]"]
            for field in dataclasses.fields(entry):
                value = getattr(entry, field.name)
                if value != field.default:
                    lines.append(f"{field.name} = {_literal(value)}")
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def _entries(group: str, found: object, problems: list[str]) -> tuple[Any, ...]:
    """The dataclasses of a list of tables; what cannot be made is left out, after adding to `problems`."""
    if found is None:
        problems.append(f"[[{group}]]: missing: add at least one")
        return ()
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        problems.append(f"{group}: is {found!r}, expected tables that each begin with the line [[{group}]]")
        return ()
    made = (_entry(GROUPS[group], entry, _place(group, index), problems) for index, entry in enumerate(found))
    return tuple(entry for entry in made if entry is not None)


def _entry(cls: type[Any], values: dict[str, Any], place: str, problems: list[str]) -> Any:
    before = len(problems)
    hints = typing.get_type_hints(cls)
    for key, value in values.items():
        if key not in hints:
            problems.append(f"{place}: {key}: unknown key: {_remedy(key, hints)}")
        elif (expected := _refusal(hints[key], value)) is not None:
            problems.append(f"{place}: {key}: is {value!r}, expected {expected}")
    for field in dataclasses.fields(cls):
        if field.name not in values and field.default is dataclasses.MISSING:
            example = '"..."' if hints[field.name] is str else f"({WORDS[hints[field.name]]})"
            problems.append(f"{place}: {field.name}: missing: add {field.name} = {example}")
    if len(problems) > before:
        return None
    try:
        # TOML writes 1 for 1.0, which compares equal and is stored as another text.
        return cls(**{key: float(value) if hints[key] is float else value for key, value in values.items()})
    except ValueError as error:
        problems.append(f"{place}: {error}")
        return None


def _refusal(hint: Any, value: object) -> str | None:
    """What is expected in place of the value; None: it will do."""
    if isinstance(hint, types.UnionType):
        # TOML has no null: a key that is there has a value.
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is typing.Literal:
        options = typing.get_args(hint)
        return None if value in options else "one of " + ", ".join(f'"{option}"' for option in options)
    allowed = (int, float) if hint is float else (hint,)
    return None if type(value) in allowed else WORDS[hint]


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
                yield f"{_place(group, index)}: table: {table!r} is no table of this file: {_remedy(table, tables)}"


def _place(group: str, index: int) -> str:
    return f"[[{group}]] #{index + 1}"


def _remedy(word: str, known: typing.Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def _literal(value: object) -> str:
    """A TOML value. Its strings are those of JSON, but for DEL, which they must escape as well."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _comment(text: str) -> list[str]:
    return [f"# {line}".rstrip() for line in text.splitlines()]
