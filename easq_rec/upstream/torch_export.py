"""How torch.export treats sizes of 1."""

from __future__ import annotations

import contextlib

import torch.fx.experimental._config as settings


def sizes_of_one_are_sizes() -> contextlib.AbstractContextManager[None]:
    """Within the block, a size that may be 1 stays a size of the traced graph. Else torch traces the form for other
    sizes, and refuses a range that includes 1."""
    return settings.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
