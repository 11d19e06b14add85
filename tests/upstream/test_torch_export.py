"""The name of `easq_rec.upstream.torch_export`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, export

from easq_rec.upstream.torch_export import sizes_of_one_are_sizes

CHANGED = "torch has changed {}: adapt easq_rec/upstream/torch_export.py"


class Spread(nn.Module):
    """A sum over rows, which torch broadcasts if there is one."""

    def forward(self, x_ND: Tensor, y_ND: Tensor) -> Tensor:
        return (x_ND + y_ND).sum(0)


def test_a_graph_takes_a_size_of_one() -> None:
    x_ND, shape = torch.ones(3, 2), {0: Dim("rows", min=1, max=9)}
    with sizes_of_one_are_sizes():
        graph = export(Spread(), (x_ND, x_ND), dynamic_shapes=(shape, shape), strict=False).module()
    one = torch.ones(1, 2)
    assert graph(one, one).tolist() == [2.0, 2.0], CHANGED.format("backed_size_oblivious")
