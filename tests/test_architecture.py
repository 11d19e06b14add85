"""Rules for the source tree: imports only from lower layers, and limits to the names and the sizes of files.

The rules are checked on this repository. Small trees that break one rule each show that the checks can fail.
"""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from easq_rec.upstream import TORCH_FREE

REPOSITORY = Path(__file__).parents[1]
PACKAGE = "easq_rec"

LAYERS = (
    ("upstream",),
    ("config", "kernels"),
    ("answers",),
    ("data",),
    ("model",),
    ("losses",),
    ("evaluation", "run_directory"),
    ("training",),
    ("export",),
    ("serving",),
    ("tools",),
    ("cli", "train"),
)
"""Lowest first. A unit (a module or package directly in easq_rec) imports lower layers. Units of one layer may import
each other without cycles. So no unit except `cli` and `train` imports `tools`."""

SEPARATE = ("config", "kernels")
"""These do not import each other."""

ALONE = {"cpu_flags", "disk_failures", "doctor", "errors", "json_file", "outputs"}
"""These import only the standard library and each other: `doctor` runs where everything else may be broken. Every unit
may import them."""

NO_TORCH = ("config",)
"""These are read by --help and by error messages, which must not wait seconds for torch."""
TORCH = {"torch", "torchrec", "fbgemm_gpu", "tensordict", "torchmetrics", "torchx"}

OUTER = {"torchx_components", "benchmarks", "datasets", "tests"}
"""Folders that import the package, and that the package does not import."""

FOLDERS = (PACKAGE, "torchx_components", "benchmarks", "datasets", "tests")
MOST_LINES = 700


def violations(root: Path) -> list[str]:
    """Everything in the tree below `root` that breaks a rule, one readable line each."""
    nodes_of.cache_clear()
    found = [
        *layer_violations(root),
        *import_violations(root),
        *name_violations(root),
        *class_violations(root),
        *private_violations(root),
        *(
            f"{file.relative_to(root)}: {lines} lines, at most {MOST_LINES}: it holds more than one concept"
            for file in python_files(root, *FOLDERS)
            if (lines := len(file.read_text().splitlines())) > MOST_LINES
        ),
    ]
    nodes_of.cache_clear()
    return found


@functools.cache
def nodes_of(file: Path) -> list[ast.AST]:
    """All nodes of a file. They are cached until `violations` ends, since several rules read them."""
    return list(ast.walk(ast.parse(file.read_text(), filename=str(file))))


def layer_violations(root: Path) -> Iterator[str]:
    """Imports between units of the package that are not from a lower layer."""
    layer_of = {unit: index for index, layer in enumerate(LAYERS) for unit in layer}
    beside: defaultdict[str, set[str]] = defaultdict(set)  # imports within a layer
    for file in python_files(root, PACKAGE):
        unit = unit_of(file, root)
        if unit == "__init__" or unit in ALONE:
            continue
        if unit not in layer_of:
            yield f"{file.relative_to(root)}: {unit} belongs to no layer: give it a place in LAYERS"
            continue
        for module in imported_modules(file, root):
            parts = module.split(".")
            target = parts[1] if parts[0] == PACKAGE and len(parts) > 1 else unit
            if target == unit or target in ALONE:
                continue
            where = f"{file.relative_to(root)} imports {module}"
            if target not in layer_of:
                yield f"{where}, which belongs to no layer"
            elif layer_of[target] > layer_of[unit]:
                yield f"{where}, which lies in a higher layer"
            elif unit in SEPARATE and target in SEPARATE:
                yield f"{where}: {', '.join(SEPARATE)} do not import each other"
            elif layer_of[target] == layer_of[unit]:
                beside[unit].add(target)
    for unit in beside:
        if unit in reachable(unit, beside):
            yield f"{PACKAGE}/{unit} is part of a circle of imports: {sorted(reachable(unit, beside))}"


def import_violations(root: Path) -> Iterator[str]:
    """Imports of other packages that a unit must not use."""
    for file in python_files(root, PACKAGE):
        unit, relative = unit_of(file, root), file.relative_to(root)
        for module in imported_modules(file, root):
            top = module.split(".")[0]
            if top in OUTER:
                yield f"{relative} imports {module}: nobody imports {top}"
            if unit in NO_TORCH and top in TORCH:
                yield f"{relative} imports {module}: {unit} must load without torch"
            allowed = {*sys.stdlib_module_names, *(f"{PACKAGE}.{name}" for name in ALONE)}
            if unit in ALONE and not {top, module} & allowed:
                yield f"{relative} imports {module}: {unit} uses the standard library only"
    for folder in OUTER - {"tests"}:
        for file in python_files(root, folder):
            for module in imported_modules(file, root):
                if module.split(".")[0] == "tests":
                    yield f"{file.relative_to(root)} imports {module}: nobody imports tests"


