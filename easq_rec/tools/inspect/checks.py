"""What no single row group shows: ids that come again, and what a given schema would refuse."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from easq_rec.data import files
from easq_rec.data.columns import Array
from easq_rec.data.dataset import parquet_files
from easq_rec.data.decode import BadRows, Place, decode
from easq_rec.data.layout import Layout, leaf_indices
from easq_rec.tools.inspect.column import kind_of
from easq_rec.tools.inspect.scan import open_parquet
from easq_rec.tools.inspect.sketch import hash_ids

IDS_AT_ONCE = 1 << 23
"""Request ids held at a time: 64 MiB, and as much again while they are put together."""
EXAMPLES = 5
MOST_HISTORY = 1 << 30
"""Histories are checked in full."""


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Request ids that several rows of a dataset have."""

    extra_rows: int
    """Rows beyond the first of each id."""
    examples: list[int]


def find_duplicates(directory: files.Location, rows: int, *, at_once: int = IDS_AT_ONCE) -> Duplicates | None:
    """Exact, in as many passes over the one column as keep about `at_once` ids in memory; None: no such column."""
    paths = parquet_files(directory)
    passes = max(1, -(-rows // at_once))
    extra = 0
    examples: list[int] = []
    for turn in range(passes):
        parts: list[Array] = []
        for file in paths:
            with open_parquet(file) as parquet:
                schema = parquet.schema_arrow
                if "request_id" not in schema.names or kind_of(schema.field("request_id").type) != "integer":
                    return None
                leaves = leaf_indices(schema, {"request_id"})
                for index in range(parquet.num_row_groups):
                    column = parquet.reader.read_row_group(index, column_indices=leaves).column(0)
                    ids = column.drop_null().to_numpy().astype(np.int64, copy=False)
                    # By hash, since ids may have a factor in common.
                    parts.append(ids[hash_ids(ids) % np.uint64(passes) == turn] if passes > 1 else ids)
        ids = np.concatenate([np.zeros(0, np.int64), *parts])
        del parts
        ids.sort()
        again = ids[1:][ids[1:] == ids[:-1]]
        extra += len(again)
        examples += np.unique(again)[: EXAMPLES - len(examples)].tolist()
    return Duplicates(extra_rows=extra, examples=examples)


@dataclass(kw_only=True)
class Refusals:
    """What a schema's reader would not take of a dataset."""

    files: list[str] = field(default_factory=list)
    """Messages about files whose columns do not match, alike ones once."""
    bad_rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By (column, what was expected). A row counts at the first check that it fails."""
    first: dict[tuple[str, str], str] = field(default_factory=dict)
    """The message about the first row of each."""

    @property
    def any(self) -> bool:
        return bool(self.files or self.bad_rows)

    def summary(self) -> dict[str, Any]:
        """As plain values, for report.json."""
        rows = [
            {"column": column, "expected": expected, "rows": count, "first": self.first[column, expected]}
            for (column, expected), count in self.bad_rows.most_common()
        ]
        return {"files": self.files, "bad_rows": rows}


def find_refusals(directory: files.Location, layout: Layout) -> Refusals:
    """Checks every file's columns, then decodes every row group whose columns match."""
    found, told = Refusals(), set()
    for file in parquet_files(directory):
        with open_parquet(file) as parquet:
            try:
                layout.check(parquet.schema_arrow, file)
            except ValueError as error:
                about = str(error).removeprefix(file)
                if about not in told:
                    found.files.append(str(error))
                told.add(about)
                continue
            leaves = layout.leaf_indices(parquet.schema_arrow)
            for index in range(parquet.num_row_groups):
                table = parquet.reader.read_row_group(index, column_indices=leaves)
                rows = np.arange(len(table))
                while len(rows):
                    try:
                        decode(table, layout, Place(file=file, row_group=index, rows=rows), max_history=MOST_HISTORY)
                        break
                    except BadRows as bad:
                        found.bad_rows[bad.column, bad.expected] += len(bad.rows)
                        found.first.setdefault((bad.column, bad.expected), str(bad))
                        good = np.delete(np.arange(len(rows)), bad.rows)
                        table, rows = table.take(good), rows[good]
    return found
