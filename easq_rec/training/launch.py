"""Which of the processes that torchrun has started this one is. Loads without torch."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from easq_rec.errors import UserError

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that torchrun sets for each of its processes."""
OF_TORCHRUN = "TORCHELASTIC_RUN_ID"
"""Environment variable that only torchrun sets."""
STORE_S = 10.0
"""Seconds in which the store of torchrun must accept a connection: it is there before torchrun starts a process."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """The place of this process among the ranks."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    """Ranks of this host."""


def launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """The place that torchrun gave this process; without torchrun, that of a single process.

    Raises:
        UserError: the variables are those of another job, or are incomplete.
    """
    given = {name: value for name in RANK_VARIABLES if (value := environment.get(name, "").strip())}
    if OF_TORCHRUN not in environment:
        if given.get("RANK", "0") == "0" and given.get("WORLD_SIZE", "1") == "1":
            return Launch()
        raise UserError(
            f"{_shown(given)}: set as for one of several ranks, but torchrun did not start this process. If they are "
            f"left over from another job, unset them to train in one process (unset {' '.join(given)}); to train on "
            "several ranks, start the script with torchrun or torchx"
        )
    if "RANK" not in given and "WORLD_SIZE" not in given:
        return Launch()
    values = {}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        if not given.get(name, "").isdecimal():
            raise UserError(
                f"{name}={environment.get(name)!r} is not allowed: torchrun sets a number; unset "
                f"{' '.join([*given, OF_TORCHRUN])} to train in one process"
            )
        values[name.lower()] = int(given[name])
    return Launch(**values)


def require_store(environment: Mapping[str, str] = os.environ, *, seconds: float = STORE_S) -> None:
    """Checks that the torchrun which the environment speaks of is still there.

    Raises:
        UserError: nobody listens at the address of its store: the variables are left over from a job that has ended.
    """
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or launch(environment).world_size == 1:
        return
    host, port = environment.get("MASTER_ADDR", ""), environment.get("MASTER_PORT", "")
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=seconds).close()
            return
        except (OSError, ValueError) as error:
            if time.monotonic() >= until:
                given = [name for name in (*RANK_VARIABLES, OF_TORCHRUN) if name in environment]
                raise UserError(
                    f"torchrun cannot be reached at MASTER_ADDR={host}, MASTER_PORT={port}: {error}. If the variables "
                    f"are left over from another job, unset them to train in one process (unset {' '.join(given)})"
                ) from error
            time.sleep(0.2)


def _shown(given: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in given.items())