def name_violations(root: Path) -> Iterator[str]:
    """Files whose name shadows another module or has no meaning."""
    for path in sorted((root / PACKAGE).iterdir()):
        # `python easq_rec/train.py` puts easq_rec/ first on sys.path, where such a file hides the standard library's.
        if path.stem in sys.stdlib_module_names and (path.suffix == ".py" or path.is_dir()):
            yield f"{path.relative_to(root)} has the name of a module of the standard library"
    for file in python_files(root, *FOLDERS):
        if file.stem == "utils":
            yield f"{file.relative_to(root)}: name a module after what it does"
    if (root / "datasets" / "__init__.py").exists():
        yield "datasets/__init__.py makes the folder a package, which shadows the installed package of that name"


def class_violations(root: Path) -> Iterator[str]:
    """Classes of the package that share a name."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for file in python_files(root, PACKAGE):
        for node in nodes_of(file):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(file.relative_to(root)))
    for name, files in places.items():
        if len(files) > 1:
            yield f"{', '.join(files)}: several classes have the name {name}"


def private_violations(root: Path) -> Iterator[str]:
    """Private names of other libraries in a module outside `easq_rec/upstream`.

    A private name is another library's if nothing in the tree defines it. So a name that both define is not found.
    Names of the standard library are allowed.
    """
    files = list(python_files(root, *FOLDERS))
    defined = {name for file in files for node in nodes_of(file) for name in defined_names(node)}
    for file in files:
        if file.is_relative_to(root / PACKAGE / "upstream"):
            continue
        for node in nodes_of(file):
            for name in used_names(node):
                if any(is_private(part) for part in name.split(".")) and name.split(".")[-1] not in defined:
                    place = f"{file.relative_to(root)}:{node.lineno}"  # type: ignore[attr-defined]
                    yield f"{place} uses {name}, which is private to another library: it belongs in {PACKAGE}/upstream"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name != "_"


def defined_names(node: ast.AST) -> Iterator[str]:
    """Names that a statement defines, including attributes of `self` and fields."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
            yield name
        case ast.Name(id=name, ctx=ast.Store()):
            yield name
        case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
            yield name


def used_names(node: ast.AST) -> Iterator[str]:
    """Names of attributes and modules that an expression or an import uses, except those of the standard library."""
    match node:
        case ast.Attribute(value=ast.Name(id=owner)) if owner in sys.stdlib_module_names:
            pass
        case ast.Attribute(attr=name):
            yield name
        case ast.Call(func=ast.Name(id="getattr" | "setattr" | "hasattr"), args=[_, ast.Constant(value=str(name)), *_]):
            yield name
        case ast.Import(names=names):
            yield from (name.name for name in names if name.name.split(".")[0] not in sys.stdlib_module_names)
        case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] not in sys.stdlib_module_names:
            yield from (f"{module}.{name.name}" for name in names)


