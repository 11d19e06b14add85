"""torch still counts writes to a tensor and references to it."""

from __future__ import annotations

import torch

from easq_rec.upstream.torch_tensors import holders, version

CHANGED = "torch has changed {}: adapt easq_rec/upstream/torch_tensors.py"


def test_every_write_increases_the_version_and_no_read_does() -> None:
    x = torch.zeros(3)
    versions = [version(x)]
    for write in (lambda: x.add_(1), lambda: x[:2].mul_(2), lambda: x.detach().zero_()):
        write()
        versions.append(version(x))
    assert versions == sorted(set(versions)), CHANGED.format("Tensor._version")
    x.sum()
    assert version(x) == versions[-1], CHANGED.format("Tensor._version")


def test_holders_counts_all_python_references_as_one_and_each_c_reference() -> None:
    x = torch.zeros(3, requires_grad=True)
    same = x
    assert holders(same) == 1, CHANGED.format("Tensor._use_count")
    y = x * x  # autograd keeps its inputs for the backward pass
    assert holders(x) > 1, CHANGED.format("Tensor._use_count")
    del y
    assert holders(x) == 1, CHANGED.format("Tensor._use_count")
