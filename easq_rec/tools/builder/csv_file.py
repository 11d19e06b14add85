"""CSV files with a declared dialect and encoding. Nothing about a file is guessed from a sample of it.

DuckDB parses UTF-8 fast, but loses rows of files that are not simple: those with several kinds of line ends, and with
quotes that are not closed in their line. Such files go through Python's parser first, which is slow, and are rewritten
to a temporary file. So are compressed files, whose checksums DuckDB does not check, and those with another encoding.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from easq_rec.errors import UserError
from easq_rec.tools.builder.config import Source
from easq_rec.tools.builder.raw_files import RawFile
from easq_rec.tools.builder.sql import file_literal, identifier, literal

UTF8 = ("utf-8", "utf-8-sig")
"""Encodings that DuckDB reads itself. It passes over a mark at the beginning of a file."""
CHUNK = 1 << 20
CELL = "c"
"""Prefix of the engine's column names, by position: the names of a log may be equal, or differ in case only."""


@dataclass(frozen=True, kw_only=True)
class PreparedCsv:
    """A file that the engine can read."""

    path: str
    parsed: bool = False
    """Whether the file was parsed here, so that its rows end in `\\n`, whatever its cells hold."""
    rejected: tuple[str, ...] = ()
    """Lines that are not rows, found while the file was parsed here."""


def header(file: RawFile, source: Source) -> list[str]:
    """The columns of a file. Raises UserError if its first line cannot be read."""
    if source.header is not True:
        names = list(source.header) if source.header else []
        return names or [str(number + 1) for number in range(len(_first_record(file, source)))]
    return _first_record(file, source)


def relation(ready: PreparedCsv, columns: int, source: Source) -> str:
    """SQL of the rows of a prepared file, whose cells are texts named by position."""
    cells = ", ".join(f"{literal(f'{CELL}{number}')}: 'VARCHAR'" for number in range(columns))
    quote = literal(source.quote)
    # Of a simple file the engine finds the only kind of line end.
    end = ", new_line='\\n'" if ready.parsed else ""
    # One thread reads a file: DuckDB's parallel reader loses rows where a cell with a line end crosses two buffers.
    # Cells that do not parse are texts, so that each makes one bad row instead of ending the scan. Lines with too few
    # or too many cells go to the engine's table of rejects.
    return (
        f"read_csv({file_literal(ready.path)}, auto_detect=false, columns={{{cells}}}, "
        f"delim={literal(source.delimiter)}, "
        f"quote={quote}, escape={quote if source.escape is None else literal(source.escape)}, "
        f"header={str(source.header is True).lower()}, strict_mode=true, null_padding=false, "
        f"compression='none', parallel=false, hive_partitioning=false, store_rejects=true, rejects_limit=0{end})"
    )


def cell(number: int) -> str:
    """The engine's name of a column, by position."""
    return identifier(f"{CELL}{number}")


@contextmanager
def prepared(file: RawFile, source: Source, folder: Path) -> Iterator[PreparedCsv]:
    """A file that the engine reads rightly: the file itself, or a temporary one in `folder`.

    Raises:
        UserError: the file is damaged, or not text in the declared encoding.
    """
    target = folder / "rewritten.csv"
    form = _Form(source.quote)
    try:
        if file.compression is None and _is_utf8(source):
            for chunk in _chunks(file):
                form.add(chunk)
            path = Path(file.path)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out:
                for chunk in _utf8(file, source):
                    form.add(chunk)
                    out.write(chunk)
            path = target
        rejected: tuple[str, ...] = ()
        if not form.simple:
            folder.mkdir(parents=True, exist_ok=True)
            path, rejected = target, _parsed_and_written(file, source, target)
        yield PreparedCsv(path=str(path), parsed=not form.simple, rejected=rejected)
    finally:
        target.unlink(missing_ok=True)


class _Form:
    """Whether the engine can be trusted with a text in UTF-8, which is given chunk by chunk."""

    def __init__(self, quote: str) -> None:
        self._quote = quote.encode()
        self._crlf = self._cr = self._lf = 0
        self._last = b""
        self._open = False
        self._spans = False

    def add(self, chunk: bytes) -> None:
        """The next bytes of the text."""
        self._crlf += chunk.count(b"\r\n") + (self._last == b"\r" and chunk.startswith(b"\n"))
        self._cr += chunk.count(b"\r")
        self._lf += chunk.count(b"\n")
        self._last = chunk[-1:]
        if self._quote and (self._open or self._quote in chunk):
            self._follow_quotes(chunk)

    def _follow_quotes(self, chunk: bytes) -> None:
        codes = np.frombuffer(chunk, np.uint8)
        quotes = np.flatnonzero(codes == self._quote[0])
        ends = np.flatnonzero((codes == 10) | (codes == 13))
        odd = (np.searchsorted(quotes, ends) + self._open) % 2
        self._spans = self._spans or bool(odd.any())
        self._open = bool((len(quotes) + self._open) % 2)

    @property
    def simple(self) -> bool:
        """Whether there is one kind of line end, and every line has an even number of quotes.

        At another kind of line end the engine fails or loses the row. It loses all lines behind a quote that is not
        closed without a word.
        """
        kinds = (self._cr > self._crlf) + (self._lf > self._crlf) + (self._crlf > 0)
        return kinds <= 1 and not self._spans and not self._open