def python_files(root: Path, *folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((root / folder).rglob("*.py"))


def modules_of(unit: str) -> list[str]:
    """Dotted names of all modules of a unit of this repository."""
    files = python_files(REPOSITORY / PACKAGE, unit)
    return [".".join((PACKAGE, *file.relative_to(REPOSITORY / PACKAGE).with_suffix("").parts)) for file in files]


def unit_of(file: Path, root: Path) -> str:
    """The module or package directly below easq_rec that a file is part of."""
    return file.relative_to(root / PACKAGE).with_suffix("").parts[0]


def imported_modules(file: Path, root: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    package = file.relative_to(root).with_suffix("").parts[:-1]
    for node in nodes_of(file):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            parent = ".".join([*base, *([node.module] if node.module else [])])
            for name in node.names:
                # `from easq_rec.data import batch` imports the module, `from easq_rec.data import Batch` the package.
                child = root.joinpath(*parent.split("."), name.name)
                is_module = child.with_suffix(".py").exists() or child.is_dir()
                yield f"{parent}.{name.name}" if is_module else parent


def reachable(start: str, edges: defaultdict[str, set[str]]) -> set[str]:
    """Units that `start` imports, directly or not."""
    seen: set[str] = set()
    ahead = set(edges[start])
    while ahead:
        unit = ahead.pop()
        if unit not in seen:
            seen.add(unit)
            ahead |= edges.get(unit, set())
    return seen


def test_this_repository_keeps_the_rules() -> None:
    assert "\n".join(violations(REPOSITORY)) == ""


def test_configuration_and_names_of_files_load_without_torch() -> None:
    """Neither a direct import nor one through another package loads torch."""
    names = [f"{PACKAGE}.doctor", f"{PACKAGE}.run_directory.paths", *modules_of("config")]
    names += [f"{PACKAGE}.upstream.{name}" for name in TORCH_FREE]
    program = f"import sys, {', '.join(names)}\nprint([name for name in {sorted(TORCH)} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


SOUND = {
    "easq_rec/__init__.py": "",
    "easq_rec/errors.py": "import os, sys\nos._exit(1)",
    "easq_rec/upstream/torch_tensors.py": "from torch._x import y\ndef version(tensor):\n    return tensor._version",
    "easq_rec/doctor.py": "import json\nfrom easq_rec.errors import UserError",
    "easq_rec/kernels/linear.py": "from easq_rec.errors import UserError",
    "easq_rec/config/run.py": "import dataclasses",
    "easq_rec/config/recipes.py": "from easq_rec.config.run import Config",
    "easq_rec/answers/evidence.py": "from easq_rec.config.run import Config",
    "easq_rec/data/batch.py": "import torch\nfrom easq_rec.answers import evidence",
    "easq_rec/data/order.py": "from . import batch\nclass Slice: ...",
    "easq_rec/model/ranker.py": "from easq_rec.data.batch import Batch",
    "easq_rec/losses/objective.py": "from easq_rec import config, model",
    "easq_rec/evaluation/predict.py": "from easq_rec.model.ranker import Ranker",
    "easq_rec/run_directory/formatting.py": "from easq_rec.evaluation import predict",
    "easq_rec/training/loop.py": "from easq_rec.evaluation.predict import evaluate\nclass Trainer:\n    _batch: int",
    "easq_rec/tools/studies/grid.py": "from easq_rec.training import loop",
    "easq_rec/cli/main.py": "from easq_rec import doctor\nfrom easq_rec.tools.studies import grid",
    "datasets/films/prepare.py": "from easq_rec.data.batch import Batch",
    "tests/model/test_ranker.py": "from easq_rec.model.ranker import Ranker\ndef f(trainer):\n    trainer._batch",
}
"""A small tree that keeps every rule."""


def plant(root: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source)


def test_a_sound_tree_passes(tmp_path: Path) -> None:
    plant(tmp_path, SOUND)
    assert violations(tmp_path) == []


@pytest.mark.parametrize(
    ("file", "source", "reason"),
    [
        ("easq_rec/data/loader.py", "from easq_rec.model.ranker import Ranker", "higher layer"),
        ("easq_rec/losses/objective.py", "def late():\n    import easq_rec.training.loop", "higher layer"),
        ("easq_rec/data/loader.py", "from ..training import loop", "higher layer"),
        ("easq_rec/model/ranker.py", "from easq_rec.losses import objective", "higher layer"),
        ("easq_rec/answers/evidence.py", "from easq_rec.data.batch import Batch", "higher layer"),
        ("easq_rec/training/session.py", "from easq_rec.tools.studies import grid", "higher layer"),
        ("easq_rec/evaluation/predict.py", "from easq_rec.run_directory import formatting", "circle"),
        ("easq_rec/kernels/linear.py", "from easq_rec.config.run import Config", "do not import each other"),
        ("easq_rec/kernels/linear.py", "from easq_rec import config", "do not import each other"),
        ("easq_rec/tools/report/page.py", "from easq_rec import cli", "higher layer"),
        ("easq_rec/helpers.py", "", "belongs to no layer"),
        ("easq_rec/losses/objective.py", "from torchx_components import dist", "nobody imports torchx_components"),
        ("easq_rec/cli/main.py", "import datasets", "nobody imports datasets"),
        ("easq_rec/cli/score.py", "from benchmarks.train_step import main", "nobody imports benchmarks"),
        ("benchmarks/step.py", "from tests.golden import losses", "nobody imports tests"),
        ("easq_rec/config/run.py", "import torch", "must load without torch"),
        (
            "easq_rec/config/recipes.py",
            "def f():\n    from torchrec.distributed import planner",
            "must load without torch",
        ),
        ("easq_rec/doctor.py", "import torch", "standard library only"),
        ("easq_rec/errors.py", "from easq_rec.config import Config", "standard library only"),
        ("easq_rec/doctor.py", "from easq_rec.config import Config", "standard library only"),
        ("easq_rec/logging.py", "", "standard library"),
        ("easq_rec/queue/__init__.py", "", "standard library"),
        ("easq_rec/model/utils.py", "", "name a module after what it does"),
        ("easq_rec/data/loader.py", "class Slice: ...", "several classes have the name Slice"),
        ("datasets/__init__.py", "", "shadows"),
        ("easq_rec/training/loop.py", "import torch\ntorch._softmax_backward_data()", "private to another library"),
        ("easq_rec/training/loop.py", "from torch.distributed._shard import api", "private to another library"),
        ("easq_rec/training/loop.py", "import torch._dynamo", "private to another library"),
        ("easq_rec/training/loop.py", "def f(adamw):\n    adamw._optimizer.x = 1", "private to another library"),
        ("benchmarks/step.py", "def f(x):\n    return getattr(x, '_lookups')", "private to another library"),
        ("tests/test_cpus.py", "from numpy._core import umath", "private to another library"),
        ("tests/test_long.py", "x = 1\n" * (MOST_LINES + 1), "701 lines"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, source: str, reason: str) -> None:
    plant(tmp_path, SOUND | {file: source})
    found = violations(tmp_path)
    place = file.removesuffix("/__init__.py") if file.startswith("easq_rec") else file
    place = "/".join(place.split("/")[:2]) if reason == "circle" else place
    assert any(place in line and reason in line for line in found), found
