"""Messages through shared memory: they come as they were sent, and memory is used again only when it is free."""

from __future__ import annotations

import os
import random
import resource
import socket
from collections import deque
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from easq_rec.training import host_channel
from easq_rec.training.host_channel import SMALLEST, Channel, Gone

Ends = tuple[Channel, Channel]


@pytest.fixture
def ends() -> Iterator[Ends]:
    connections = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for connection in connections:
        connection.settimeout(0.2)
    one, other = (Channel(connection) for connection in connections)
    yield one, other
    one.close()
    other.close()


def content(size: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_any_two_that_send_and_receive_in_any_order(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against two queues of copies; also empty messages, sizes about those of blocks, and blocks that are not kept."""
    monkeypatch.setattr(host_channel, "LARGEST_KEPT", 4 * SMALLEST)
    sizes = (0, 1, SMALLEST - 1, SMALLEST, SMALLEST + 1, 3 * SMALLEST, 4 * SMALLEST, 4 * SMALLEST + 1, 9 * SMALLEST)
    chance, opened = random.Random(0), descriptors()
    waiting: tuple[deque[tuple[int, Tensor]], deque[tuple[int, Tensor]]] = (deque(), deque())
    received = 0
    for number in range(3_000):
        end = chance.randrange(2)
        if waiting[end] and (chance.random() < 0.5 or len(waiting[end]) > 20):
            tag, expected = waiting[end].popleft()
            message = ends[end].receive()
            assert message.tag == tag and torch.equal(message.content, expected)
            received += 1
        else:
            sent = content(chance.choice(sizes), seed=number)
            waiting[1 - end].append((number, sent.clone()))
            ends[end].send(number, sent)
            # The message is a copy.
            sent.zero_()
    assert received > 1_000
    assert descriptors() == opened


def test_blocks_go_to_and_fro(ends: Ends) -> None:
    """Two that answer each other need two blocks each: of the last message it is known only with the answer."""
    one, other = ends
    for number in range(50):
        one.send(number, content(10_000))
        other.send(number, content(10_000))
        one.receive()
        other.receive()
    assert one._made == other._made == 2


def test_what_is_not_received_yet_keeps_its_block(ends: Ends) -> None:
    one, other = ends
    for number in range(10):
        one.send(number, content(10_000, seed=number))
    assert one._made == 10
    for number in range(10):
        assert torch.equal(other.receive().content, content(10_000, seed=number))


def test_what_was_received_stays_until_the_next_call(ends: Ends) -> None:
    """The sender may go on sending: it has not been told that its block is free."""
    one, other = ends
    one.send(0, content(10_000, seed=0))
    message = other.receive()
    for number in range(1, 5):
        one.send(number, content(10_000, seed=number))
    assert torch.equal(message.content, content(10_000, seed=0))


def test_large_blocks_are_given_back(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_channel, "LARGEST_KEPT", SMALLEST)
    one, other = ends
    for number in range(4):
        one.send(number, content(SMALLEST + 1))
        other.send(number, content(1))
        one.receive()
        other.receive()
    assert not other._mapped and not one._free[2 * SMALLEST] and other._free[SMALLEST]


def test_what_was_sent_arrives_after_its_sender_has_ended(ends: Ends) -> None:
    one, other = ends
    one.send(7, content(10_000))
    one.close()
    assert torch.equal(other.receive().content, content(10_000))
    with pytest.raises(Gone):
        other.receive()
    with pytest.raises(Gone):
        other.send(8, content(10))


def test_an_end_with_unread_messages_ends(ends: Ends) -> None:
    """Then the system tells of a reset instead of the end."""
    one, other = ends
    other.send(1, content(10))
    one.close()
    with pytest.raises(Gone):
        other.receive()


def test_no_more_files_may_be_open(ends: Ends) -> None:
    """The system delivers the message then, without its block."""
    one, other = ends
    one.send(1, content(10))
    free = os.dup(0)
    os.close(free)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(OSError, match="no more files may be open in this process"):
            other.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_nothing_comes_in_time(ends: Ends) -> None:
    with pytest.raises(TimeoutError):
        ends[0].receive()
