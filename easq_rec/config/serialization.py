"""Converts config dataclasses to plain JSON values and back, for ``RUN_DIR/config.json``."""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any, TypeVar

from easq_rec.config.parse import KIND, dataclasses_of, field_hints, options, parse, read_text
from easq_rec.errors import UserError

Parsed = TypeVar("Parsed")


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain JSON values; `from_dict` is its inverse."""
    values: dict[str, Any] = _plain(type(config), config)
    return values


def from_dict(cls: type[Parsed], values: object, title: str | None = None) -> Parsed:
    """Restores a config dataclass from the result of `to_dict`.

    Args:
        title: first line of the error.

    Raises:
        UserError: lists all unknown and missing fields and all values that are not allowed.
    """
    return parse(cls, values, title=title or f"not the values of a {cls.__name__}", form="json")


def read_json(path: Path, what: str) -> Any:
    """The values of a JSON file. Raises UserError that states the expected content, `what`."""
    try:
        return json.loads(read_text(path, str(path)))
    except RecursionError as error:
        raise UserError(f"{path} is not {what}: nested too deeply") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not {what}: {error}") from error


def load_json(cls: type[Parsed], path: Path, what: str = "the config.json of a run") -> Parsed:
    """Reads a config dataclass from a JSON file. Raises UserError as `from_dict` and `read_json` do."""
    return from_dict(cls, read_json(path, what), f"{path} is not {what}")


def _plain(hint: Any, value: Any) -> Any:
    """Like dataclasses.asdict, but a value of a union of dataclasses gets its class name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = field_hints(type(value))
        kind = {KIND: type(value).__name__} if len(dataclasses_of(hint)) > 1 else {}
        assert not (kind and KIND in hints), f"{type(value).__name__}.{KIND} is the name of the union's tag"
        return kind | {name: _plain(inner, getattr(value, name)) for name, inner in hints.items()}
    for option in options(hint):
        match typing.get_origin(option), typing.get_args(option), value:
            case origin, (item, more), tuple() if origin is tuple and more is Ellipsis:
                return tuple(_plain(item, entry) for entry in value)
            case origin, items, tuple() if origin is tuple:
                return tuple(_plain(item, entry) for item, entry in zip(items, value, strict=True))
            case origin, (_, item), dict() if origin is dict:
                return {name: _plain(item, entry) for name, entry in value.items()}
    return value
