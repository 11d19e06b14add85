"""The environment says which rank a process is; variables of another job are an error, not a wait."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from easq_rec.errors import UserError
from easq_rec.training.launch import Launch, launch, require_store

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"MASTER_ADDR": "node1", "MASTER_PORT": "29500", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "8"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"RANK": "", "WORLD_SIZE": " "},
        {"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "1"},
    ],
)
def test_without_ranks_there_is_one_process(environment: dict[str, str]) -> None:
    assert launch(environment) == Launch(rank=0, local_rank=0, world_size=1, local_world_size=1)


def test_torchrun_gives_the_place() -> None:
    assert launch(TORCHRUN) == Launch(rank=3, local_rank=1, world_size=4, local_world_size=2)


@pytest.mark.parametrize("environment", [{"WORLD_SIZE": "2"}, {"RANK": "1"}, {"RANK": "0", "WORLD_SIZE": "x"}])
def test_ranks_without_torchrun_are_refused(environment: dict[str, str]) -> None:
    names = " ".join(environment)
    with pytest.raises(UserError, match=rf"but torchrun did not start this process.* \(unset {names}\)"):
        launch(environment)


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"])
@pytest.mark.parametrize("value", ["", "one"])
def test_an_incomplete_environment_of_torchrun_is_refused(name: str, value: str) -> None:
    with pytest.raises(UserError, match=f"{name}='{value}' is not allowed"):
        launch({**TORCHRUN, name: value})


def test_a_torchrun_that_has_ended_is_noticed() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    gone = {**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    begin = time.monotonic()
    with pytest.raises(UserError, match=rf"cannot be reached at MASTER_ADDR=127.0.0.1, MASTER_PORT={port}.*left over"):
        require_store(gone, seconds=0.3)
    assert time.monotonic() - begin < 5
    require_store({**gone, "TORCHELASTIC_USE_AGENT_STORE": "False"})
    require_store({})


def test_a_store_that_comes_a_moment_later_is_waited_for() -> None:
    with socket.socket() as store:
        store.bind(("127.0.0.1", 0))
        port = store.getsockname()[1]
        threading.Timer(0.3, store.listen).start()
        there = {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        require_store({**TORCHRUN, **there}, seconds=20)
