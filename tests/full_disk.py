"""Real failures of a disk, for tests."""

from __future__ import annotations

import contextlib
import resource
import subprocess
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def files_of_at_most(room: int) -> Iterator[None]:
    """Within the block this process cannot write beyond `room` bytes of any file: EFBIG, in the place of ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def small_disk(directory: str, kibibytes: int) -> tuple[str, ...]:
    """Words in front of a command, which then sees a file system of this size at the directory. Nobody else sees it.

    Skips the test where file systems cannot be mounted.
    """
    mount = f"mount -t tmpfs -o size={kibibytes}k small {directory}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    return ("unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh")
