"""Names of the files in a checkpoint of torch.distributed.checkpoint. Loads without torch."""

from __future__ import annotations

import re

METADATA = ".metadata"
"""Describes all tensors of the checkpoint. Rank 0 writes it."""
_SHARD = re.compile(r"__(\d+)_\d+\.distcp")


def rank_of_shard(name: str) -> int | None:
    """The rank that wrote a file of tensors; None: this is the name of another file."""
    found = _SHARD.fullmatch(name)
    return int(found[1]) if found else None
