"""What happened after candidates were shown: a table with a row for each impression or event.

Legend: K impressions with events, N candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from easq_rec.config.schema import FeatureSchema, Outcome
from easq_rec.data import files
from easq_rec.errors import UserError
from easq_rec.tools.builder.config import Engine
from easq_rec.tools.builder.sql import file_literal, identifier
from easq_rec.tools.builder.tables import connect

REQUEST, ANSWER, ANSWERED = "request_id", "answer", "answered_at_ms"


@dataclass(frozen=True, kw_only=True)
class ImpressionEvents:
    """The events of each impression together. Impressions are sorted by request and item."""

    request_K: NDArray[np.int64]
    item_K: NDArray[np.int64]
    columns: dict[str, NDArray[Any]]
    """By name of the outcome, (K,): 0 where no event says more. Answers are masked where there is none."""
    rows: int
    """Rows of the table."""

    @property
    def answered(self) -> bool:
        """Whether the table has answers."""
        return ANSWER in self.columns

    def places(self, request_N: NDArray[np.int64], item_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """The impression of each candidate; -1 where the table has none."""
        if not len(self.request_K):
            return np.full(len(request_N), -1)
        both = np.concatenate([np.stack([self.request_K, self.item_K], 1), np.stack([request_N, item_N], 1)])
        _, key = np.unique(both, axis=0, return_inverse=True)
        key = key.reshape(-1)
        place_of_key = np.full(key.max() + 1, -1)
        place_of_key[key[: len(self.request_K)]] = np.arange(len(self.request_K))
        return place_of_key[key[len(self.request_K) :]]

    def between(self, request_R: NDArray[np.int64]) -> ImpressionEvents:
        """The impressions of some requests, and maybe of others: those from the smallest to the largest id."""
        first = np.searchsorted(self.request_K, request_R.min())
        last = np.searchsorted(self.request_K, request_R.max(), side="right")
        chosen = slice(int(first), int(last))
        columns = {name: column[chosen] for name, column in self.columns.items()}
        return ImpressionEvents(
            request_K=self.request_K[chosen], item_K=self.item_K[chosen], columns=columns, rows=int(last - first)
        )


def read_events(location: Path, schema: FeatureSchema, temp: Path) -> ImpressionEvents:
    """Reads a Parquet file or a directory of them.

    Columns: `request_id`, the item, every outcome of the schema, and `answer` with `answered_at_ms` if it has answers.
    Several rows of an impression count together: a binary outcome has happened if a row says so. A null says nothing.

    Raises:
        UserError: a column is missing; an id is null; an outcome is no outcome; or rows of an impression have different
            amounts or answers.
    """
    named = files.parquet_files(str(location)) if location.is_dir() else []
    paths = [files.join(str(location), name) for name in named] or [str(location)]
    relation = f"read_parquet([{', '.join(map(file_literal, paths))}], union_by_name=true)"
    with connect(Engine(), temp) as connection:
        try:
            found = [str(name) for name, *_ in connection.execute(f"DESCRIBE FROM {relation}").fetchall()]
            answered = _check_columns(location, found, schema)
            return _grouped(connection, relation, location, schema, answered)
        except duckdb.Error as error:
            raise UserError(f"--outcomes {location}: cannot be read: {str(error).splitlines()[0]}") from error


def _check_columns(location: Path, found: Sequence[str], schema: FeatureSchema) -> bool:
    """Whether there are answers."""
    wanted = [REQUEST, schema.item, *(outcome.name for outcome in schema.outcomes)]
    if missing := [name for name in wanted if name not in found]:
        raise UserError(
            f"--outcomes {location}: has no column {', '.join(missing)}: it needs {', '.join(wanted)}, and {ANSWER} "
            f"and {ANSWERED} if it has answers"
        )
    if (ANSWER in found) != (ANSWERED in found):
        raise UserError(f"--outcomes {location}: has one of {ANSWER} and {ANSWERED}: it needs both, or neither")
    return ANSWER in found


def _grouped(
    connection: duckdb.DuckDBPyConnection, relation: str, location: Path, schema: FeatureSchema, answered: bool
) -> ImpressionEvents:
    item = identifier(schema.item)
    further = (ANSWER, ANSWERED) if answered else ()
    _check_values(connection, relation, location, schema, further)
    names = [*(outcome.name for outcome in schema.outcomes), *further]
    shown = ", ".join(f"max({identifier(name)}::{_sql_type(name, further)}) AS {identifier(name)}" for name in names)
    rows = connection.execute(f"SELECT count(*) FROM {relation}").fetchone()
    assert rows is not None
    found = connection.execute(
        f"SELECT {REQUEST}::BIGINT AS {REQUEST}, {item}::BIGINT AS {item}, {shown} FROM {relation} "
        "GROUP BY ALL ORDER BY 1, 2"
    ).fetchnumpy()
    columns: dict[str, NDArray[Any]] = {}
    for name in names:
        column = np.ma.asarray(found[name])
        columns[name] = column if name in further else column.filled(0)
    return ImpressionEvents(
        request_K=np.asarray(found[REQUEST]), item_K=np.asarray(found[schema.item]), columns=columns, rows=rows[0]
    )


def _sql_type(name: str, answers: Sequence[str]) -> str:
    return "BIGINT" if name in answers else "DOUBLE"


def _check_values(
    connection: duckdb.DuckDBPyConnection, relation: str, location: Path, schema: FeatureSchema, answers: Sequence[str]
) -> None:
    """Raises UserError that names a row that cannot be meant."""
    item = identifier(schema.item)

    def refuse(condition: str, what: str) -> None:
        # Not WHERE: the engine would skip row groups by their statistics, which leave out NaN.
        row = f"concat_ws(', ', {REQUEST}, {item}, {', '.join(identifier(one.name) for one in schema.outcomes)})"
        found = connection.execute(f"SELECT any_value({row}) FILTER (WHERE {condition}) FROM {relation}").fetchone()
        if found is not None and found[0] is not None:
            raise UserError(f"--outcomes {location}: {what}, in the row with {found[0]}")

    refuse(f"{REQUEST} IS NULL OR {item} IS NULL", f"{REQUEST} and {schema.item} must not be null")
    for outcome in schema.outcomes:
        refuse(_wrong(outcome), f"{outcome.name} must be {_allowed(outcome)}")
    single = [outcome.name for outcome in schema.outcomes if outcome.kind == "amount"] + list(answers)
    for name in single:
        column = identifier(name)
        row = connection.execute(
            f"SELECT {REQUEST}, {item}, min({column}), max({column}) FROM {relation} GROUP BY ALL "
            f"HAVING min({column}) <> max({column}) LIMIT 1"
        ).fetchone()
        if row is not None:
            raise UserError(
                f"--outcomes {location}: {name} of request {row[0]} and {schema.item} {row[1]} is {row[2]} in one row "
                f"and {row[3]} in another: give the final one"
            )


def _wrong(outcome: Outcome) -> str:
    column = f"{identifier(outcome.name)}::DOUBLE"
    if outcome.kind == "binary":
        return f"{column} NOT IN (0, 1)"
    return f"NOT ({column} >= 0 AND isfinite({column}))"


def _allowed(outcome: Outcome) -> str:
    return "0 or 1" if outcome.kind == "binary" else "a number of 0 or more"
