"""A batch read from a file equals the batch that was written."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from easq_rec.data.batch import Keys
from easq_rec.data.batch_file import read_batch, write_batch
from tests.builders import random_batch, small_config


@pytest.mark.parametrize("recipe", ["everything", "main_only"])
def test_a_batch_round_trips_through_a_file(tmp_path: Path, recipe: str) -> None:
    batch = random_batch(small_config(recipe), 3)
    batch.float_NF[0] = torch.nan
    about = {"step": 3, "rank": 1, "problem": "the loss", "losses": {"main": float("nan")}}
    path = tmp_path / "not_finite" / "batch.npz"
    write_batch(path, batch, about)
    found = read_batch(path)
    # JSON has no NaN.
    assert found.about == {**about, "losses": {"main": None}}
    for field in dataclasses.fields(batch):
        one, two = getattr(batch, field.name), getattr(found.batch, field.name)
        match one:
            case Tensor():
                assert one.dtype == two.dtype and torch.equal(one.nan_to_num(9), two.nan_to_num(9)), field.name
            case KeyedJaggedTensor():
                assert one.keys() == two.keys() and one.stride() == two.stride(), field.name
                assert torch.equal(one.values(), two.values()) and torch.equal(one.lengths(), two.lengths()), field.name
            case Keys():
                for key in dataclasses.fields(one):
                    assert np.array_equal(getattr(one, key.name), getattr(two, key.name)), key.name
            case _:
                assert one == two and type(one) is type(two), field.name


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "batch.npz"
    path.write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match="not a batch that this version can read"):
        read_batch(path)
    np.savez(path, about=np.array("{}"), user=np.array([{"an": "object"}], dtype=object))
    with pytest.raises(ValueError, match="not a batch that this version can read"):
        read_batch(path)
