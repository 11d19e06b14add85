"""Requests that a log has several times, because a client repeated its call.

A client that waits too long, or whose connection breaks, sends its call again. The server answers and logs both. They
are one request: the same `request_id`, user and candidates. Their scores may differ, because another model may have
answered, and so may times and features that the client looked up anew.

Legend: K rows of repeated requests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from easq_rec.config.schema import FeatureSchema
from easq_rec.data.decode import one_chunk
from easq_rec.errors import UserError
from easq_rec.tools.builder.sql import file_literal
from easq_rec.tools.join.in_time import TIME
from easq_rec.tools.join.outcomes import REQUEST

USER, CANDIDATES = "user_id", "candidates"


@dataclass(frozen=True, kw_only=True)
class _Logged:
    """What makes a row the same request as another row, and where it lies."""

    user: int
    items: bytes
    """Digest of the items of its candidates, in their order."""
    place: str


def repeated_rows(
    connection: duckdb.DuckDBPyConnection, names: Sequence[str], schema: FeatureSchema
) -> Mapping[str, NDArray[np.int64]]:
    """Numbers of the rows of each file that another row repeats later, in any file.

    The last row of a request is the one with the latest time. Of equal times it is the last in the order of the files.

    Raises:
        UserError: requests with the same id have different users or candidates, or a file cannot be read.
    """
    relation = f"read_parquet([{', '.join(map(file_literal, names))}], filename=true, file_row_number=true)"
    several = f"SELECT {REQUEST} FROM {relation} GROUP BY {REQUEST} HAVING count(*) > 1"
    try:
        found = connection.execute(
            f"SELECT {REQUEST}::BIGINT AS request, {TIME}::BIGINT AS time, filename, file_row_number AS row "
            f"FROM {relation} WHERE {REQUEST} IN ({several})"
        ).fetchnumpy()
    except duckdb.Error as error:
        raise UserError(f"the log cannot be read: {str(error).splitlines()[0]}") from error
    place_of = {name: place for place, name in enumerate(names)}
    place_K = np.array([place_of[name] for name in found["filename"]], np.int64)
    request_K, row_K = np.asarray(found["request"]), np.asarray(found["row"])
    order_K = np.lexsort((row_K, place_K, found["time"], request_K))
    last_K = np.ones(len(order_K), np.bool_)
    last_K[:-1] = np.diff(request_K[order_K]) != 0
    left_out = order_K[~last_K]
    rows = {names[place]: np.sort(row_K[place_K == place]) for place in np.unique(place_K)}
    _check_same(rows, schema)
    return {names[place]: row_K[left_out[place_K[left_out] == place]] for place in np.unique(place_K[left_out])}


def _check_same(rows: Mapping[str, NDArray[np.int64]], schema: FeatureSchema) -> None:
    """Raises UserError if rows of the same id are not the same request."""
    first_of: dict[int, _Logged] = {}
    for name, numbers in rows.items():
        for request, other in _logged(name, numbers, schema):
            first = first_of.setdefault(request, other)
            if (first.user, first.items) != (other.user, other.items):
                what = (
                    f"{USER} {first.user} and {USER} {other.user}" if first.user != other.user else "other candidates"
                )
                raise UserError(
                    f"{REQUEST} {request} is that of two requests that differ ({what}), in {first.place} and in "
                    f"{other.place}: give every request an id of its own"
                )


def _logged(name: str, rows: NDArray[np.int64], schema: FeatureSchema) -> Iterator[tuple[int, _Logged]]:
    """(id, request) of some rows of a file."""
    table = pq.read_table(name, columns=[REQUEST, USER, CANDIDATES]).take(pa.array(rows))
    lists = one_chunk(table[CANDIDATES])
    items = lists.flatten().field(schema.item).to_numpy()
    ends = np.cumsum(pc.list_value_length(lists).to_numpy())
    columns = (table[REQUEST].to_pylist(), table[USER].to_pylist(), np.split(items, ends[:-1]), rows.tolist())
    for request, user, own, row in zip(*columns, strict=True):
        digest = hashlib.blake2b(own.tobytes(), digest_size=16).digest()
        yield request, _Logged(user=user, items=digest, place=f"row {row} of {name}")
