"""Every visible file of a raw table is read, refused by name, or counted."""

from __future__ import annotations

import bz2
import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from easq_rec.data import files
from tests.tools.builder import tiny

HEADER = tiny.HEADER + "\n"
THREE = HEADER + tiny.lines(3)
Content = bytes | str | Callable[[Path], None]


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


def one(video: int) -> str:
    """A CSV file with one row."""
    return f"{HEADER}7,{video},{tiny.START_S},8,20\n"


def parquet(*videos: int) -> Callable[[Path], None]:
    return lambda file: tiny.write_parquet(file, {"video": pa.array(videos)})


def write(folder: Path, content: dict[str, Content]) -> None:
    for name, what in content.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if callable(what):
            what(file)
        else:
            file.write_bytes(what if isinstance(what, bytes) else what.encode())


def videos(folder: Path, path: str = "imp", **impressions: Any) -> tuple[list[int], dict[str, int]]:
    """(videos of all rows that were read, counts)"""
    rows, counts = tiny.build(folder, tiny.config(impressions={"path": path, **impressions}))
    assert not tiny.reasons(counts)
    return sorted(row["video_id"] for row in rows), counts


def test_suffixes_in_any_case_compression_and_no_suffix(tmp_path: Path) -> None:
    visible = {
        "a.csv": one(1),
        "B.CSV": one(2),
        "c.csv.gz": gzip.compress(one(3).encode()),
        "d.csv.bz2": bz2.compress(one(4).encode()),
        "e.CSV.ZST": zstd(one(5).encode()),
        # Two members, as parallel writers leave them; and content that the name does not show.
        "f.csv.gz": gzip.compress(one(6).encode()) + gzip.compress(f"7,7,{tiny.START_S},8,20\n".encode()),
        "000000_0": one(8),
        "20260101_101010_00001_abcde": gzip.compress(one(9).encode()),
        "part-00000.c000": one(10),
        "log.csv.1": one(11),
        # Unpacked by whoever fetched it.
        "plain.csv.gz": one(14),
        "h.txt": one(12),
        "deep/_day=1/i.csv": one(13),
    }
    empty = {"z.csv": b"", "z.csv.gz": gzip.compress(b""), "mark.csv": b"\xef\xbb\xbf\n", "blank": b"\n"}
    hidden = {
        "_SUCCESS": b"",
        ".a.csv.crc": b"x",
        "a.csv.crc": b"x",
        "_temporary/0/a.csv": THREE,
        ".hidden/a.csv": THREE,
    }
    write(tmp_path / "imp", {**visible, **empty, **hidden})
    found, counts = videos(tmp_path)
    assert found == list(range(1, 15))
    assert counts["impressions.files"] == len(visible) + len(empty)
    assert counts["impressions.files.empty"] == len(empty)


def test_parquet_by_content(tmp_path: Path) -> None:
    names = ["000000_0", "a.PARQ", "b.Parquet", "c.pq", "20260101_1_x", "d.parquet.1"]
    write(tmp_path / "imp", {name: parquet(number) for number, name in enumerate(names)})
    write(tmp_path / "imp", {"empty_0": b""})
    found, counts = videos(tmp_path)
    assert found == list(range(6)) and counts["impressions.files.empty"] == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("README.md", "hi", "neither its content nor its name shows the format"),
        ("x.json", "{}", "neither its content nor its name shows the format"),
        ("x.parquet", b"", "is not a Parquet file, it is empty"),
        ("x.parquet", "a,b\n", "is not a Parquet file, it does not begin with PAR1"),
        ("x.csv", parquet(1), "one table has one format, but"),
        ("x.csv", b"Obj\x01avro", "is Avro"),
        ("x.csv", b"ORC\x08\x01", "is ORC"),
        ("x.csv.xz", b"\xfd7zXZ\x00\x00", "is xz"),
        ("x.zip", b"PK\x03\x04", "is a zip archive"),
        ("x.csv.bz2", b"BZh91AY\xf6\x08\x19 damaged", "is neither text nor compressed as its name says"),
        # Compressed files with damaged first bytes, under names of plain text.
        ("x", b"BZh9\x14\x11A\xf6\x08\x19 damaged", "line 1: is not text in utf-8-sig"),
        ("part-1.txt", b"BZh9" + bz2.compress(THREE.encode())[10:], "line 1: is not text in utf-8-sig"),
        ("x.csv", b"\x1e" + gzip.compress(THREE.encode(), mtime=0)[1:], "line 1: is not text in utf-8-sig"),
        ("x.csv", zstd(THREE.encode())[1:], "line 1: is not text in utf-8-sig"),
        ("x.csv", HEADER.encode("utf-16"), "line 1: is not text in utf-8-sig"),
        ("x", gzip.compress(b"PAR1 and more", mtime=0), "holds parquet data in gzip"),
        ("x.csv.gz", gzip.compress(THREE.encode(), mtime=0)[:25], "cannot be read: "),
        ("x.csv", "user,video\n1,2\n", "has no column 'at', unlike other files of the table; it has: user, video"),
        ("x.csv", "user,user,video,at,watched,length\n", "several columns are named 'user'"),
    ],
)
def test_other_visible_files_are_refused_by_name(tmp_path: Path, name: str, content: Content, message: str) -> None:
    write(tmp_path / "imp", {"a.csv": THREE, name: content})
    with pytest.raises(ValueError, match=f"/imp/{name}.*{message}|{message}.*/imp/{name}"):
        videos(tmp_path)


