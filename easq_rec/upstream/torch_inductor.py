"""AOTInductor: compiling a graph to a library, and calling it.

A loaded package checks nothing: inputs of another type or shape give scores, or end the process. So does a call before
all constants are loaded.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from easq_rec import json_file

SHAPES = "easq_rec_shapes"
"""Key of the compiled file's metadata with types and shapes of all constants."""


def compile_to(program: ExportedProgram, file: Path) -> None:
    """Compiles a graph without its constants, which are given to `CompiledProgram`, to a file that ends in .pt2."""
    weights = {**program.state_dict, **program.constants}
    shapes = {name: shape_of(value) for name, value in weights.items() if isinstance(value, Tensor)}
    settings = {
        # The library would take a smaller table, and read beyond its end.
        "aot_inductor.metadata": {SHAPES: json_file.text(shapes)},
        "aot_inductor.package_constants_in_so": False,
        # Else small constants become numbers in the code, and other weights would not change them.
        "always_keep_tensor_constants": True,
    }
    with warnings.catch_warnings():
        # torch warns about its own code.
        warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
        warnings.filterwarnings("ignore", ".*torch.jit.*", DeprecationWarning)
        # The import loads the compiler, for seconds.
        import torch._inductor

        torch._inductor.aoti_compile_and_package(program, package_path=str(file), inductor_configs=settings)


def shape_of(constant: Tensor) -> str:
    """Type and shape: `torch.float32[8192, 32]`."""
    return f"{constant.dtype}{list(constant.shape)}"


class CompiledProgram:
    """A compiled graph and its constants. Calls from several threads run one after the other.

    Args:
        file: what `compile_to` wrote.
        constants: by name, all that `names` has. The memory is not copied, and must not change.
        device: where it runs.

    Raises:
        ValueError: a constant is missing, or has another type or shape than the code was compiled for.
    """

    def __init__(self, file: Path, constants: Mapping[str, Tensor], device: torch.device) -> None:
        index = -1 if device.type == "cpu" else (device.index or 0)
        # One runner, no run in a single thread, the package's only model.
        self._loader = torch._C._aoti.AOTIModelPackageLoader(str(file), "model", False, 1, index)
        shapes = json.loads(self._loader.get_metadata()[SHAPES])
        self._constants = {}
        for name in self._loader.get_constant_fqns():
            found = shape_of(constants[name]) if name in constants else "missing"
            if found != shapes[name]:
                raise ValueError(f"{name} is {found}, and the code needs {shapes[name]}")
            self._constants[name] = constants[name]
        self._loader.load_constants(self._constants, False, True, True)

    @property
    def names(self) -> list[str]:
        """Names of the constants that the graph reads."""
        return list(self._constants)

    def __call__(self, columns: Sequence[Tensor]) -> Tensor:
        scores: Tensor
        (scores,) = self._loader.boxed_run(list(columns))
        return scores
