"""Tables that give rows to new ids and take them from old ones, through restarts and on two ranks. The tests of
packages export such tables."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.chaos import tensors
from easq_rec.data.encoding import NO_ID
from easq_rec.run_directory.checkpoint_files import latest_of
from tests.integration.conftest import metrics, write_schema

Train = Callable[..., subprocess.CompletedProcess[str]]
Losses = Callable[[Path], list[tuple[float | None, ...]]]
ROWS = {"user": 129, "video": 97, "author": 33}
"""Fewer than the world's ids, so that ids lose their rows."""


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    return write_schema(tmp_path / "schema.toml", ROWS, admit_after={"author": 2})


def maps(run: Path) -> dict[str, torch.Tensor]:
    """The maps in the newest checkpoint of a run."""
    return {name: value for name, value in tensors(latest_of(run).path) if ".ids." in name}


@pytest.mark.integration
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_resumed_run_gives_the_same_rows(
    train: Train, losses: Losses, schema: Path, tmp_path: Path, ranks: int
) -> None:
    """An evaluation reads the rows as they are; batches that were made but not trained on give no rows."""
    options = ("--schema", str(schema), "--trainer.max-steps", "24", "--evaluation.every-steps", "5")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(whole, *options, ranks=ranks)
    train(parts, *options, "--trainer.stop-at-step", "7", ranks=ranks)
    train(parts, *options, ranks=ranks)
    assert losses(parts) == losses(whole)
    assert metrics(parts, "final") == metrics(whole, "final")
    found, expected = maps(parts), maps(whole)
    assert expected.keys() == found.keys() and len(found) == 5 * len(ROWS)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    id_SW = expected["model.ranker.ids.tables.table_video.id_SW"]
    assert bool((id_SW != NO_ID).all()) and len(id_SW.unique()) == id_SW.numel(), "no id has two rows"


@pytest.mark.integration
def test_another_number_of_ranks_goes_on_with_the_rows(train: Train, schema: Path, tmp_path: Path) -> None:
    options = ("--schema", str(schema), "--trainer.max-steps", "12")
    train(tmp_path, *options, "--trainer.stop-at-step", "6", ranks=2)
    before = maps(tmp_path)
    done = train(tmp_path, *options)
    assert "from step 6" in done.stdout
    used, earlier = (found["model.ranker.ids.tables.table_video.used_SW"] for found in (maps(tmp_path), before))
    assert int(earlier.max()) == 5 and int(used.max()) == 11
    kept = used == earlier
    ids, old = (found["model.ranker.ids.tables.table_video.id_SW"] for found in (maps(tmp_path), before))
    assert bool((ids[kept] == old[kept]).all()), "a row that was not used since keeps its id"