def test_a_damaged_compressed_file_is_named(tmp_path: Path) -> None:
    damaged = bytearray(gzip.compress((HEADER + tiny.lines(2_000)).encode()))
    damaged[-6] ^= 255  # of the checksum
    write(tmp_path / "imp", {"a.csv.gz": bytes(damaged)})
    with pytest.raises(ValueError, match=r"/imp/a\.csv\.gz: cannot be read"):
        videos(tmp_path)


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "imp", {"a.parquet": parquet(*range(1_000)), "b.parquet": parquet(*range(1_000))})
    file = tmp_path / "imp" / "b.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:100] + b"\xff" * 50 + content[150:])
    with pytest.raises(ValueError, match=r"/imp/b\.parquet, row group 0: cannot be read"):
        videos(tmp_path)


def test_links_are_followed(tmp_path: Path) -> None:
    write(tmp_path, {"imp/a.csv": one(1), "store/b.csv": one(2), "store/c.csv": one(3)})
    (tmp_path / "imp" / "day2").symlink_to("../store")
    assert videos(tmp_path)[0] == [1, 2, 3]
    (tmp_path / "linked").symlink_to("imp")
    rows, _ = tiny.build(tmp_path, tiny.config(impressions={"path": "linked"}), out="linked-out")
    assert sorted(row["video_id"] for row in rows) == [1, 2, 3]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("../store/b.csv", "is the same file as .*, so its rows would be read twice"),
        ("..", "link"),
        ("nowhere", "is a link that leads nowhere"),
    ],
)
def test_links_that_cannot_be_followed_are_refused(tmp_path: Path, target: str, message: str) -> None:
    write(tmp_path, {"imp/a.csv": one(1), "store/b.csv": one(2)})
    (tmp_path / "imp" / "day2").symlink_to("../store")
    (tmp_path / "imp" / "extra").symlink_to(target)
    with pytest.raises(ValueError, match=message):
        videos(tmp_path)


def test_pipes_and_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"imp/a.csv": one(1), "other/a.csv": one(1)})
    os.mkfifo(tmp_path / "imp" / "pipe.csv")
    with pytest.raises(ValueError, match=r"pipe\.csv: is no regular file"):
        videos(tmp_path)
    with open(os.fsencode(tmp_path / "other") + b"/\xff.csv", "w") as file:
        file.write(one(2))
    with pytest.raises(ValueError, match="its name is not UTF-8"):
        videos(tmp_path, "other")


