"""The format of plan.json: where each table lies, for people, for other runs, and for resuming.

    {"format": 1, "device": "cpu", "ranks": 2, "ranks_per_host": 2, "tables": {
    "video": {"rows": 64, "dim": 256, "type": "row_wise", "kernel": "fused", "shards":
        [{"rank": 0, "rows": [0, 32], "columns": [0, 256]}, {"rank": 1, "rows": [32, 64], "columns": [0, 256]}]}}}

Ranges of rows and columns include the first and exclude the last number. `easq_rec.training.sharding.plan_conversion`
converts such a plan to TorchRec's and checks it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from easq_rec import json_file
from easq_rec.errors import UserError
from easq_rec.run_directory.whole_file import replace

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ClusterShape:
    """The devices and ranks that a plan is made for. It is valid for no others."""

    device: str
    ranks: int
    ranks_per_host: int


@dataclass(frozen=True, kw_only=True)
class PlacedShard:
    """A part of a table and the rank that holds it."""

    rank: int
    rows: tuple[int, int]
    columns: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class PlacedTable:
    """A table and its shards."""

    rows: int
    dim: int
    type: str
    """TorchRec's sharding type."""
    kernel: str
    load_factor: float | None = None
    """Share of the rows that the kernel keeps in its cache; None: the kernel's default, or it has no cache."""
    shards: tuple[PlacedShard, ...]

    @property
    def ranks(self) -> list[int]:
        return [shard.rank for shard in self.shards]


@dataclass(frozen=True, kw_only=True)
class PlacementPlan:
    """The content of a plan file."""

    shape: ClusterShape
    tables: dict[str, PlacedTable]


def plan_text(plan: PlacementPlan) -> str:
    """The plan as JSON with one table per line."""
    head = json_file.text({"format": FORMAT, **asdict(plan.shape)})
    tables = {name: _json_value(table) for name, table in plan.tables.items()}
    body = ",\n".join(f"{json_file.text(name)}: {json_file.text(table)}" for name, table in tables.items())
    return f'{head[:-1]}, "tables": {{\n{body}\n}}}}\n'


def write_plan(path: Path, plan: PlacementPlan) -> None:
    """Writes a plan under a temporary name and publishes it by a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, plan_text(plan))


def read_plan(path: Path, *, source: str) -> PlacementPlan:
    """The plan in a file.

    Args:
        source: what errors call the file.

    Raises:
        UserError: the file is not a plan, or has another format. Names source and table.
    """
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:
        raise UserError(f"{source} cannot be read as a plan: {error!r}") from error
    return parse_plan(text, source=source)


def parse_plan(text: str, *, source: str) -> PlacementPlan:
    """The plan in a text that `plan_text` wrote.

    Raises:
        UserError: as `read_plan`.
    """
    try:
        content = json.loads(text)
        found = content["format"]
        shape = ClusterShape(**{field.name: content[field.name] for field in fields(ClusterShape)})
        entries: dict[str, dict[str, Any]] = dict(content["tables"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{source} cannot be read as a plan: {error!r}") from error
    if found != FORMAT:
        raise UserError(f"{source} has format {found!r}, this version reads format {FORMAT}")
    return PlacementPlan(shape=shape, tables={name: _table(entry, name, source) for name, entry in entries.items()})


def _json_value(table: PlacedTable) -> dict[str, Any]:
    return {name: value for name, value in asdict(table).items() if not (name == "load_factor" and value is None)}


def _table(entry: dict[str, Any], name: str, source: str) -> PlacedTable:
    try:
        shards = tuple(
            PlacedShard(rank=part["rank"], rows=_bounds(part["rows"]), columns=_bounds(part["columns"]))
            for part in entry["shards"]
        )
        return PlacedTable(
            rows=entry["rows"],
            dim=entry["dim"],
            type=entry["type"],
            kernel=entry["kernel"],
            load_factor=entry.get("load_factor"),
            shards=shards,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{source}: table {name!r}: cannot be read: {error!r}") from error


def _bounds(values: list[int]) -> tuple[int, int]:
    first, end = values
    return first, end
