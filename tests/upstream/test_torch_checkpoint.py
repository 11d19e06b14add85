"""The reader of checkpoints runs no code from a file, and still allows the classes that torch writes."""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
import torch.distributed.checkpoint as dcp

from easq_rec.training.checkpoint.random_state import read_random_state, write_random_state
from easq_rec.upstream.torch_checkpoint import ALLOWED, CheckpointReader, MemoryFormat

CHANGED = "torch has changed {}: adapt easq_rec/upstream/torch_checkpoint.py"


def save(state: dict[str, Any], path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=path, no_dist=True)


def load(state: dict[str, Any], path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(state, storage_reader=CheckpointReader(path), no_dist=True)


class Recorder(pickle.Unpickler):
    """Records the names that a pickle looks up."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.found: set[tuple[str, str]] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.found.add((module, name))
        return super().find_class(module, name)


def test_the_allowed_names_are_those_that_torch_writes(tmp_path: Path) -> None:
    save({"weight": torch.ones(2, 3)}, tmp_path)
    with (tmp_path / ".metadata").open("rb") as file:
        recorder = Recorder(file)
        recorder.load()
    unused = ALLOWED - recorder.found
    assert not unused, CHANGED.format(f"the metadata of a checkpoint ({sorted(unused)} are not in it)")


def test_the_metadata_that_torch_writes_can_be_read(tmp_path: Path) -> None:
    save({"weight": torch.ones(2, 3)}, tmp_path)
    try:
        reader = CheckpointReader(tmp_path)
        metadata = reader.read_metadata()
        load_id = reader.load_id
    except (ValueError, AttributeError) as error:
        pytest.fail(f"{CHANGED.format('the metadata of a checkpoint')} ({error})")
    assert metadata.state_dict_metadata["weight"].size == (2, 3), CHANGED.format("the metadata of a checkpoint")
    assert metadata.storage_meta is not None and metadata.storage_meta.load_id == load_id, CHANGED.format(
        "FileSystemReader.load_id"
    )


def test_an_enum_that_an_early_python_3_11_pickled_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian 12 has Python 3.11.2, which pickles a member of an enum as `getattr`. Nothing else may use it."""

    def as_then(self: MemoryFormat, protocol: int) -> tuple[Any, ...]:
        return getattr, (type(self), self.name)

    monkeypatch.setattr(MemoryFormat, "__reduce_ex__", as_then)
    save({"weight": torch.ones(2, 3)}, tmp_path)
    assert b"getattr" in (tmp_path / ".metadata").read_bytes()
    value = torch.zeros(2, 3)
    load({"weight": value}, tmp_path)
    assert torch.equal(value, torch.ones(2, 3))

    class Reached:
        def __reduce__(self) -> tuple[Any, ...]:
            return getattr, (torch.Size, "__init__")

    (tmp_path / ".metadata").write_bytes(pickle.dumps(Reached()))
    with pytest.raises(ValueError, match=r"builtins\.getattr of '__init__' is not allowed"):
        CheckpointReader(tmp_path)


class Attack:
    """Makes a directory when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_of_every_type_are_loaded_unchanged(tmp_path: Path, dtype: torch.dtype) -> None:
    value, found = torch.arange(6).view(2, 3).to(dtype), torch.zeros(2, 3, dtype=dtype)
    save({"model": {"weight": value}}, tmp_path)
    load({"model": {"weight": found}}, tmp_path)
    assert torch.equal(found, value)


def test_metadata_that_would_run_code_is_refused(tmp_path: Path) -> None:
    save({"weight": torch.ones(2)}, tmp_path)
    target = tmp_path / "attacked"
    attack = pickle.dumps(Attack(target))
    (tmp_path / ".metadata").write_bytes(attack)
    with pytest.raises(ValueError, match=r"\.metadata: not the metadata of a checkpoint: posix.mkdir is not allowed"):
        load({"weight": torch.zeros(2)}, tmp_path)
    assert not target.exists()
    pickle.loads(attack)
    assert target.exists(), "the attack works with an unrestricted unpickler"


def test_state_that_is_not_a_tensor_is_refused(tmp_path: Path) -> None:
    """torch.distributed.checkpoint would unpickle it without restriction."""
    target = tmp_path / "attacked"
    save({"weight": torch.ones(2), "extra": Attack(target)}, tmp_path / "saved")
    with pytest.raises(ValueError, match="BytesStorageMetadata is not allowed"):
        load({"weight": torch.zeros(2), "extra": None}, tmp_path / "saved")
    assert not target.exists()


def test_a_file_that_is_not_metadata_is_refused(tmp_path: Path) -> None:
    for content in (pickle.dumps(torch.Size([2])), b"no pickle", b""):
        (tmp_path / ".metadata").write_bytes(content)
        with pytest.raises(ValueError, match="not the metadata of a checkpoint"):
            CheckpointReader(tmp_path).read_metadata()


def test_the_random_state_is_restored(tmp_path: Path) -> None:
    torch.manual_seed(7)
    torch.rand(3)
    write_random_state(tmp_path / "rng_0.npy", torch.get_rng_state())
    expected = torch.rand(5)
    torch.set_rng_state(read_random_state(tmp_path / "rng_0.npy"))
    assert torch.equal(torch.rand(5), expected)
