"""Converts plain values, as in JSON and TOML, to dataclasses by their type hints.

One error lists every problem, each with its place and the remedy. Hints may be nested dataclasses, tuples, dicts with
text keys, Literal, Optional, unions and scalars. For a union of dataclasses, the key `kind` holds the class name.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import tomllib
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from easq_rec import json_file
from easq_rec.errors import UserError

Parsed = TypeVar("Parsed")
Form = Literal["json", "toml"]
"""The input format: messages use its terms and notation."""

KIND = "kind"
"""Key that holds the class name of a value of a union of dataclasses."""
SCALARS = {str: "text in quotes", int: "a whole number", float: "a number", bool: "true or false"}
TABLES = {"json": "an object", "toml": "a table"}


def parse(cls: type[Parsed], values: object, *, title: str, form: Form, also: Iterable[str] = ()) -> Parsed:
    """Converts plain values to the dataclass `cls`.

    Args:
        title: first line of the error, before the problems.
        also: problems that the caller found in the values; they are listed last.

    Raises:
        UserError: unknown or missing keys, values of a wrong type, or values that the dataclasses reject.
    """
    parser = _Parser(form=form, also=tuple(also))
    parsed = parser.value(cls, values, "")
    if parser.problems:
        raise UserError(f"{title}:\n" + "\n".join(f"  {problem}" for problem in parser.problems))
    assert isinstance(parsed, cls)
    return parsed


def read_text(path: Path, name: str) -> str:
    """The text of a file. Raises UserError that calls the file `name`."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: cannot be read: {error}") from error


def toml_values(text: str, name: str) -> dict[str, Any]:
    """The tables of a TOML file. Raises UserError that calls the file `name`."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{name}: invalid TOML: {error}") from error


@functools.cache
def field_hints(cls: Any) -> dict[str, Any]:
    """Type hints of a dataclass's fields, without Annotated metadata."""
    hints = typing.get_type_hints(cls)
    return {one.name: hints[one.name] for one in dataclasses.fields(cls) if one.init}


def options(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def dataclasses_of(hint: Any) -> dict[str, type[Any]]:
    """The dataclasses that a hint allows, by name."""
    classes = (one for one in options(hint) if isinstance(one, type) and dataclasses.is_dataclass(one))
    return {one.__name__: one for one in classes}


def remedy(word: str, known: Iterable[str]) -> str:
    """Suggests the closest known word, or lists all of them."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def entry_place(place: str, index: int, form: Form) -> str:
    """The name of an entry of a list of dataclasses in messages."""
    return f"[[{place}]] #{index + 1}" if form == "toml" else f"{place}[{index}]"


@dataclass(kw_only=True)
class _Parser:
    """Collects problems; a value with a problem becomes None."""

    form: Form
    also: tuple[str, ...]
    problems: list[str] = field(default_factory=list)

    def value(self, hint: Any, value: Any, place: str) -> Any:
        allowed = options(hint)
        if value is None and type(None) in allowed:
            return None
        classes = dataclasses_of(hint)
        if classes and isinstance(value, dict):
            return self._member(classes, value, place)
        for option in allowed:
            match typing.get_origin(option), value:
                case None, int() if option is float and not isinstance(value, bool):
                    return float(value)
                case None, _ if option is Any or (option in SCALARS and type(value) is option):
                    return value
                case typing.Literal, _ if any(type(value) is type(one) and value == one for one in _args(option)):
                    return value
                case origin, dict() if origin is dict:
                    item = _args(option)[1]
                    return {name: self.value(item, entry, _joined(place, name)) for name, entry in value.items()}
                case origin, list() | tuple() if origin is tuple:
                    return self._entries(_args(option), value, place)
        # TOML has no null.
        named = [option for option in allowed if option is not type(None) or self.form == "json"]
        self._refuse(value, place, " or ".join(dict.fromkeys(self._expected(option, place) for option in named)))
        return None

    def _member(self, classes: dict[str, type[Any]], values: dict[str, Any], place: str) -> Any:
        if len(classes) == 1:
            return self._table(next(iter(classes.values())), values, place)
        where, names = _joined(place, KIND), ", ".join(map(json_file.text, classes))
        match values.get(KIND):
            case None:
                self.problems.append(f"{where}: missing: add one of {names}")
            case str(name) if name in classes:
                return self._table(classes[name], {key: one for key, one in values.items() if key != KIND}, place)
            case other:
                self._refuse(other, where, f"one of {names}")
        return None

    def _table(self, cls: Any, values: dict[str, Any], place: str) -> Any:
        before, hints = len(self.problems), field_hints(cls)
        for key in values:
            if key not in hints:
                self.problems.append(f"{_joined(place, key)}: unknown key: {remedy(key, hints)}")
        arguments = {}
        for one in dataclasses.fields(cls):
            if one.name in values:
                arguments[one.name] = self.value(hints[one.name], values[one.name], _joined(place, one.name))
            elif one.init and one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
                self.problems.append(self._missing(hints[one.name], place, one.name))
        if not place:
            self.problems += self.also
        if len(self.problems) > before:
            return None
        try:
            return cls(**arguments)
        except UserError as error:
            # Most messages name their place, but an entry of a list does not know its position.
            where = "" if not place or str(error).startswith(place) else f"{place}: "
            self.problems += [f"{where}{line}" for line in str(error).splitlines()]
            return None

    def _entries(self, items: tuple[Any, ...], values: list[Any] | tuple[Any, ...], place: str) -> Any:
        hints = [items[0]] * len(values) if items[-1] is Ellipsis else list(items)
        if len(hints) != len(values):
            self._refuse(values, place, f"a list of {len(hints)}")
            return None
        parsed = []
        for index, (hint, value) in enumerate(zip(hints, values, strict=True)):
            form = self.form if dataclasses_of(hint) else "json"
            parsed.append(self.value(hint, value, entry_place(place, index, form)))
        return tuple(parsed)

    def _refuse(self, value: object, place: str, expected: str) -> None:
        self.problems.append(f"{place}: is {value!r}, expected {expected}" if place else f"expected {expected}")

    def _expected(self, option: Any, place: str) -> str:
        origin = typing.get_origin(option)
        if option is type(None):
            return "null"
        if origin is typing.Literal:
            return "one of " + ", ".join(json_file.text(one) for one in _args(option))
        if origin is tuple:
            tables = self.form == "toml" and dataclasses_of(_args(option)[0])
            return f"tables that each begin with the line [[{place}]]" if tables else "a list"
        return SCALARS.get(option, TABLES[self.form])

    def _missing(self, hint: Any, place: str, name: str) -> str:
        path, option = _joined(place, name), options(hint)[0]
        example = '"..."' if option is str else f"({self._expected(option, path)})"
        if self.form == "json":
            return f'{path}: missing: add "{name}": {example}'
        if typing.get_origin(option) is tuple and dataclasses_of(_args(option)[0]):
            return f"[[{path}]]: missing: add at least one"
        if typing.get_origin(option) is dict or dataclasses.is_dataclass(option):
            return f"{path}: missing: add a table [{path}]"
        return f"{path}: missing: add {name} = {example}"


def _args(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint)


def _joined(place: str, key: str) -> str:
    if not place:
        return key
    return f"{place}: {key}" if place.startswith("[[") and ": " not in place else f"{place}.{key}"
