"""``torchx run build.partitions --config logs.toml --out DIR --n 4``: raw logs to requests, in N replicas.

Each replica is an ``easq-rec data build`` of one partition of the users; the last one publishes the output. They meet
in the file system alone, so the directory of the output must be one that all of them see. An interrupted job is started
again as it was: partitions that are done stay.

As in ``dist.py``, TorchX reads the annotations from the source: ``Optional[int]``, never ``int | None``.
"""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Dict, Optional

import torchx
from torchx import specs
from torchx.specs import macros

from torchx_components.dist import LaunchError


def partitions(
    config: str,
    out: str,
    n: int = 2,
    h: Optional[str] = None,
    cpu: int = 1,
    memMB: int = 4096,
    engine_memMB: int = 1024,
    temp: Optional[str] = None,
    name: str = "build",
    image: str = torchx.IMAGE,
    env: Optional[Dict[str, str]] = None,
    max_retries: int = 0,
) -> specs.AppDef:
    """Builds requests/ and answers/ from raw logs, N partitions of the users side by side.

    torchx run build.partitions --config logs.toml --out DIR --n 4

    Args:
        config: the TOML file of easq-rec data build
        out: directory to write, seen by all replicas; appears when all partitions are done
        n: partitions, and replicas
        h: a registered named resource (instead of cpu and memMB)
        cpu: CPUs per replica, asked of the scheduler, and threads of its SQL engine
        memMB: memory per replica in MB, asked of the scheduler (local schedulers do not limit it)
        engine_memMB: bound of the SQL engine's share of it
        temp: directory of temporary files; beside the output if it is left out
        name: name of the job
        image: container image or image directory (local_cwd ignores it)
        env: environment variables of the replicas (A=1,B=2)
        max_retries: how often the scheduler may start a replica again (local schedulers never do)
    """
    for option, value in {"n": n, "cpu": cpu, "memMB": memMB, "engine_memMB": engine_memMB}.items():
        if value < 1:
            raise LaunchError(f"--{option} {value} is not allowed: at least 1")
    try:
        resource = specs.resource(cpu=cpu, memMB=memMB, gpu=0, h=h)
    except KeyError as error:
        raise LaunchError(f"-h {h} is not allowed: {error.args[0]}") from error
    options = ["--config", config, "--out", out, "--threads", str(cpu), "--memory-mb", str(engine_memMB)]
    options += ["--temp", temp] if temp else []
    words = " ".join(shlex.quote(word) for word in options).replace("$", "$$")
    # Replicas count from 0, partitions from 1. exec: a scheduler that stops the job signals what it started itself.
    command = f"exec easq-rec data build {words} --partition $$(( {macros.replica_id} + 1 ))/{n}"
    directory = unlisted_directory()
    if directory:
        command = f"export PATH={shlex.quote(directory).replace('$', '$$')}:$$PATH; {command}"
    role = specs.Role(
        name="builder",
        image=image,
        entrypoint="bash",
        args=["-c", command],
        env=dict(env or {}),
        num_replicas=n,
        max_retries=max_retries,
        # A partition needs no other one: whoever fails is started again alone.
        retry_policy=specs.RetryPolicy.REPLICA,
        resource=resource,
    )
    return specs.AppDef(name=name, roles=[role])


def unlisted_directory() -> Optional[str]:
    """Directory of this interpreter's easq-rec, unless PATH leads to it already."""
    directory = Path(sys.executable).parent
    command = directory / "easq-rec"
    if not command.exists() or shutil.which("easq-rec") == str(command):
        return None
    return str(directory)
