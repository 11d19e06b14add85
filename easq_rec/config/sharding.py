"""Placement of the tables: constraints of the planner by table, or a whole plan from a file. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from easq_rec.config.schema import FeatureSchema, Table, require
from easq_rec.errors import UserError

TYPES = ("table_wise", "column_wise", "table_column_wise", "row_wise", "table_row_wise", "grid_shard")
"""TorchRec's sharding types that keep the fused optimizer; `training.sharding` checks which of them a device and a
module support."""
COLUMN_TYPES = ("column_wise", "table_column_wise", "grid_shard")
PINNED_TYPES = ("table_wise", "column_wise", "table_column_wise")
"""Types that can be placed on chosen ranks: the others take all ranks, or all ranks of one host."""

CACHED = "fused_uvm_caching"
KERNELS = ("fused", "fused_uvm", CACHED)
"""Storage of the rows: device memory; host memory, read directly; host memory with a cache in device memory. The CPU
supports only the first."""


@dataclass(frozen=True, kw_only=True)
class TableSharding:
    """Constraints of one table; the planner chooses everything else."""

    type: str | None = None
    """Sharding type, one of TYPES."""
    kernel: str | None = None
    """One of KERNELS; None: fused."""
    weights: Literal["fp32", "fp16"] | None = None
    """Precision of the stored rows; None: fp32. FP16 halves their memory and rounds every update."""
    min_partition: int | None = None
    """Minimum number of columns of a column-wise shard; None: TorchRec's 128. Shards get the smallest width from it on
    that divides the table's dim."""
    ranks: tuple[int, ...] | None = None
    """Ranks that hold the shards, used in turn if there are more shards; None: the planner chooses."""
    load_factor: float | None = None
    """Fraction of the rows in the cache of kernel fused_uvm_caching; None: TorchRec's 0.2."""

    def violations(self, table: Table) -> Iterator[tuple[str, object, str]]:
        """(field, value, what is allowed) of every problem for this table."""
        if self.type is not None and self.type not in TYPES:
            yield "type", self.type, f"one of {list(TYPES)}"
        if self.kernel is not None and self.kernel not in KERNELS:
            yield "kernel", self.kernel, f"one of {list(KERNELS)}"
        if self.weights not in (None, "fp32", "fp16"):
            yield "weights", self.weights, "'fp32', 'fp16' or None"
        width = self.min_partition
        if width is not None:
            if width < 4 or width % 4 or width > table.dim:
                yield "min_partition", width, f"a multiple of 4, from 4 to the table's dim {table.dim}"
            if self.type is not None and self.type not in COLUMN_TYPES:
                yield "min_partition", width, f"None with type {self.type!r}: it needs one of {list(COLUMN_TYPES)}"
        if self.ranks is not None:
            if not self.ranks or len(set(self.ranks)) < len(self.ranks) or min(self.ranks) < 0:
                yield "ranks", self.ranks, "different ranks from 0 on, at least one"
            if self.type not in PINNED_TYPES:
                yield "ranks", self.ranks, f"None with type {self.type!r}: it needs one of {list(PINNED_TYPES)}"
            elif self.type == "table_wise" and len(self.ranks) > 1:
                yield "ranks", self.ranks, "one rank with type 'table_wise'"
        load = self.load_factor
        if load is not None:
            if not 0 < load < 1:
                yield "load_factor", load, "more than 0 and less than 1"
            if self.kernel != CACHED:
                yield "load_factor", load, f"None without kernel {CACHED!r}"


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """Placement of the tables."""

    plan: str | None = None
    """Plan file that places the tables, such as RUN_DIR/plan.json of another run; None: the planner decides. A resumed
    run uses the plan of its checkpoint."""
    messages: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Precision of embeddings and their gradients in communication between ranks; fp16 and bf16 halve the bytes and
    change the results."""
    types: Annotated[dict[str, str], tyro.conf.Suppress] = field(default_factory=dict)
    """Sharding type per table, for example {'video': 'column_wise'}: short for `tables` with only a type."""
    tables: Annotated[dict[str, TableSharding], tyro.conf.Suppress] = field(default_factory=dict)
    """Constraints per table."""

    def of(self, table: str) -> TableSharding:
        """Constraints of a table, from either field."""
        return self.tables.get(table) or TableSharding(type=self.types.get(table))

    def check(self, schema: FeatureSchema) -> None:
        """Raises UserError that names table, field, value and what is allowed."""
        tables = {table.name: table for table in (*schema.tables, *schema.satisfaction_tables)}
        for name, given in (("types", self.types), ("tables", self.tables)):
            for table in given:
                require(table in tables, f"sharding.{name}", table, f"a table of the schema: {list(tables)}")
        twice = sorted(set(self.types) & set(self.tables))
        require(not twice, "sharding.types", twice, "tables that are not also in sharding.tables")
        problems = [
            f"sharding.tables[{name!r}].{where}={value!r} is not allowed: {allowed}"
            for name in (*self.types, *self.tables)
            for where, value, allowed in self.of(name).violations(tables[name])
        ]
        if problems:
            raise UserError("\n".join(problems))
