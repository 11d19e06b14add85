"""Reads checkpoints of torch.distributed.checkpoint without running code that a file contains.

That library pickles two things: the metadata of a checkpoint, and state that is not a tensor. Unpickling may call any
function. Here the metadata may only contain the classes that describe tensors. Among these is none for state that is
not a tensor, so a checkpoint with such state is refused before the library loads it. Tensors themselves are loaded by
torch with `weights_only=True`.
"""

from __future__ import annotations

import pathlib
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING as MemoryFormat
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from easq_rec.errors import UserError
from easq_rec.upstream.torch_checkpoint_names import METADATA

ALLOWED = {
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            *("Metadata", "StorageMeta", "MetadataIndex", "TensorStorageMetadata", "ChunkStorageMetadata"),
            *("TensorProperties", "_MEM_FORMAT_ENCODING"),
        )
    ),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
}
"""(module, name) of the classes, and of the one function without effects, that metadata may contain."""
PATHS = {"PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"}


class CheckpointReader(FileSystemReader):
    """`FileSystemReader` with restricted unpickling of the metadata.

    Raises:
        UserError: the metadata are damaged, or contain anything except the description of tensors.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._metadata = _read_metadata(path / METADATA)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The metadata, which the constructor has read."""
        if self._metadata.storage_meta is None:
            self._metadata.storage_meta = StorageMeta()
        self._metadata.storage_meta.load_id = self.load_id
        return self._metadata


def _read_metadata(path: Path) -> Metadata:
    problem: object
    try:
        with path.open("rb") as file:
            metadata = _MetadataUnpickler(file).load()
        if isinstance(metadata, Metadata):
            return metadata
        problem = f"it holds {type(metadata).__name__}"
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError) as error:
        problem = error
    raise UserError(f"{path}: not the metadata of a checkpoint: {problem}")


def _memory_format(owner: object, name: str) -> MemoryFormat:
    """A member of torch's enum of memory formats. Python 3.11.0 to 3.11.3 pickle a member of an enum as `getattr` of
    the class and its name."""
    if owner is MemoryFormat and name in MemoryFormat.__members__:
        return MemoryFormat[name]
    raise pickle.UnpicklingError(f"builtins.getattr of {name!r} is not allowed")


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ALLOWED:
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):
            return _memory_format
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        if module in ("pathlib", "pathlib._local") and name in PATHS:
            # Only the name of the directory that the checkpoint was written to.
            return pathlib.PurePath
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
