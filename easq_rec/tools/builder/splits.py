"""Splits: pieces of a raw log that are scanned independently of each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from easq_rec.tools.builder.tables import FileScan, FileTable, RawTable, Scan

SPLIT_ROWS = 1_000_000
"""Rows of a split, about: small files are taken together, and large Parquet files are divided between row groups. A
file of CSV is not divided."""


@dataclass(frozen=True, kw_only=True)
class LogSplit:
    """Consecutive rows of a raw table."""

    number: int
    """Place among all splits. In the order `read` of the scan, that of the log, which decides between duplicates."""
    table: str
    scan: Scan

    @property
    def name(self) -> str:
        return f"scan-{self.number:06d}"


def splits_of(tables: Mapping[str, RawTable]) -> list[LogSplit]:
    """All splits of the tables in files; the same for every process that sees the same files."""
    files = {name: table for name, table in tables.items() if isinstance(table, FileTable)}
    pieces = [(name, piece) for name, table in files.items() for scan in table.scans for piece in _pieces(scan)]
    return [LogSplit(number=number, table=name, scan=scan) for number, (name, scan) in enumerate(pieces)]


def _pieces(scan: FileScan) -> Iterator[FileScan]:
    if scan.csv:
        yield scan
        return
    held: list[int] = []
    rows = 0
    for index, groups in enumerate(scan.group_rows):
        own = sum(groups)
        if held and rows + own > SPLIT_ROWS:
            yield _of_files(scan, held)
            held, rows = [], 0
        if own > SPLIT_ROWS and len(groups) > 1:
            yield from _of_rows(scan, index)
            continue
        held.append(index)
        rows += own
    if held:
        yield _of_files(scan, held)


def _of_files(scan: FileScan, files: list[int]) -> FileScan:
    groups = tuple(scan.group_rows[index] for index in files)
    return replace(
        scan,
        files=tuple(scan.files[index] for index in files),
        group_rows=groups,
        rows=sum(map(sum, groups)),
    )


def _of_rows(scan: FileScan, index: int) -> Iterator[FileScan]:
    """A large file, divided between row groups."""
    begin = end = 0
    for rows in scan.group_rows[index]:
        if end > begin and end - begin + rows > SPLIT_ROWS:
            yield replace(_of_files(scan, [index]), between=(begin, end), rows=end - begin)
            begin = end
        end += rows
    yield replace(_of_files(scan, [index]), between=(begin, end), rows=end - begin)
