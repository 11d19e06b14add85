"""``torchx run dist.ddp -j 2x8 easq_rec/train.py [RECIPE] [--overrides]``.

TorchX's own ``dist.ddp`` takes the script as ``--script``; this one takes it as the first positional argument, and adds
what a restartable training job needs. Everything else (rendezvous, naming, resources) is TorchX's, called underneath.

TorchX reads annotations from the source of every function in this file: ``Optional[int]``, never ``int | None``, and no
``from __future__ import annotations``, which would turn them into strings.
"""

from typing import Dict, List, Optional

import torchx
from torchx import specs

from torchx_components import torchrun
from torchx_components.launch import LaunchError


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

    Options of the job go before the script; everything after it belongs to the script. A job that torchrun or the
    scheduler restarts finds its run directory again: EASQ_RUN_NAME holds the id of the job.

    Args:
        script_args: the script and its arguments
        j: [{min_nodes}:]{nodes}x{processes per node}; with GPUs at most as many processes as GPUs of a node
        h: a registered named resource (instead of cpu, gpu and memMB)
        cpu: CPUs per node, requested from the scheduler (local schedulers do not limit them)
        gpu: GPUs per node, requested from the scheduler
        memMB: memory per node in MB, requested from the scheduler
        name: {experiment}/{run}, {experiment}/ or /{run}; the run is named after the script if it has no name here
        image: container image or image directory (local_cwd ignores it)
        env: environment variables of the job (A=1,B=2); they override the ones set here
        max_retries: how often the scheduler may restart the job (local_cwd, lsf and ray never do)
        max_restarts: how often torchrun may restart all processes after a failure
        rdzv_port: port of the rendezvous on the first node; 0 chooses one that is free here, which may be closed on the
            first node of a cluster: set one there. Single-node jobs need none
        threads: CPU threads per process (OMP_NUM_THREADS). 0 divides the CPUs of the named resource h by the processes
            of a node; without h, it divides the cores of this machine by all processes of the job, which is right if
            all nodes of the job are this machine (local schedulers)
        mounts: mounts of the container (type=<bind/volume>,src=/host,dst=/job[,readonly])
        debug: True sets the debug flags of NCCL, CUDA and torch.distributed
        tee: output to the console in addition to the log files. 0: nothing, 1: stdout, 2: stderr, 3: both
    """
    if not script_args:
        raise LaunchError("the script is missing: torchx run dist.ddp -j 1x2 SCRIPT [arguments of the script]")
    script, *arguments = script_args
    return torchrun.app(
        arguments,
        script=script,
        name=name,
        image=image,
        h=h,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        j=j,
        env=env,
        max_retries=max_retries,
        max_restarts=max_restarts,
        rdzv_port=rdzv_port,
        threads=threads,
        mounts=mounts,
        debug=debug,
        tee=tee,
    )
