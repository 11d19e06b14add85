"""Datasets on other filesystems than the local disk: fsspec's memory, and a real S3 server on loopback."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from easq_rec.data import files
from easq_rec.data.dataset import RequestDataset, split
from easq_rec.data.layout import Layout
from easq_rec.data.order import RequestReader
from easq_rec.data.position import StreamPosition
from tests.data.builders import SCHEMA, expected, ids, make_rows, plain, write_dataset
from tests.full_disk import files_of_at_most
from tests.s3_server import s3_server

ROWS = make_rows(np.random.default_rng(0), 23)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files in a folder, and unfinished files of a writer."""
    folder = tmp_path_factory.mktemp("files") / "requests"
    write_dataset(folder, ROWS, file_sizes=[9], row_group_sizes=[4, 2])
    write_dataset(folder / "_temporary", ROWS[:3])
    return folder


@pytest.fixture(scope="module")
def in_memory(local: Path) -> str:
    memory = fsspec.filesystem("memory")
    memory.put(str(local), "/bucket/logs/requests", recursive=True)
    return "memory://bucket/logs"


@pytest.fixture(scope="module")
def on_s3(local: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The logs in a bucket of a local S3 server."""
    with s3_server(tmp_path_factory.mktemp("s3") / "server.log") as options:
        theirs, _ = pafs.FileSystem.from_uri(f"s3://bucket/?{options}")
        pafs.copy_files(str(local), "bucket/logs/requests", destination_filesystem=theirs)
        yield f"s3://bucket/logs?{options}"


@pytest.fixture(params=["local", "in_memory", "on_s3"])
def logs(request: pytest.FixtureRequest, local: Path) -> str:
    """The same logs in three places."""
    return str(local.parent) if request.param == "local" else str(request.getfixturevalue(request.param))


def test_a_dataset_is_the_same_on_every_filesystem(logs: str, local: Path) -> None:
    requests = files.join(logs, "requests")
    assert files.is_dir(logs) and files.is_dir(requests) and not files.is_dir(files.join(logs, "answers"))
    dataset = RequestDataset(requests, Layout.of(SCHEMA))
    everything = dataset.read_all()
    assert everything is not None and plain(everything) == expected(ROWS)
    at_home = RequestDataset(local, Layout.of(SCHEMA))
    assert dataset.fingerprint == at_home.fingerprint, "a run can continue after its data were moved"
    assert split(requests, 0.2) == split(local, 0.2)


def test_two_ranks_with_threads_read_every_request_once(logs: str) -> None:
    dataset = RequestDataset(files.join(logs, "requests"), Layout.of(SCHEMA))
    readers = [
        RequestReader(dataset, batch_size=3, rank=rank, world_size=2, shuffle_row_groups=2, spread=True, workers=2)
        for rank in range(2)
    ]
    found = [
        id_ for reader in readers for part in reader.read(StreamPosition(), epochs=1) for id_ in ids(part.requests)
    ]
    assert sorted(found) == list(range(23))


def test_messages_name_the_location_without_its_options(logs: str) -> None:
    place = files.display_name(logs)
    assert "?" not in place
    with pytest.raises(ValueError, match=f"^{re.escape(place)}/answers has no Parquet files"):
        RequestDataset(files.join(logs, "answers"), Layout.of(SCHEMA))
    schema = dataclasses.replace(SCHEMA, item="film_id")
    message = f"^{re.escape(place)}/requests/part=00/0000.parquet does not match the feature schema"
    with pytest.raises(ValueError, match=message):
        RequestDataset(files.join(logs, "requests"), Layout.of(schema))


def test_a_rewritten_file_is_refused_on_s3(on_s3: str) -> None:
    dataset = RequestDataset(files.join(on_s3, "requests"), Layout.of(SCHEMA))
    first = dataset.row_groups[0]
    dataset.read(first)
    theirs, path = pafs.FileSystem.from_uri(first.file)
    content = theirs.open_input_file(path).read()
    with theirs.open_output_stream(path) as stream:
        stream.write(content + b" ")
    with pytest.raises(ValueError, match=r"part=00/0000\.parquet has been rewritten since this run opened it"):
        dataset.read(first)
    with theirs.open_output_stream(path) as stream:
        stream.write(content)


def test_an_unknown_filesystem_is_named() -> None:
    for check in (files.is_dir, files.parquet_files):
        with pytest.raises(ValueError, match=r"^nowhere://host: unknown filesystem"):
            check("nowhere://host/logs")


def test_an_unreachable_server_is_named() -> None:
    url = "s3://bucket/logs?endpoint_override=127.0.0.1%3A1&scheme=http&region=us-east-1"
    with pytest.raises(ValueError, match=r"^s3://bucket/logs: cannot be reached"):
        files.is_dir(url)


@pytest.mark.parametrize(
    ("location", "joined"),
    [
        ("/data", "/data/requests"),
        ("/data/", "/data/requests"),
        ("/", "/requests"),
        ("data", "data/requests"),
        (Path("data"), "data/requests"),
        ("what?/data", "what?/data/requests"),
        ("s3://bucket", "s3://bucket/requests"),
        ("s3://bucket/?region=x", "s3://bucket/requests?region=x"),
        ("s3://bucket/logs?region=x&scheme=http", "s3://bucket/logs/requests?region=x&scheme=http"),
    ],
)
def test_join(location: Path | str, joined: str) -> None:
    assert files.join(location, "requests") == joined


def test_arrow_and_fsspec_files_have_the_same_content(local: Path, in_memory: str) -> None:
    name = files.parquet_files(local)[0]
    here, there = (files.open_file(files.join(place, name)) for place in (local, f"{in_memory}/requests"))
    assert isinstance(here, pa.NativeFile) and here.read() == there.read()


def test_a_file_is_copied_whole_or_not_at_all(in_memory: str, local: Path, tmp_path: Path) -> None:
    name = files.parquet_files(local)[0]
    target = tmp_path / "copy.parquet"
    files.copy_file(files.join(files.join(in_memory, "requests"), name), target)
    assert target.read_bytes() == (local / name).read_bytes()
    with files_of_at_most(100), pytest.raises(OSError, match="File too large"):
        files.copy_file(files.join(local, name), target)
