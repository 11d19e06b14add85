"""Checks of a whole dataset: request ids that repeat, and what the reader of a given schema would refuse."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from easq_rec.data import files
from easq_rec.data.bad_rows import BadRows, Place
from easq_rec.data.decode import decode
from easq_rec.data.histories import leaf_indices
from easq_rec.data.layout import Layout
from easq_rec.tools.inspect.parquet import open_parquet
from easq_rec.tools.inspect.sql_dataset import FILE, ROW, ROW_GROUP, SqlDataset
from easq_rec.upstream.pyarrow_parquet import read_row_group

EXAMPLES = 5
ALL_HISTORY = 1 << 30
"""Entries of a history that are checked: more than any has."""


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Request ids that several rows of a dataset have."""

    extra_rows: int
    """Rows beyond the first of each id."""
    examples: dict[int, list[str]]
    """The smallest such ids, and the places of the first two rows of each."""


def find_duplicates(dataset: SqlDataset) -> Duplicates | None:
    """Exact. None: there is no integer column request_id."""
    if dataset.kinds.get("request_id") != "integer":
        return None
    ((extra, ids),) = dataset.ask(f"""
        WITH repeated AS (
            SELECT request_id, count(*) AS times FROM {dataset.view} WHERE request_id IS NOT NULL
            GROUP BY request_id HAVING count(*) > 1
        )
        SELECT coalesce(sum(times - 1), 0), coalesce(min(request_id, {EXAMPLES}), []) FROM repeated
    """)
    examples: dict[int, list[str]] = {id_: [] for id_ in ids}
    if ids:
        rows = dataset.ask(f"""
            SELECT request_id, {FILE}, {ROW_GROUP}, {ROW} FROM {dataset.view} WHERE request_id IN {tuple(ids + ids)}
            QUALIFY row_number() OVER (PARTITION BY request_id ORDER BY {FILE}, {ROW}) <= 2 ORDER BY ALL
        """)
        for id_, *place in rows:
            examples[id_].append(dataset.place(*place))
    return Duplicates(extra_rows=int(extra), examples=examples)


@dataclass(kw_only=True)
class Refusal:
    """Rows that fail one check of the reader. A row counts at the first check that it fails."""

    column: str
    expected: str
    first: str
    """The reader's message about the first such row: file, row group, row, column, value, and what was expected."""
    rows: int = 0


@dataclass(kw_only=True)
class Refusals:
    """What the reader of a schema would refuse in a dataset."""

    columns: str | None = None
    """Message about columns that do not match; None: they match. Rows are read only if they do."""
    rows: list[Refusal] = field(default_factory=list)
    """Most frequent first."""


def find_refusals(dataset: SqlDataset, layout: Layout) -> Refusals:
    """Runs the reader's checks of columns and values, with one row group in memory."""
    try:
        # All files of a dataset have columns of the same kinds.
        layout.check(dataset.schema, files.display_name(dataset.files[0]))
    except ValueError as error:
        return Refusals(columns=str(error))
    refused: dict[tuple[str, str], Refusal] = {}
    for file in dataset.files:
        with open_parquet(file) as parquet:
            leaves = leaf_indices(parquet.schema_arrow, layout)
            for index in range(parquet.num_row_groups):
                table = read_row_group(parquet, index, leaves)
                rows = np.arange(len(table))
                while len(rows):
                    place = Place(file=files.display_name(file), row_group=index, rows=rows)
                    try:
                        whole = table if dataset.histories is None else dataset.histories.read(table, layout, place)
                        decode(whole, layout, place, max_history=ALL_HISTORY)
                        break
                    except BadRows as bad:
                        first = Refusal(column=bad.column, expected=bad.expected, first=str(bad))
                        refused.setdefault((bad.column, bad.expected), first).rows += len(bad.rows)
                        good = np.delete(np.arange(len(rows)), bad.rows)
                        table, rows = table.take(good), rows[good]
    return Refusals(rows=sorted(refused.values(), key=lambda refusal: -refusal.rows))
