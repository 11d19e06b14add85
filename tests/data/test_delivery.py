"""The reader delivers exactly the requests of the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from easq_rec.data.dataset import RequestDataset
from easq_rec.data.encode import encode
from easq_rec.data.layout import Layout
from easq_rec.data.order import RequestReader
from easq_rec.data.position import StreamPosition
from easq_rec.data.quarantine import Quarantine
from tests.data.builders import SCHEMA, make_rows, plain, write_dataset


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("bad", [(), (3, 8, 11)])
def test_delivered_requests_equal_those_of_the_files(
    tmp_path: Path, window: int | None, spread: bool, bad: tuple[int, ...]
) -> None:
    """Rows are compared one by one, after shuffling in windows, division among ranks and slicing into steps."""
    rows = make_rows(np.random.default_rng(1), 31)
    layout = Layout.of(SCHEMA)
    whole = RequestDataset(write_dataset(tmp_path / "whole", rows), layout).read_all()
    assert whole is not None
    expected = {row["request_id"]: row for row in plain(encode(layout, whole))}
    for row in rows:
        row["user"]["region"] = 77 if row["request_id"] in bad else row["user"]["region"]
    directory = write_dataset(tmp_path / "requests", rows, file_sizes=[11], row_group_sizes=[5, 3])
    dataset = RequestDataset(directory, layout, quarantine=Quarantine(tmp_path / "quarantine"))
    readers = [
        RequestReader(dataset, batch_size=4, rank=rank, world_size=2, shuffle_row_groups=window, spread=spread)
        for rank in range(2)
    ]
    found = [
        row for reader in readers for part in reader.read(StreamPosition(), epochs=1) for row in plain(part.requests)
    ]
    assert [expected[row["request_id"]] for row in found] == found
    assert sorted(row["request_id"] for row in found) == sorted(set(expected) - set(bad))