def _first_record(file: RawFile, source: Source) -> list[str]:
    with _lines(file, source) as lines:
        try:
            record = _cells(next(lines, ""), source) if len(source.delimiter) > 1 else next(_reader(lines, source), [])
        except csv.Error as error:
            raise UserError(f"{file.path}, line 1: is not a line of CSV: {error}") from error
    try:
        "".join(record).encode()
        readable = not any("\0" in name for name in record)
    except UnicodeEncodeError:
        readable = False
    if not readable:
        raise UserError(f"{file.path}, line 1: is not text in {source.encoding}: set encoding to the file's")
    return record


def _cells(line: str, source: Source) -> list[str]:
    """The cells of a header with a delimiter of several characters, which Python's parser does not know."""
    names = line.rstrip("\r\n").split(source.delimiter)
    return [name.removeprefix(source.quote).removesuffix(source.quote) for name in names]


def _reader(lines: Iterator[str], source: Source) -> Iterator[list[str]]:
    """Records of lines. Raises csv.Error for lines that are none, and can go on behind them."""
    return csv.reader(lines, strict=True, **_dialect(source))


def _dialect(source: Source) -> dict[str, Any]:
    """The declared dialect in the words of Python's `csv`."""
    return {
        "delimiter": source.delimiter,
        "quotechar": source.quote or None,
        "doublequote": source.escape in (None, source.quote),
        "escapechar": None if source.escape == source.quote else source.escape,
        "quoting": csv.QUOTE_MINIMAL if source.quote else csv.QUOTE_NONE,
    }


def _is_utf8(source: Source) -> bool:
    return codecs.lookup(source.encoding).name in UTF8


def _chunks(file: RawFile) -> Iterator[bytes]:
    """The content of a file, decompressed. Raises UserError."""
    try:
        with pa.input_stream(file.path, compression=file.compression) as stream:
            while chunk := bytes(stream.read(CHUNK)):
                yield chunk
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file.path}: cannot be read: {error}") from error


def _utf8(file: RawFile, source: Source) -> Iterator[bytes]:
    """The content of a file in UTF-8. Raises UserError that names the line of what is not text in its encoding."""
    if _is_utf8(source):
        yield from _chunks(file)
        return
    decoder = codecs.getincrementaldecoder(source.encoding)()
    line = 1
    try:
        for chunk in _chunks(file):
            text = decoder.decode(chunk)
            line += text.count("\n")
            yield text.encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        raise UserError(
            f"{file.path}, line {line} or later: is not text in {source.encoding} ({error}): set encoding to the file's"
        ) from error


@contextmanager
def _lines(file: RawFile, source: Source) -> Iterator[Iterator[str]]:
    """The lines of a file, with their ends. Raises UserError that names the file, also for errors in the block.

    Bytes that are not UTF-8 are kept as they are, for the engine to find; other encodings are read strictly.
    """
    errors = "surrogateescape" if _is_utf8(source) else "strict"
    encoding = "utf-8-sig" if _is_utf8(source) else source.encoding
    try:
        with (
            pa.input_stream(file.path, compression=file.compression) as stream,
            io.TextIOWrapper(stream, encoding=encoding, errors=errors, newline="") as text,
        ):
            yield iter(text)
    except UnicodeError as error:
        raise UserError(
            f"{file.path}: is not text in {source.encoding} ({error}): set encoding to the file's"
        ) from error
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file.path}: cannot be read: {error}") from error


def _parsed_and_written(file: RawFile, source: Source, target: Path) -> tuple[str, ...]:
    """Writes the rows of a file with `\n` as the only line end; returns the lines that are no rows.

    Line ends within quoted cells stay as they are. Python's parser is slow, and knows where a quoted cell ends.
    """
    if len(source.delimiter) > 1:
        raise UserError(f"{file.path}: mixes line ends, and its delimiter has several characters: convert one of them")
    held: list[str] = []

    def noted(lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            held.append(line)
            yield line

    rejected: list[str] = []
    with _lines(file, source) as lines, target.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out:
        # All cells are quoted, since the writer would not quote a line end of another kind.
        quoting = {"quoting": csv.QUOTE_ALL} if source.quote else {}
        writer = csv.writer(out, lineterminator="\n", **(_dialect(source) | quoting))
        records = _reader(noted(lines), source)
        while True:
            try:
                writer.writerow(next(records))
            except StopIteration:
                return tuple(rejected)
            except csv.Error:
                rejected += [line.encode(errors="surrogateescape").decode(errors="replace") for line in held]
            held.clear()
