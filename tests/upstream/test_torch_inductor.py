"""What `easq_rec.upstream.torch_inductor` needs of AOTInductor."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

from easq_rec.upstream.torch_inductor import CompiledProgram, compile_to

CHANGED = "torch has changed {}: adapt easq_rec/upstream/torch_inductor.py"


class Line(nn.Module):
    """With constants of one number and of a few, which the compiler would make a part of the code."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("slope", torch.tensor(2.0))
        self.register_buffer("offset_D", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x_ND: Tensor) -> Tensor:
        return x_ND * self.slope + self.offset_D


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler")
def test_code_has_no_weights(tmp_path: Path) -> None:
    x_ND = torch.ones(4, 3)
    file = tmp_path / "line.pt2"
    compile_to(export(Line(), (x_ND,), dynamic_shapes=({0: Dim("rows", min=2, max=99)},)), file)
    weights = {"slope": torch.tensor(10.0), "offset_D": torch.tensor([0.0, 0.5, 1.0]), "unknown": torch.zeros(1)}
    program = CompiledProgram(file, weights, torch.device("cpu"))
    assert sorted(program.names) == ["offset_D", "slope"], CHANGED.format("always_keep_tensor_constants")
    assert program([x_ND])[0].tolist() == [10.0, 10.5, 11.0], CHANGED.format("load_constants")
    # The memory is the caller's.
    weights["offset_D"].zero_()
    assert program([x_ND[:2]]).tolist() == [[10.0] * 3] * 2, CHANGED.format("user_managed")
    # The library itself would take these, and read beyond their ends.
    for name, wrong, found in (
        ("offset_D", torch.zeros(2), r"torch\.float32\[2\]"),
        ("offset_D", torch.zeros(3, dtype=torch.float64), r"torch\.float64\[3\]"),
        ("slope", None, "missing"),
    ):
        others = {**weights, name: wrong} if wrong is not None else {"offset_D": weights["offset_D"]}
        expected = r"torch\.float32\[3\]" if name == "offset_D" else r"torch\.float32\[\]"
        with pytest.raises(ValueError, match=f"{name} is {found}, and the code needs {expected}"):
            CompiledProgram(file, others, torch.device("cpu"))
