"""TOML to a `Build`. One message lists all that is wrong, each with its place and the remedy."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from pathlib import Path
from typing import Any

from easq_rec.tools.builder.config import Build, Field

WORDS = {str: "text in quotes", int: "a whole number", float: "a number", bool: "true or false"}


def load(path: Path) -> Build:
    """Reads the builder's configuration. Raises ValueError that lists all problems of the file."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: is not TOML: {error}") from error
    return parse(values, str(path))


def parse(values: dict[str, Any], where: str) -> Build:
    """The same for the parsed tables; `where` names them in messages."""
    problems: list[str] = []
    build = _table(Build, values, "", problems)
    if problems:
        raise ValueError(f"{where} does not describe a build:\n" + "\n".join(f"  {problem}" for problem in problems))
    assert isinstance(build, Build)
    return build


def _table(cls: type[Any], values: dict[str, Any], place: str, problems: list[str]) -> Any:
    """The dataclass `cls` of a TOML table; None after adding to `problems`."""
    before = len(problems)
    hints = typing.get_type_hints(cls)
    prefix = f"{place}." if place else ""
    for key in values:
        if key not in hints:
            close = difflib.get_close_matches(key, hints, n=1)
            remedy = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(hints)}"
            problems.append(f"{prefix}{key}: unknown key: {remedy}")
    arguments = {}
    for field in dataclasses.fields(cls):
        if field.name in values:
            arguments[field.name] = _value(hints[field.name], values[field.name], f"{prefix}{field.name}", problems)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"{prefix}{field.name}: missing: add {_example(hints[field.name], prefix, field.name)}")
    if len(problems) > before:
        return None
    try:
        return cls(**arguments)
    except ValueError as error:
        problems.extend(str(error).splitlines())
        return None


def _value(hint: Any, value: Any, place: str, problems: list[str]) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        # TOML has no null: a key that is there has a value.
        return _value(typing.get_args(hint)[0], value, place, problems)
    if hint is Field and isinstance(value, str):
        # Outcomes are mostly flags, features mostly ids.
        value = {"column": value, **({"type": "flag"} if ".outcomes." in place else {})}
    elif hint is Field and isinstance(value, dict) and ".outcomes." in place:
        value = {"type": "flag", **value}
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        if isinstance(value, dict):
            return _table(hint, value, place, problems)
        expected = "a table"
    elif origin is typing.Literal:
        if value in typing.get_args(hint):
            return value
        expected = "one of " + ", ".join(repr(option) for option in typing.get_args(hint))
    elif origin is dict:
        if isinstance(value, dict):
            inner = typing.get_args(hint)[1]
            return {name: _value(inner, entry, f"{place}.{name}", problems) for name, entry in value.items()}
        expected = "a table"
    elif origin is tuple:
        if isinstance(value, list):
            inner = typing.get_args(hint)[0]
            return tuple(_value(inner, entry, f"{place}[{number}]", problems) for number, entry in enumerate(value))
        expected = "a list"
    else:
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if type(value) is hint:
            return value
        expected = WORDS[hint]
    problems.append(f"{place}: is {value!r}, expected {expected}")
    return None


def _example(hint: Any, prefix: str, name: str) -> str:
    """What to write for a key that is missing."""
    if typing.get_origin(hint) is dict or dataclasses.is_dataclass(hint):
        return f"a table [{prefix}{name}]"
    return f'{name} = "..."' if hint is str else f"{name} = {WORDS[hint]}"
