"""Nothing in the package unpickles a file: unpickling may run any code that the file contains."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "easq_rec"
RESTRICTED = "upstream/torch_checkpoint.py"
"""Unpickles only an allow-list of classes; `tests/upstream/test_torch_checkpoint.py` checks this."""
PICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
READERS = {"FileSystemReader", "broadcast_object_list", "read_pickle"}
"""Names that unpickle. `CheckpointReader` replaces the first, `Runtime.share` the second."""


def violations(source: str) -> Iterator[str]:
    """Imports and calls in a module that may unpickle a file."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names if name.name.split(".")[0] in PICKLERS)
            case ast.ImportFrom(module=str(module), names=names):
                if module.split(".")[0] in PICKLERS:
                    yield module
                yield from (name.name for name in names if name.name in READERS)
            case ast.Attribute(attr=name) if name in READERS:
                yield name
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=owner), attr="load" | "save" as name), keywords=keywords
            ):
                arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in keywords}
                if owner == "torch" and (name == "save" or arguments.get("weights_only") != "True"):
                    yield f"torch.{name}"
                if owner == "np" and name == "load" and arguments.get("allow_pickle", "False") != "False":
                    yield "np.load"
                if owner == "dcp" and name == "load" and "storage_reader" not in arguments:
                    yield "dcp.load"


def test_the_package_unpickles_no_file() -> None:
    files = {str(file.relative_to(PACKAGE)): file.read_text() for file in PACKAGE.rglob("*.py")}
    assert [*violations(files.pop(RESTRICTED))] == ["pickle", "FileSystemReader"]
    assert {name: found for name, source in files.items() if (found := [*violations(source)])} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", "pickle"),
        ("from joblib import load", "joblib"),
        ("torch.load(path)", "torch.load"),
        ("torch.load(path, weights_only=False)", "torch.load"),
        ("torch.save(value, path)", "torch.save"),
        ("np.load(path, allow_pickle=True)", "np.load"),
        ("dcp.load(state, checkpoint_id=path)", "dcp.load"),
        ("dist.broadcast_object_list(values)", "broadcast_object_list"),
    ],
)
def test_a_planted_violation_is_found(source: str, found: str) -> None:
    assert [*violations(source)] == [found]
