"""CSV under a declared dialect and encoding. Every line becomes a row or is counted."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path
from typing import Any

import pytest

from easq_rec.tools.builder import csv_file
from tests.tools.builder import tiny
from tests.tools.builder.logs import build_of

HEADER = f"{tiny.HEADER},title\n"
NO_ROW = "is not a row of the CSV file"


def row(video: int, title: str = "x") -> str:
    return f"7,{video},{tiny.START_S},8,20,{title}\n"


def read(folder: Path, content: str | bytes, **impressions: Any) -> tuple[dict[int, int], dict[str, int]]:
    """(hash of the title by video, quarantined rows by reason)"""
    (folder / "imp.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    impressions["features"] = {"title": {"column": "title", "type": "text", "default": 0}}
    rows, counts = tiny.build(folder, tiny.config(impressions=impressions))
    return {one["video_id"]: one["title"] for one in rows}, tiny.reasons(counts)


def test_a_quote_after_any_number_of_rows_is_a_quote(tmp_path: Path) -> None:
    count = 22_000
    lines = [row(number) for number in range(count)]
    lines[21_000] = row(21_000, '"one, two"')
    found, lost = read(tmp_path, HEADER + "".join(lines))
    assert len(found) == count and not lost and len(set(found.values())) == 2


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends(tmp_path: Path, end: str) -> None:
    found, lost = read(tmp_path, (HEADER + row(1) + row(2, '"y, z"') + row(3)).replace("\n", end))
    assert sorted(found) == [1, 2, 3] and not lost


def test_mixed_line_ends_and_line_ends_in_cells(tmp_path: Path) -> None:
    text = HEADER + row(1) + row(2, '"a\r\nb"') + row(3).replace("\n", "\r\n") + row(4, '"c\nd"') + row(5)
    found, lost = read(tmp_path, text)
    assert sorted(found) == [1, 2, 3, 4, 5] and not lost
    assert found[1] == found[3] == found[5] and len(set(found.values())) == 3


@pytest.mark.parametrize("place", [1, 20, 40])
@pytest.mark.parametrize("end", ["\n", ""])
def test_no_line_is_lost_behind_a_quote_that_is_not_closed(tmp_path: Path, place: int, end: str) -> None:
    lines = [row(number, '"open' if number == place else "x") for number in range(41)]
    found, lost = read(tmp_path, (HEADER + "".join(lines)).removesuffix("\n") + end)
    assert len(found) == place and lost == {NO_ROW: 41 - place}


def test_lines_that_are_no_rows_are_counted_with_their_place(tmp_path: Path) -> None:
    from tests.tools.builder.logs import read_rows

    text = HEADER + row(1) + "7,1\n" + row(2, '"x"y') + row(3, "a,b") + "\n" + row(4, '5" screen')
    found, lost = read(tmp_path, text)
    assert sorted(found) == [1, 4] and lost == {NO_ROW: 3}
    places = sorted(one["place"] for one in read_rows(tmp_path / "out" / "quarantine"))
    assert len(places) == 3 and all(place.startswith(f"{tmp_path}/imp.csv") for place in places)


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        (HEADER.replace(",", "\t") + row(1, "z").replace(",", "\t"), {"delimiter": "\t"}),
        (HEADER.replace(",", "||") + row(1, "z").replace(",", "||"), {"delimiter": "||"}),
        (HEADER + row(1, "'z'"), {"quote": "'"}),
        (HEADER + row(1, '"\\z"'), {"escape": "\\"}),
        (row(1, "z").replace(",", "\x1f"), {"delimiter": "\x1f", "quote": "", "header": HEADER.strip().split(",")}),
        (row(1, "z").replace(",", "\x01"), {"delimiter": "\x01", "quote": "", "header": HEADER.strip().split(",")}),
    ],
)
def test_declared_dialects(tmp_path: Path, text: str, dialect: dict[str, Any]) -> None:
    (tmp_path / "plain").mkdir()
    (expected, _), (found, lost) = read(tmp_path / "plain", HEADER + row(1, "z")), read(tmp_path, text, **dialect)
    assert found == expected and not lost


def test_columns_without_a_header_have_numbers(tmp_path: Path) -> None:
    (tmp_path / "imp.csv").write_text(tiny.lines(3))
    names = {"user_id": "1", "video_id": "2", "timestamp": "3", "watch": "4", "duration": "5"}
    rows, _ = tiny.build(tmp_path, tiny.config(impressions={"header": False, "columns": names}))
    assert [one["video_id"] for one in rows] == [101, 102, 103]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings(tmp_path: Path, encoding: str, end: str) -> None:
    text = HEADER + row(1, "café") + row(2, '"é, è"')
    (tmp_path / "utf8").mkdir()
    expected, _ = read(tmp_path / "utf8", text)
    found, lost = read(tmp_path, text.replace("\n", end).encode(encoding), encoding=encoding)
    assert found == expected and not lost


def test_another_encoding_than_the_declared_is_named(tmp_path: Path) -> None:
    text = HEADER + row(1, "café") + "".join(row(number) for number in range(2, 40))
    contents = {"utf-8-sig": text.encode("utf-16"), "ascii": text.encode()}
    contents["gbk"] = HEADER.encode() + b"7,1,1,1,1,\xff\xff\n"
    for number, (declared, content) in enumerate(contents.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(ValueError, match=rf"/imp\.csv.*: is not text in {declared}.*: set encoding to the file's"):
            read(folder, content, encoding=declared)
    found, lost = read(tmp_path, text.encode("latin-1"))
    assert len(found) == 38 and lost == {"is not text in utf-8-sig: is encoding right?": 1}


@pytest.mark.parametrize(
    ("dialect", "message"),
    [
        ({"delimiter": ""}, "impressions.delimiter='' is not allowed"),
        ({"quote": "''"}, "impressions.quote=\"''\" is not allowed: one ASCII character, or none"),
        ({"quote": "", "escape": "\\"}, "impressions.escape='\\\\\\\\' is not allowed: one ASCII character, and only"),
        ({"encoding": "klingon"}, "impressions.encoding='klingon' is not allowed: a text encoding of Python"),
        ({"max_bad_share": 2}, "impressions.max_bad_share=2.0 is not allowed: between 0 and 1"),
    ],
)
def test_dialects_that_cannot_be(dialect: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_of(tiny.config(impressions=dialect))


def test_a_time_zone_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    (tmp_path / "imp.csv").write_text(f"{tiny.HEADER}\n{tiny.lines(1)}")
    with pytest.raises(ValueError, match=r"impressions.time_zone: 'Mars/Base' is no known time zone"):
        tiny.build(tmp_path, tiny.config(time_zone="Mars/Base"))


@pytest.mark.parametrize("seed", range(6))
def test_random_cells_equal_those_of_the_standard_library(tmp_path: Path, seed: int) -> None:
    """Quotes, delimiters and line ends anywhere in cells, in a file of several of the chunks that are read at once."""
    rng = random.Random(seed)
    # The writer of the standard library leaves a carriage return without quotes, unless it quotes all cells.
    alphabet = 'ab",x é' + ("\n" if seed % 2 else "") + ("\r" if seed == 3 else "")
    titles = ["".join(rng.choices(alphabet, k=rng.randrange(1, 30))).strip(' "') or "t" for _ in range(400)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL if seed % 2 else csv.QUOTE_MINIMAL)
    writer.writerow(HEADER.strip().split(","))
    writer.writerows([7, number, tiny.START_S, 8, 20, title] for number, title in enumerate(titles))
    expected = list(csv.DictReader(io.StringIO(buffer.getvalue(), newline="")))
    before = csv_file.CHUNK
    csv_file.CHUNK = 1_000
    try:
        found, lost = read(tmp_path, buffer.getvalue())
    finally:
        csv_file.CHUNK = before
    assert not lost and len(found) == len(titles)
    codes: dict[str, int] = {}
    for one in expected:
        assert codes.setdefault(one["title"], found[int(one["video"])]) == found[int(one["video"])]
    assert len(set(codes.values())) == len(codes)
