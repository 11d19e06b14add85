"""A package: a served program on disk, and the same loaded.

`code/KEY.pt2` is compiled code without weights. `dense.safetensors` and `tables/*.npy` are the weights; the tables are
mapped and not read, so that processes share their pages and a table may be larger than memory. `program.pt2` is the
graph, which another machine compiles again. `golden.arrow` has requests with their scores.
"""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from easq_rec.data.columns import RequestColumns
from easq_rec.errors import UserError
from easq_rec.export.code import device_name
from easq_rec.export.inputs import Input, example_of, tensors_of
from easq_rec.export.manifest import CODE, DENSE, GOLDEN, GRAPH, TABLES, Manifest
from easq_rec.export.program import ServedProgram
from easq_rec.export.trace import trace
from easq_rec.export.versions import MANIFEST, versions_of
from easq_rec.run_directory.checksums import sha256_of
from easq_rec.upstream.torch_inductor import CompiledProgram, compile_to

GOLDEN_WITHIN = 1e-5
"""Largest difference of a golden score on the device that the code was compiled for."""
SCORES = "scores"


def write_constants(program: ServedProgram, folder: Path) -> dict[str, str]:
    """Writes the weights; returns the file of each, by its name."""
    (folder / TABLES).mkdir()
    dense, files = {}, {}
    for name, value in {**dict(program.named_parameters()), **dict(program.named_buffers())}.items():
        value = value.detach().cpu().contiguous()
        if name.startswith("tables."):
            files[name] = f"{TABLES}/{name.removeprefix('tables.table_')}.npy"
            np.save(folder / files[name], value.numpy())
        else:
            # Every constant has memory of its own.
            files[name], dense[name] = DENSE, value.clone()
    # Written here, since the library's file can be read by its owner only.
    (folder / DENSE).write_bytes(save(dense))
    return files


def write_code(program: ServedProgram, key: str, folder: Path, others: Path) -> bool:
    """Writes `code/KEY.pt2` and `program.pt2`; returns whether it had to compile.

    Args:
        others: folder of other packages. One with the same key lends its files.

    Raises:
        UserError: there is no C++ compiler.
    """
    code = folder / CODE / f"{key}.pt2"
    code.parent.mkdir()
    found = lender(others, key)
    if found is not None:
        for source, target in ((found / CODE / code.name, code), (found / GRAPH, folder / GRAPH)):
            _link(source, target)
        return False
    require_compiler()
    exported = trace(program, example_of(program.inputs))
    compile_to(exported, code)
    for name, value in program.named_buffers():
        if name.startswith("tables."):
            # A stand-in of one number, so that the graph is small.
            exported.state_dict[name] = torch.zeros((), dtype=value.dtype).expand(value.shape)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor found", UserWarning)
        torch.export.save(exported, folder / GRAPH)
    return True


