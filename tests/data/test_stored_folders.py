"""Folders in an object store: complete or absent, on a real S3 server and in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from easq_rec.data import files
from easq_rec.data.stored_folders import StoredFolders
from tests.s3_server import s3_server

MARKER = "marker.json"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Options of URLs of a bucket."""
    with s3_server(tmp_path_factory.mktemp("s3") / "server.log") as options:
        yield options


@pytest.fixture(params=["s3", "file"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/store"
    options = request.getfixturevalue("bucket")
    return f"s3://bucket/{tmp_path.name}?{options}"


def folder(parent: Path, name: str, text: str = "hello") -> Path:
    """A folder with files of every kind of name."""
    made = parent / name
    (made / "tables").mkdir(parents=True)
    for file in (MARKER, ".metadata", "__0_0.distcp", "tables/video.npy"):
        (made / file).write_text(f"{text} {file}")
    return made


def content(path: Path) -> dict[str, str]:
    return {str(file.relative_to(path)): file.read_text() for file in path.rglob("*") if file.is_file()}


def test_a_folder_comes_back_as_it_was(location: str, tmp_path: Path) -> None:
    store = StoredFolders(location, MARKER)
    assert store.names() == []
    one, two = folder(tmp_path / "here", "step_1"), folder(tmp_path / "here", "step_2", "later")
    store.upload(two)
    store.upload(one)
    assert store.names() == ["step_1", "step_2"]
    store.download("step_2", tmp_path / "there" / "step_2")
    assert content(tmp_path / "there" / "step_2") == content(two)
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["step_2"]
    store.keep({"step_2"})
    assert store.names() == ["step_2"] and {name.partition("/")[0] for name in files.sizes(location)} == {"step_2"}


@pytest.mark.parametrize("missing", [MARKER, "tables/video.npy"])
def test_a_folder_without_its_marker_is_absent(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """An upload that ends early leaves no complete folder, and the next one repairs it."""
    store, write = StoredFolders(location, MARKER), files.write

    def failing(target: str, source: Path | bytes) -> None:
        if missing in target:
            raise OSError("the store is gone")
        write(target, source)

    monkeypatch.setattr(files, "write", failing)
    made = folder(tmp_path / "here", "step_1")
    with pytest.raises(OSError, match="gone"):
        store.upload(made)
    assert store.names() == [] and files.sizes(location)
    monkeypatch.undo()
    store.upload(made)
    assert store.names() == ["step_1"]


def test_removal_begins_with_the_marker(location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StoredFolders(location, MARKER)
    store.upload(folder(tmp_path / "here", "step_1"))
    store.upload(folder(tmp_path / "here", "step_2"))
    remove, left = files.remove, [1]

    def failing(target: str) -> None:
        if not left:
            raise OSError("the store is gone")
        left.pop()
        remove(target)

    monkeypatch.setattr(files, "remove", failing)
    with pytest.raises(OSError, match="gone"):
        store.keep({"step_2"})
    assert store.names() == ["step_2"]
    monkeypatch.undo()
    store.keep({"step_2"})
    assert set(files.sizes(location)) == {f"step_2/{name}" for name in content(tmp_path / "here" / "step_2")}


def test_a_file_appears_when_it_is_whole(bucket: str) -> None:
    """In an object store, unlike on a disk."""
    location = f"s3://bucket/whole/file?{bucket}"
    theirs, path = pafs.FileSystem.from_uri(location)
    out = theirs.open_output_stream(path)
    out.write(b"half")
    with pytest.raises(OSError):
        files.read(location)
    out.close()
    assert files.read(location) == b"half"
