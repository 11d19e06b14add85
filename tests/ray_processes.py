"""Finds the processes of a Ray cluster that a test started."""

from __future__ import annotations

import contextlib
from pathlib import Path

SERVERS = ("gcs_server", "raylet")


def servers(token: str) -> list[str]:
    """Commands of the cluster's servers, which have its secret in their environment.

    Other processes of Ray end by themselves within a minute after their server.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            program = (process / "cmdline").read_bytes().split(b"\0")[0].decode()
            if Path(program).name in SERVERS and token.encode() in (process / "environ").read_bytes():
                found.append(program)
    return found