@pytest.mark.parametrize("folder", ["logs [1]", "it's", 'a "b"', "日 本", "star*", "what?", "{a,b}", "100%20"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_characters_of_paths_mean_themselves(tmp_path: Path, folder: str, kind: str) -> None:
    content: Content = one(1) if kind == "csv" else parquet(1)
    other: Content = one(2) if kind == "csv" else parquet(2)
    # A pattern of this name would match these folders.
    decoys = {f"{name}/x.{kind}": other for name in ("logs 1", "starfish", "whats", "a", "100 0")}
    write(tmp_path, {f"{folder}/imp/[x] 1.{kind}": content, f"{folder}/imp/_x.{kind}": other, **decoys})
    for number, path in enumerate((f"{folder}/imp", f"{folder}/imp/*.{kind}", f"{folder}/imp/[x] 1.{kind}")):
        rows, _ = tiny.build(tmp_path, tiny.config(impressions={"path": path}), out=f"out{number}")
        assert [row["video_id"] for row in rows] == [1], path
    rows, _ = tiny.build(tmp_path / folder, tiny.config(impressions={"path": "imp"}), out="here")
    assert [row["video_id"] for row in rows] == [1]


def test_globs_leave_out_hidden_names_and_enter_folders(tmp_path: Path) -> None:
    content = {
        "day=1/a.csv": one(1),
        "day=2/b.csv": one(2),
        "day=2/_SUCCESS": "",
        "day=2/_c.csv": one(9),
        "c.csv": one(3),
    }
    write(tmp_path / "imp", content)
    for number, (path, expected) in enumerate(
        {"imp/day=*": [1, 2], "imp/*/*": [1, 2], "imp/**": [1, 2, 3], "imp/day=2/_c.csv": [9]}.items()
    ):
        rows, _ = tiny.build(tmp_path, tiny.config(impressions={"path": path}), out=f"out{number}")
        assert sorted(row["video_id"] for row in rows) == expected, path


def test_partitions_are_texts_and_do_not_replace_columns(tmp_path: Path) -> None:
    write(
        tmp_path / "env=prod" / "imp",
        {
            "day=01/a.csv": one(1),
            "day=a%20b/b.csv": one(2),
            "day=__HIVE_DEFAULT_PARTITION__/c.csv": one(3),
        },
    )
    features = {"day": {"column": "day", "type": "text", "default": 5}}
    rows, _ = tiny.build(tmp_path / "env=prod", tiny.config(impressions={"path": "imp", "features": features}))
    days = {row["video_id"]: row["day"] for row in rows}
    assert days[3] == 5 and len({*days.values()}) == 3
    assert "env" not in (tmp_path / "env=prod" / "out" / "build.json").read_text().split('"fingerprint"')[0]
    write(tmp_path, {"imp/user=9/a.csv": one(1)})
    with pytest.raises(ValueError, match="column 'user' is in the file and in the name of its folder"):
        videos(tmp_path)
    assert videos(tmp_path, "imp/*/*.csv")[0] == [1]


def test_columns_are_found_by_their_exact_names(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "imp/a.csv": one(1),
            "imp/b.csv": f"length,watched,at,video,user,USER\n20,8,{tiny.START_S},2,7,1\n",
        },
    )
    assert videos(tmp_path)[0] == [1, 2]
    names = {"user.id": pa.array([7]), "USER.ID": pa.array([1])}
    tiny.write_parquet(tmp_path / "dotted" / "a.parquet", names)
    rows, _ = tiny.build(
        tmp_path, tiny.config(impressions={"path": "dotted", "columns": {"user_id": "user.id"}}), out="dots"
    )
    assert [row["user_id"] for row in rows] == [7]


def test_the_reader_lists_files_by_the_same_rule(tmp_path: Path) -> None:
    write(
        tmp_path, {"d/a.parquet": parquet(1), "d/B.PARQ": parquet(2), "d/000000_0": parquet(3), "store/c": parquet(4)}
    )
    write(tmp_path, {"d/_SUCCESS": "", "d/_temporary/x.parquet": "", "d/.x.crc": ""})
    (tmp_path / "d" / "day2").symlink_to("../store")
    assert files.parquet_files(tmp_path / "d") == ["000000_0", "B.PARQ", "a.parquet", "day2/c"]
    write(tmp_path, {"d/notes.txt": "hi"})
    with pytest.raises(ValueError, match=r"/d/notes\.txt: is not Parquet, as every file of a dataset"):
        files.parquet_files(tmp_path / "d")
