"""Config dataclasses to plain JSON values and back, for ``RUN_DIR/config.json``."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain JSON values; `from_dict` is its inverse."""
    return dataclasses.asdict(config)


def from_dict(cls: type[Any], values: dict[str, Any], where: str = "config") -> Any:
    """Rebuilds a config dataclass from `to_dict`'s result. Raises ValueError on unknown or missing fields."""
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"{where}: unknown field {unknown[0]!r}; known: {sorted(hints)}")
    try:
        return cls(**{name: _decode(hints[name], value, f"{where}.{name}") for name, value in values.items()})
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def _decode(hint: Any, value: Any, where: str) -> Any:
    """Turns a JSON value into what the annotation asks for: nested dataclasses and tuples; scalars pass through."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if value is None else _decode(options[0], value, where)
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return from_dict(hint, value, where)
    if origin is tuple:
        item = typing.get_args(hint)[0]
        return tuple(_decode(item, entry, f"{where}[{index}]") for index, entry in enumerate(value))
    if origin is dict:
        item = typing.get_args(hint)[1]
        return {name: _decode(item, entry, f"{where}[{name!r}]") for name, entry in value.items()}
    return value
