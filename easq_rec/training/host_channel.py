"""Tensors between two processes of one host, through memory that both have mapped.

Gloo carries them over TCP on the loopback device: the kernel copies each twice, in packets, and a thread on either side
has to be woken for it. Here the sender copies a tensor once, into memory that the receiver reads, and tells it by a
packet of some bytes over a Unix socket. The socket orders the messages, wakes whoever waits, and ends when a process
does.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections import defaultdict, deque
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SMALLEST = 4 << 10
LARGEST_KEPT = 64 << 20
"""Blocks up to so many bytes are kept for later messages."""

_PACKET = struct.Struct("=QQQQ")
"""Tag, bytes, block, and how many messages of the other direction the sender is done with."""
_FD = struct.Struct("i")


def available() -> bool:
    """Whether this system has what a channel needs, and lets this process have it."""
    if not hasattr(os, "memfd_create"):
        return False
    try:
        descriptor = os.memfd_create("easq-rec", os.MFD_CLOEXEC)
    except OSError:
        return False
    try:
        return Path(f"/proc/self/fd/{descriptor}").exists()
    finally:
        os.close(descriptor)


class Gone(RuntimeError):
    """The other process has ended."""


@dataclass(frozen=True, kw_only=True)
class _Block:
    number: int
    memory: Tensor


@dataclass(frozen=True, kw_only=True)
class Message:
    """What has come, where the sender has put it."""

    tag: int
    content: Tensor
    """(bytes,) uint8; valid until the next call of its channel."""


class Channel:
    """One end. Both send and receive; messages come in the order in which they were sent.

    A block of memory is taken for each message, from those that the other end is done with, or else a new one whose
    descriptor goes along with the message. So sending never waits for the receiver, and blocks are used again while
    caches still hold them.

    Args:
        connection: of type SOCK_SEQPACKET, with its timeout set.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._made = 0
        self._free: defaultdict[int, list[_Block]] = defaultdict(list)
        self._sent: deque[_Block | None] = deque()
        self._released = 0
        """Messages of this end that the other is known to be done with."""
        self._mapped: dict[int, Tensor] = {}
        self._done = 0
        """Messages of the other end that this one is done with."""

    def send(self, tag: int, content: Tensor) -> None:
        """Sends a copy.

        Args:
            content: (bytes,) uint8, contiguous.

        Raises:
            Gone: the other process has ended.
            TimeoutError: it leaves hundreds of messages unread.
        """
        size = content.numel()
        block, descriptor = None, None
        if size:
            block, descriptor = self._take(size)
            block.memory[:size].copy_(content)
        packet = _PACKET.pack(tag, size, block.number if block else 0, self._done)
        try:
            if descriptor is None:
                self._connection.send(packet)
            else:
                socket.send_fds(self._connection, [packet], [descriptor])
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Gone("the other process has ended") from error
        finally:
            if descriptor is not None:
                os.close(descriptor)
        self._sent.append(block)

    def receive(self) -> Message:
        """The next message; waits for it.

        Raises:
            Gone: the other process has ended.
            TimeoutError: none has come in time.
            OSError: this process may not open the file of the message's block.
        """
        try:
            packet, ancillary, flags, _ = self._connection.recvmsg(_PACKET.size, socket.CMSG_SPACE(_FD.size))
        except ConnectionResetError as error:
            raise Gone("the other process has ended") from error
        if not packet:
            raise Gone("the other process has ended")
        if flags & socket.MSG_CTRUNC:
            raise OSError(errno.EMFILE, "no more files may be open in this process: raise the limit (ulimit -n)")
        tag, size, number, done = _PACKET.unpack(packet)
        for _ in range(done - self._released):
            block = self._sent.popleft()
            if block is not None and len(block.memory) <= LARGEST_KEPT:
                self._free[len(block.memory)].append(block)
        self._released = done
        # By the next packet that tells of it, whoever asked for this message has used it.
        self._done += 1
        for _, _, data in ancillary:
            self._map(number, _block_size(size), array.array("i", data)[0])
        if not size:
            return Message(tag=tag, content=torch.empty(0, dtype=torch.uint8))
        kept = _block_size(size) <= LARGEST_KEPT
        memory = self._mapped[number] if kept else self._mapped.pop(number)
        return Message(tag=tag, content=memory[:size])

    def close(self) -> None:
        """What was sent can still be received."""
        self._connection.close()

    def _take(self, size: int) -> tuple[_Block, int | None]:
        """A block for so many bytes, and its descriptor if the other end does not have it yet."""
        size = _block_size(size)
        # The one that was given back last.
        if free := self._free[size]:
            return free.pop(), None
        descriptor = os.memfd_create("easq-rec", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
            self._made += 1
            return _Block(number=self._made, memory=_memory(descriptor, size)), descriptor
        except BaseException:
            os.close(descriptor)
            raise

    def _map(self, number: int, size: int, descriptor: int) -> None:
        try:
            self._mapped[number] = _memory(descriptor, size)
        finally:
            os.close(descriptor)


def _block_size(size: int) -> int:
    return max(SMALLEST, 1 << (size - 1).bit_length())


def _memory(descriptor: int, size: int) -> Tensor:
    # Unlike Python's own mmap it keeps no descriptor open.
    return torch.from_file(f"/proc/self/fd/{descriptor}", shared=True, size=size, dtype=torch.uint8)
