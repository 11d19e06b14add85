"""Embedding tables as a package stores them: float32, float16, or 8-bit integers with a scale for each row.

Legend: V ids, D width of a table, S sets and W ways of an admitted table.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
MOST_CODE = 127
"""Code of the largest absolute value of a row in int8."""


class StoredTable(nn.Module):
    """Rows of a table, (V,) to (V, D) float32.

    Args:
        weight: the rows; float32 ones are shared and not copied.
        map_SW: the ids of an admitted table's rows; None: it is not admitted.
    """

    row: Tensor
    scale: Tensor | None
    map_SW: Tensor | None

    def __init__(self, weight: Tensor, precision: Precision, map_SW: Tensor | None = None) -> None:
        super().__init__()
        weight, scale = weight.detach(), None
        match precision:
            case "fp16":
                weight = weight.half()
            case "int8":
                # A row of zeros has any scale.
                scale = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / MOST_CODE
                weight = (weight / scale[:, None]).round().to(torch.int8)
        self.register_buffer("row", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("map_SW", map_SW)

    def forward(self, row_V: Tensor) -> Tensor:
        found_VD = self.row[row_V].float()
        return found_VD if self.scale is None else found_VD * self.scale[row_V][:, None]


def module_name(table: str) -> str:
    """Name of a table's module: a bare name, such as `items`, may be that of an attribute."""
    return f"table_{table}"
