"""Shared parts of the components: errors, resources of a host, and the bash command that starts a program.

Not a component module, so TorchX does not read the annotations here.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
from pathlib import Path

from torchx import specs
from torchx.specs.api import BindMount, DeviceMount, VolumeMount
from torchx.specs.finder import ComponentValidationException


class LaunchError(ComponentValidationException, ValueError):
    """The requested job cannot be launched. The torchx command prints its base class without a traceback."""


def at_least(least: int, **options: int) -> None:
    """Raises LaunchError naming the first option that is below `least`."""
    for option, value in options.items():
        if value < least:
            raise LaunchError(f"--{option} {value} is not allowed: {least} or more")


def host(*, cpu: int, memMB: int, gpu: int, h: str | None) -> specs.Resource:
    """The resources of a replica: the named resource if given, else the numbers.

    Raises:
        LaunchError: an invalid number, or an unregistered name.
    """
    at_least(1, cpu=cpu, memMB=memMB)
    at_least(0, gpu=gpu)
    try:
        return specs.resource(cpu=cpu, memMB=memMB, gpu=gpu, h=h)
    except KeyError as error:
        raise LaunchError(f"-h {h} is not allowed: {error.args[0]}") from error


def parsed_mounts(mounts: list[str] | None) -> list[BindMount | VolumeMount | DeviceMount]:
    """Parses `type=bind,src=/host,dst=/job[,readonly]`, any number of times, as TorchX does.

    Raises:
        LaunchError: an unknown or missing option.
    """
    try:
        return list(specs.parse_mounts(mounts or []))
    except (KeyError, ValueError) as error:
        given = ",".join(mounts or [])
        raise LaunchError(
            f"--mounts {given} is not allowed: {error.args[0]}; as in type=bind,src=/host,dst=/job[,readonly]"
        ) from error


def quoted(words: list[str]) -> str:
    """The words quoted for bash, with every $ escaped so that TorchX's macros do not replace it."""
    return " ".join(shlex.quote(word) for word in words).replace("$", "$$")


def started(command: str) -> str:
    """A bash command that starts a program of this environment and becomes it.

    It uses exec, because a scheduler that stops the job signals the process that it started, which must be the program.

    The torchx command may be called by its path, without activating its environment: the program must come from the
    same place. The directory goes in front of whatever PATH the job finds when it starts, not into the job's
    environment, where it would replace an image's PATH; an image without such a directory is not affected.
    """
    directory = unlisted_directory(command.split(maxsplit=1)[0])
    path = f"export PATH={quoted([directory])}:$$PATH; " if directory else ""
    return f"{path}exec {command}"


def unlisted_directory(program: str) -> str | None:
    """Directory of this interpreter's `program`, unless PATH already finds it."""
    directory = Path(sys.executable).parent
    own = directory / program
    if not own.exists() or shutil.which(program) == str(own):
        return None
    return str(directory)


def free_port() -> int:
    """A TCP port that is currently free on this host."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def available_cores() -> int:
    """Cores that this process may run on, which a container or a batch system may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
