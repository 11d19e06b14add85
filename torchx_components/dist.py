"""``torchx run dist.ddp -j 2x8 easq_rec/train.py [RECIPE] [--overrides]``.

TorchX's own ``dist.ddp`` takes the script as ``--script``; this one takes it as the first positional argument, and adds
what a restartable training job needs. Everything else (rendezvous, naming, resources) is TorchX's, called underneath.

TorchX reads annotations from the source of every function in this file: ``Optional[int]``, never ``int | None``, and no
``from __future__ import annotations``, which would turn them into strings.
"""

import os
import shlex
import shutil
import socket
import sys
from pathlib import Path
from typing import Dict, List, Optional

import torchx
from torchx import specs
from torchx.components import dist as torchx_dist
from torchx.specs import macros
from torchx.specs.finder import ComponentValidationException

DEFAULT_PORT = 29500
"""TorchX's own; declared for single-node jobs, which choose their port when they start."""


class LaunchError(ComponentValidationException, ValueError):
    """What the user asked for cannot be launched. The torchx command prints its base class without a traceback."""


def ddp(
    *script_args: str,
    j: str = "1x2",
    h: Optional[str] = None,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 1024,
    name: str = "/",
    image: str = torchx.IMAGE,
    env: Optional[Dict[str, str]] = None,
    max_retries: int = 0,
    max_restarts: int = 0,
    rdzv_port: int = 0,
    threads: int = 0,
    mounts: Optional[List[str]] = None,
    debug: bool = False,
    tee: int = 3,
) -> specs.AppDef:
    """Runs a training script in nodes x processes, under torchrun.

    torchx run dist.ddp [options] SCRIPT [arguments of the script]

    Options of the job go before the script, all that follows the script is the script's. A job that is restarted, by
    torchrun or by the scheduler, finds its run directory again: EASQ_RUN_NAME holds the id of the job.

    Args:
        script_args: the script and its arguments
        j: [{min_nodes}:]{nodes}x{processes per node}; with GPUs at most as many processes as GPUs of a node
        h: a registered named resource (instead of cpu, gpu and memMB)
        cpu: CPUs per node, asked of the scheduler (local schedulers do not limit them)
        gpu: GPUs per node, asked of the scheduler
        memMB: memory per node in MB, asked of the scheduler
        name: {experiment}/{run}, {experiment}/ or /{run}; the run is named after the script if it has no name here
        image: container image or image directory (local_cwd ignores it)
        env: environment variables of the job (A=1,B=2); they override the ones set here
        max_retries: how often the scheduler may start the job again (local schedulers never do)
        max_restarts: how often torchrun may start all processes again after one failed
        rdzv_port: port of the rendezvous on the first node; 0 takes one that is free here, which on a cluster may be
            closed on the first node: name one there. Single-node jobs need none
        threads: CPU threads per process (OMP_NUM_THREADS). 0 takes the CPUs of the named resource h divided by the
            processes of a node; without h, the cores of this machine divided by all processes of the job, which is
            right where all nodes of the job are this machine (local schedulers)
        mounts: mounts of the container (type=<bind/volume>,src=/host,dst=/job[,readonly])
        debug: True sets the debug flags of NCCL, CUDA and torch.distributed
        tee: what goes to the console besides the log files. 0: nothing, 1: stdout, 2: stderr, 3: both
    """
    if not script_args:
        raise LaunchError("the script is missing: torchx run dist.ddp -j 1x2 SCRIPT [arguments of the script]")
    script, *arguments = script_args
    nodes, processes = job_shape(j)
    for option, value in {"max_restarts": max_restarts, "rdzv_port": rdzv_port, "threads": threads}.items():
        if value < 0:
            raise LaunchError(f"--{option} {value} is not allowed: 0 or more")
    try:
        specs.resource(h=h)
    except KeyError as error:
        raise LaunchError(f"-h {h} is not allowed: {error.args[0]}") from error

    # Only nodes that meet over the network need a port that all of them know. Nodes of a local job share this host and
    # may share it with other jobs, so the port has to be chosen here, once for all of them.
    port = rdzv_port or (free_port() if nodes > 1 else DEFAULT_PORT)
    app = torchx_dist.ddp(
        *arguments,
        script=script,
        name=name,
        image=image,
        h=h,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        j=j,
        env=dict(env or {}),
        max_retries=max_retries,
        rdzv_port=port,
        mounts=mounts,
        debug=debug,
        tee=tee,
    )
    (role,) = app.roles
    cores = role.resource.cpu // processes if h else available_cores() // (nodes * processes)
    role.env = {
        "EASQ_RUN_NAME": macros.app_id,
        "OMP_NUM_THREADS": str(threads or max(1, cores)),
        # Keeps the script's own directory out of sys.path: easq_rec/ is a package, not a place of top-level modules.
        "PYTHONSAFEPATH": "1",
        # By default the workers of a restart meet in the store of the first rendezvous, which still holds the addresses
        # of those who are gone: gloo then waits for a dead peer until it times out.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        # At the end of a job of several nodes the one that hosts the store may leave first; the others then print a
        # stack trace of C++ about it, although nothing is wrong.
        **({} if debug else {"TORCH_CPP_LOG_LEVEL": "ERROR"}),
        **role.env,
    }
    role.args = ["-c", torchrun_command(role.args, max_restarts=max_restarts, one_node=nodes == 1)]
    return app


def torchrun_command(args: List[str], max_restarts: int, one_node: bool) -> str:
    """The bash command of the job, made from the one TorchX wrote (``bash -c 'torchrun ...'``)."""
    flag, command = args
    assert flag == "-c", args
    assert command.startswith("torchrun "), command
    options = ["--max_restarts", str(max_restarts)]
    if one_node:
        # Else torchrun announces this host by its full name, which many laptops cannot resolve.
        options += ["--local_addr", "localhost"]
    # exec: a scheduler that stops the job signals the process that it started, which must be torchrun, not a shell.
    command = f"exec torchrun {' '.join(options)} {command.removeprefix('torchrun ')}"
    directory = unlisted_directory()
    if directory:
        # `.venv/bin/torchx` may be called by its path, without activating the environment: torchrun must come from the
        # same place. The directory goes in front of whatever PATH the job finds when it starts, not into the job's
        # environment, where it would replace an image's PATH; an image without such a directory is not affected.
        command = f"export PATH={shlex.quote(directory).replace('$', '$$')}:$$PATH; {command}"
    return command


def unlisted_directory() -> Optional[str]:
    """Directory of this interpreter's torchrun, unless PATH leads to it already."""
    directory = Path(sys.executable).parent
    torchrun = directory / "torchrun"
    if not torchrun.exists() or shutil.which("torchrun") == str(torchrun):
        return None
    return str(directory)


def job_shape(j: str) -> List[int]:
    """Nodes (the most, if elastic) and processes per node of ``[{min}:]{nodes}x{processes}``."""
    try:
        least, nodes, processes, _ = torchx_dist.parse_nnodes(j)
    except ValueError:
        nodes = processes = least = 0
    if least < 1 or nodes < least or processes < 1:
        raise LaunchError(f"-j {j} is not allowed: NODESxPROCESSES as in 2x8, or MIN:MAXxPROCESSES as in 1:2x8")
    return [nodes, processes]


def free_port() -> int:
    """A TCP port that nobody listens on here, now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def available_cores() -> int:
    """Cores that this process may run on, which a container or a batch system may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
