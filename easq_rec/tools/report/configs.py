"""Configurations side by side: the fields in which a run differs from its recipe or from another run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from easq_rec import json_file
from easq_rec.config.recipes import recipe
from easq_rec.config.serialization import to_dict

ELSEWHERE = ("recipe", "run_dir", "data.path", "schema_file")
"""Fields that other parts of the report show."""
ABSENT = object()
"""Value of a field that the config does not have."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A field that differs."""

    field: str
    """Its dotted name."""
    values: list[Any]
    """One value per run; `ABSENT` where a run has no such field."""
    defaults: list[Any]
    """The value in the recipe of each run; `ABSENT` where the recipe has no such field or is unknown."""

    def chosen(self, run: int) -> bool:
        """Whether a run differs from its recipe."""
        return self.values[run] is not ABSENT and self.values[run] != self.defaults[run]


def notable(configs: list[dict[str, Any]]) -> list[Setting]:
    """Fields in which a run differs from its recipe or from another run, grouped by part of the config."""
    flats = [dict(flattened(config)) for config in configs]
    defaults = [recipe_defaults(str(config.get("recipe"))) or flat for config, flat in zip(configs, flats, strict=True)]
    parts = list(dict.fromkeys(field.partition(".")[0] for flat in flats for field in flat))
    fields = {field for flat in flats for field in flat if field not in ELSEWHERE}
    found = [
        Setting(
            field=field,
            values=[flat.get(field, ABSENT) for flat in flats],
            defaults=[default.get(field, ABSENT) for default in defaults],
        )
        for field in sorted(fields, key=lambda field: (parts.index(field.partition(".")[0]), field))
    ]
    return [
        setting
        for setting in found
        if any(setting.chosen(run) for run in range(len(flats))) or any(v != setting.values[0] for v in setting.values)
    ]


@lru_cache(maxsize=32)
def recipe_defaults(name: str) -> dict[str, Any] | None:
    """The fields of a recipe's config by their dotted names; None for a recipe that this version does not have."""
    try:
        return dict(flattened(json.loads(json_file.text(to_dict(recipe(name))))))
    except KeyError:
        return None


def flattened(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every field. Entries of a list are named by their `name` where they have one."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from flattened(inner, f"{where}.{name}" if where else str(name))
    elif isinstance(value, list) and value and all(isinstance(entry, dict) and "name" in entry for entry in value):
        for entry in value:
            rest = {name: inner for name, inner in entry.items() if name != "name"}
            yield from flattened(rest, f"{where}.{entry['name']}")
    else:
        yield where, value


def shown(value: Any) -> str:
    """A field's value as text."""
    if value is ABSENT:
        return "–"
    if isinstance(value, list):
        return ", ".join(shown(entry) for entry in value) if value else "none"
    return json_file.text(value, ascii_only=False) if isinstance(value, dict) else str(value)
