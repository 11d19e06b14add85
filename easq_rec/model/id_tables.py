"""The maps of admitted tables as a part of the model: they are trained state, like the rows themselves.

Batches to score have ids, and `rows_in` puts rows in their place. Training batches come with rows, and with the changes
of the maps that belong to them (`easq_rec.data.row_assignment`).

Legend: S sets, W ways, V ids.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from easq_rec.config.schema import FeatureSchema, Table
from easq_rec.data.batch import RequestBatch
from easq_rec.data.encoding import mapped_rows
from easq_rec.data.id_map import IdChanges, IdMapState


class IdTable(nn.Module):
    """The map of one table: the arrays of `IdMapState` as buffers."""

    id_SW: Tensor

    def __init__(self, table: Table) -> None:
        super().__init__()
        for name, values in IdMapState.empty(table).items():
            self.register_buffer(name, torch.from_numpy(values))

    def state(self) -> IdMapState:
        """A copy on the host."""
        return IdMapState(**{name: value.cpu().numpy().copy() for name, value in self.named_buffers()})

    def rows(self, id_V: Tensor) -> Tensor:
        return mapped_rows(id_V, self.id_SW)

    def apply_changes(self, changes: IdChanges) -> None:
        for name, places, values in changes.values():
            state = self.get_buffer(name)
            place = torch.from_numpy(places).to(state.device, non_blocking=True)
            state.view(-1)[place] = torch.from_numpy(values).to(state.device, state.dtype, non_blocking=True)


class IdTables(nn.Module):
    """The maps of all admitted tables of a schema."""

    def __init__(self, schema: FeatureSchema) -> None:
        super().__init__()
        self.tables = nn.ModuleDict(
            {f"table_{table.name}": IdTable(table) for table in schema.tables if table.id_space == "admitted"}
        )
        groups = (("user", schema.user), ("history", schema.history), ("candidate", schema.candidate))
        self._table_of = {f"{group}.{f.name}": f"table_{f.table}" for group, features in groups for f in features}
        # The satisfaction tower's own tables have the rows of the main tower's.
        self._table_of |= {f"satisfaction.{f.name}": f"table_{f.table}" for f in schema.candidate}

    @property
    def names(self) -> list[str]:
        """The admitted tables."""
        return [name.removeprefix("table_") for name in self.tables]

    def states(self) -> dict[str, IdMapState]:
        """Copies of the maps, by table."""
        return {name.removeprefix("table_"): table.state() for name, table in self._named()}

    def map_of(self, table: str) -> Tensor | None:
        """(S, W) ids of the rows of a table; None: it is not an admitted one."""
        name = f"table_{table}"
        return self.tables[name].id_SW if name in self.tables else None  # type: ignore[return-value]

    def rows_in(self, batch: RequestBatch) -> RequestBatch:
        """A batch of ids, with their rows."""
        if not self.tables:
            return batch
        return dataclasses.replace(
            batch,
            user=self._with_rows(batch.user),
            sequence=self._with_rows(batch.sequence),
            candidate=self._with_rows(batch.candidate) if batch.candidate is not None else None,
        )

    def apply_changes(self, changes: Iterable[IdChanges]) -> None:
        """Makes the changes of a training batch, before its step."""
        named = dict(self._named())
        for one in changes:
            named[f"table_{one.table}"].apply_changes(one)

    def _named(self) -> list[tuple[str, IdTable]]:
        return [(name, table) for name, table in self.tables.items() if isinstance(table, IdTable)]

    def _with_rows(self, ids: KeyedJaggedTensor) -> KeyedJaggedTensor:
        tables = dict(self._named())
        if not any(self._table_of[key] in tables for key in ids.keys()):  # noqa: SIM118 - not a mapping
            return ids
        values = []
        for key, id_V in zip(ids.keys(), ids.values().split(ids.length_per_key()), strict=True):
            table = tables.get(self._table_of[key])
            values.append(id_V if table is None else table.rows(id_V))
        return KeyedJaggedTensor(
            keys=ids.keys(),
            values=torch.cat(values),
            weights=ids.weights_or_none(),
            lengths=ids.lengths(),
            stride=ids.stride(),
        )
