"""The time line of a synthetic world: its start, and the rounds into which its log is divided."""

from __future__ import annotations

from easq_rec.config import World
from easq_rec.data.writer import ROW_GROUP

START_MS = 1_704_067_200_000
"""2024-01-01 UTC, the start of every time line."""
DAY_MS = 86_400_000


def round_size(config: World) -> int:
    """Requests of a round, in which a user makes at most one."""
    return min(ROW_GROUP, max(1, config.users // 4))
