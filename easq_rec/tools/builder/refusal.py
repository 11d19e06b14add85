"""No output from tables that were read wrongly, as many bad rows show: the error names the usual reason and a row."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from easq_rec.errors import UserError
from easq_rec.tools.builder.config import Build
from easq_rec.tools.builder.summary import by_reason, orphaned, reasons


def refuse_bad_tables(build: Build, counts: Counter[str], quarantines: list[Path]) -> None:
    """Checks that of each table a row is kept, if it has rows, and that few rows are bad.

    Bad rows are those that could not be read: bad cells, and lines that are no rows. Duplicates, late answers and the
    like are not bad. Answers whose impressions are not in the log do not fail a build, which may be of a part of it.

    Args:
        quarantines: folders of Parquet files with the rejected rows.

    Raises:
        UserError: a table fails a check; all that do are listed.
    """
    problems = []
    for table, source in build.sources.items():
        read, kept, bad = counts[f"{table}.read"], counts[f"{table}.kept"], by_reason(counts, f"{table}.bad.")
        most = build.bad_share_of(source)
        if most == 1 or not read:
            continue
        if not kept and not orphaned(counts, table):
            problem, among = f"none of the {read:,} rows is kept", reasons(counts, table)
        elif sum(bad.values()) > most * read:
            problem = f"{sum(bad.values()):,} of {read:,} rows cannot be read, more than max_bad_share = {most:g}"
            among = bad
        else:
            continue
        reason = max(among, key=lambda name: among[name])
        line = (
            f"{table}: {problem}; most often ({among[reason]:,} rows): {reason}; {_example(table, reason, quarantines)}"
        )
        problems.append(f"{line}; to accept it, set {table}.max_bad_share{' = 1' if not kept else ''}")
    if problems:
        raise UserError("\n".join(problems))


def _example(table: str, reason: str, quarantines: list[Path]) -> str:
    """A rejected row and its place."""
    for folder in quarantines:
        for file in sorted(folder.glob("*.parquet")):
            for batch in pq.ParquetFile(file).iter_batches():
                found = batch.filter(pc.and_(pc.equal(batch["table"], table), pc.equal(batch["reason"], reason)))
                if len(found):
                    place, row = found["place"][0].as_py(), found["row"][0].as_py()
                    return f"as {row}" + (f" in {place}" if place else "")
    raise AssertionError(f"no row of {table} is quarantined: {reason}")
