"""The lists that the histories of many requests are ranges of.

A history is the last entries of its user in a fixed order: that in which entries became known. A request does not say
this order, but all requests together do. An entry is in the histories of consecutive requests, from a first to a last
one; in the order of (first, last) every history is a range, whatever the order within equal pairs is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa

from easq_rec.data.columns import Array, Rows, offsets_of
from easq_rec.data.histories import COLUMN, TIME, USER, HistoryLists
from easq_rec.tools.builder.tables import identifier

NUMBER = '"number of the request"'


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The lists of some requests' users, and the ranges of the requests in them."""

    lists: HistoryLists
    """By ascending user."""
    first_E: Rows
    """For each entry, number of the first request that has it; ascending within a list."""

    @staticmethod
    def of(connection: duckdb.DuckDBPyConnection, requests: str, entry: pa.DataType) -> Timeline:
        """The lists of the users of requests.

        Args:
            requests: SQL relation with `user_id`, `history` and `NUMBER`.
            entry: Arrow type of an entry.
        """
        user, history, time = identifier(USER), identifier(COLUMN), identifier(TIME)
        found = connection.sql(
            f"SELECT {user}, entry, min({NUMBER}) AS first FROM ("
            f"  SELECT {user}, {NUMBER}, unnest({history}) AS entry, generate_subscripts({history}, 1) AS place"
            f"  FROM {requests}) GROUP BY {user}, entry "
            f"ORDER BY {user}, first, max({NUMBER}), entry.{time}, min(place)"
        ).to_arrow_table()
        found = found.combine_chunks()
        users = connection.sql(f"SELECT DISTINCT {user} FROM {requests} ORDER BY {user}").to_arrow_table()
        user_L = users[USER].to_numpy().astype(np.int64)
        # One chunk: the lists of a file must be short enough for that.
        entries = found["entry"].chunk(0) if len(found) else pa.array([], found.schema.field("entry").type)
        return Timeline(
            lists=HistoryLists(
                user_L=user_L,
                offset_L1=np.searchsorted(found[USER].to_numpy(), np.append(user_L, np.iinfo(np.int64).max)),
                entries=entries.cast(entry),
            ),
            first_E=found["first"].to_numpy().astype(np.int64),
        )

    def ranges(self, user_R: Array, number_R: Rows, length_R: Rows) -> tuple[Rows, Rows]:
        """(row, begin in its list) of the history of each request: its end is behind the last entry that the request or
        an earlier one has. Begins may be negative where the histories are no ranges."""
        row_R = np.searchsorted(self.lists.user_L, user_R)
        owner_E = np.repeat(np.arange(len(self.lists.user_L)), self.lists.offset_L1[1:] - self.lists.offset_L1[:-1])
        # (list, first request) as one number in the same order.
        span = int(max(self.first_E.max(initial=0), number_R.max(initial=0))) + 1
        end_R = np.searchsorted(owner_E * span + self.first_E, row_R * span + number_R, side="right")
        return row_R, end_R - self.lists.offset_L1[row_R] - length_R


def with_copies(lists: HistoryLists, copies: Sequence[tuple[int, pa.StructArray]]) -> tuple[HistoryLists, list[int]]:
    """Lists with further entries at their ends.

    Args:
        copies: (row of the list, entries of a history that is no range of it).

    Returns:
        (the lists, begin of each copy in its list).
    """
    lengths = np.diff(lists.offset_L1)
    grown, begins = lengths.copy(), []
    added: defaultdict[int, list[pa.StructArray]] = defaultdict(list)
    for row, entries in copies:
        begins.append(int(grown[row]))
        grown[row] += len(entries)
        added[row].append(entries)
    if not copies:
        return lists, begins
    parts: list[pa.StructArray] = []
    behind = 0
    for row in sorted(added):
        end = int(lists.offset_L1[row + 1])
        parts += [lists.entries.slice(behind, end - behind), *added[row]]
        behind = end
    entries = pa.concat_arrays([*parts, lists.entries.slice(behind)])
    return HistoryLists(user_L=lists.user_L, offset_L1=offsets_of(grown), entries=entries), begins
