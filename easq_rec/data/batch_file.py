"""A batch as a file of NumPy arrays (.npz), read without pickle.

found = read_batch(Path("RUN_DIR/not_finite/step_00000003_rank_1.npz"))
found.about["problem"], found.batch.float_NF
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from easq_rec import json_file
from easq_rec.data.batch import Extent, Keys, RequestBatch
from easq_rec.data.columns import Array
from easq_rec.data.groups import CandidateGroups
from easq_rec.errors import UserError

ABOUT = "about"
"""Name of the array that holds JSON text."""


@dataclass(frozen=True, kw_only=True)
class StoredBatch:
    """The content of a file."""

    about: dict[str, Any]
    batch: RequestBatch


def write_batch(path: Path, batch: RequestBatch, about: Mapping[str, Any]) -> None:
    """Writes a batch from any device.

    Args:
        path: with the suffix .npz.
        about: values that JSON can hold.
    """
    arrays: dict[str, Array] = {ABOUT: np.array(json_file.text(dict(about)))}
    for field in dataclasses.fields(batch):
        arrays |= _arrays(field.name, getattr(batch, field.name))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    except OSError:
        # On a full disk: half a file cannot be read.
        path.unlink(missing_ok=True)
        raise


def read_batch(path: Path) -> StoredBatch:
    """Reads a batch to the CPU.

    Raises:
        UserError: the file is not a batch of this version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about: dict[str, Any] = json.loads(str(arrays.pop(ABOUT)))
        fields: dict[str, Any] = {name: _value(parts) for name, parts in _by_field(arrays)}
        return StoredBatch(about=about, batch=RequestBatch(**fields))
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a batch that this version can read: {error!r}") from error


def _arrays(name: str, value: object) -> dict[str, Array]:
    """A batch field as arrays named FIELD/KIND or FIELD/KIND/PART."""
    match value:
        case None | tuple():
            # The tuple holds changes of id maps. The batch has rows in place of ids already.
            return {}
        case Tensor():
            return {f"{name}/tensor": value.detach().cpu().numpy()}
        case KeyedJaggedTensor():
            weights = value.weights_or_none()
            return {
                f"{name}/jagged/keys": np.array(value.keys(), dtype=np.str_),
                f"{name}/jagged/values": value.values().cpu().numpy(),
                f"{name}/jagged/lengths": value.lengths().cpu().numpy(),
                f"{name}/jagged/stride": np.array(value.stride()),
            } | ({f"{name}/jagged/weights": weights.cpu().numpy()} if weights is not None else {})
        case Keys():
            return {f"{name}/keys/{field.name}": getattr(value, field.name) for field in dataclasses.fields(value)}
        case Extent():
            return {
                f"{name}/extent/{field.name}": np.array(getattr(value, field.name))
                for field in dataclasses.fields(value)
            }
        case CandidateGroups():
            order, offsets = (tensor.cpu().numpy() for tensor in value.tensors())
            return {
                f"{name}/groups/order_M": order,
                f"{name}/groups/offsets_G1": offsets,
                f"{name}/groups/longest": np.array(value.longest),
            }
        case bool() | int():
            return {f"{name}/number": np.array(value)}
    raise AssertionError(f"{name}: {type(value).__name__} cannot be stored")


def _by_field(arrays: Mapping[str, Array]) -> Iterator[tuple[str, dict[str, Array]]]:
    """(field, its arrays by KIND or KIND/PART)."""
    fields: dict[str, dict[str, Array]] = {}
    for name, array in arrays.items():
        field, _, part = name.partition("/")
        fields.setdefault(field, {})[part] = array
    yield from fields.items()


def _value(parts: Mapping[str, Array]) -> object:
    """The inverse of `_arrays`."""
    kind = next(iter(parts)).partition("/")[0]
    match kind:
        case "tensor":
            return torch.from_numpy(parts["tensor"])
        case "jagged":
            weights = parts.get("jagged/weights")
            return KeyedJaggedTensor(
                keys=[str(key) for key in parts["jagged/keys"]],
                values=torch.from_numpy(parts["jagged/values"]),
                weights=torch.from_numpy(weights) if weights is not None else None,
                lengths=torch.from_numpy(parts["jagged/lengths"]),
                stride=int(parts["jagged/stride"]),
            )
        case "keys":
            return Keys(**{name.removeprefix("keys/"): array for name, array in parts.items()})
        case "extent":
            return Extent(**{name.removeprefix("extent/"): int(array) for name, array in parts.items()})
        case "groups":
            return CandidateGroups(
                order_M=torch.from_numpy(parts["groups/order_M"]),
                offsets_G1=torch.from_numpy(parts["groups/offsets_G1"]),
                longest=int(parts["groups/longest"]),
            )
        case "number":
            return parts["number"].item()
    raise UserError(f"unknown kind {kind!r}")