def require_compiler() -> None:
    """Raises UserError if there is no C++ compiler."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"easq-rec export compiles, and there is no {compiler}: install it (on Debian and Ubuntu: apt-get install "
            "g++), or name another with CXX"
        )


def lender(directory: Path, key: str) -> Path | None:
    """The newest complete version with some code."""
    for name in reversed(versions_of(directory)):
        files = (directory / name / CODE / f"{key}.pt2", directory / name / GRAPH)
        if all(file.is_file() for file in files):
            return directory / name
    return None


def write_golden(inputs: tuple[Input, ...], columns: tuple[Tensor, ...], scores: Tensor, folder: Path) -> None:
    """Writes requests and their scores: one row, with a list for each input, as callers of a server send them."""
    lists = {one.name: _one_list(column) for one, column in zip(inputs, columns, strict=True)}
    table = pa.table({**lists, SCORES: _one_list(scores)})
    with pa.OSFile(str(folder / GOLDEN), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def read_golden(inputs: tuple[Input, ...], folder: Path) -> tuple[tuple[Tensor, ...], Tensor]:
    """(inputs, scores)."""
    with pa.memory_map(str(folder / GOLDEN)) as source:
        table = pa.ipc.open_file(source).read_all()
        columns = [_tensor(table[one.name][0].values, one.width) for one in inputs]
        return tuple(columns), _tensor(table[SCORES][0].values, None)


def _one_list(column: Tensor) -> pa.Array:
    """An array of one list, whose entries are numbers, or lists of them."""
    entries = pa.array(column.flatten().numpy())
    if column.ndim > 1:
        entries = pa.FixedSizeListArray.from_arrays(entries, column.shape[1])
    return pa.ListArray.from_arrays([0, len(entries)], entries)


def _tensor(entries: pa.Array, width: int | None) -> Tensor:
    if width is None:
        return torch.tensor(entries.to_numpy())
    return torch.tensor(entries.flatten().to_numpy()).view(-1, width)


def sums(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file of a package but its manifest, by path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    return {str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in files}


class Package:
    """A package that scores requests.

    Args:
        folder: `DIR/VERSION`.
        verify: compare all files with their checksums, and the golden scores.

    Raises:
        UserError: the package is torn or damaged, was compiled for another device, or its golden scores differ.
    """

    def __init__(self, folder: Path, *, verify: bool = True, device: torch.device | None = None) -> None:
        self.folder = folder
        self.manifest = manifest = Manifest.read(folder)
        device = device or torch.device("cpu")
        if manifest.device != device_name(device):
            raise UserError(
                f"{folder}: was compiled for {manifest.device}, and this is {device_name(device)}: export it on a "
                "machine of this kind"
            )
        self._check_sizes()
        if verify:
            self._check_sums()
        code = folder / CODE / f"{manifest.code}.pt2"
        try:
            self._program = CompiledProgram(code, self._constants(), device)
        except ValueError as error:
            raise UserError(f"{folder}: {error}: export it again") from error
        if verify:
            self._check_golden()

    def __call__(self, columns: tuple[Tensor, ...]) -> Tensor:
        """Scores of the candidates, (N,). The inputs must be those of `manifest.inputs`, which nothing checks here."""
        return self._program(columns)

    def score(self, requests: RequestColumns) -> Tensor:
        """Scores of the candidates of some requests, as `RequestDataset` reads them."""
        return self(tensors_of(self.manifest.inputs, requests, max_history=self.manifest.max_history))

    def _constants(self) -> dict[str, Tensor]:
        dense = load_file(self.folder / DENSE)
        constants: dict[str, Tensor] = {}
        for name, file in self.manifest.constants.items():
            if file == DENSE:
                constants[name] = dense[name]
            else:
                with warnings.catch_warnings():
                    # Nothing writes to it.
                    warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
                    constants[name] = torch.from_numpy(np.load(self.folder / file, mmap_mode="r"))
        return constants

    def _check_sizes(self) -> None:
        for name, expected in self.manifest.files.items():
            file = self.folder / name
            size = file.stat().st_size if file.is_file() else None
            if size != expected["bytes"]:
                found = "is missing" if size is None else f"has {size:,} bytes, not {expected['bytes']:,}"
                raise UserError(f"{file}: {found}: copy the package again, or export it again")

    def _check_sums(self) -> None:
        for name, expected in self.manifest.files.items():
            if sha256_of(self.folder / name) != expected["sha256"]:
                raise UserError(
                    f"{self.folder / name}: does not match its checksum: copy the package again, or export it again"
                )

    def _check_golden(self) -> None:
        columns, expected = read_golden(self.manifest.inputs, self.folder)
        difference = float((self(columns) - expected).abs().max())
        if not difference <= GOLDEN_WITHIN:
            raise UserError(
                f"{self.folder}: a golden score differs by {difference:g}: this machine computes something else than "
                "the one that exported the package; export it here"
            )


def _link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where links are not possible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
