"""The job that torchrun starts on every node: TorchX's job with options that make it restartable."""

from __future__ import annotations

from torchx import specs
from torchx.components import dist as torchx_dist
from torchx.specs import macros

from torchx_components import launch
from torchx_components.launch import LaunchError

DEFAULT_PORT = 29500
"""TorchX's default; declared for single-node jobs, which choose their port at start."""


def app(
    arguments: list[str],
    *,
    script: str | None = None,
    m: str | None = None,
    name: str,
    image: str,
    h: str | None,
    cpu: int,
    gpu: int,
    memMB: int,
    j: str,
    env: dict[str, str] | None,
    max_retries: int,
    max_restarts: int,
    rdzv_port: int,
    threads: int,
    mounts: list[str] | None,
    debug: bool,
    tee: int,
) -> specs.AppDef:
    """A script, or a module, in nodes x processes. The options are those of dist.ddp.

    Raises:
        LaunchError: an option has an invalid value.
    """
    nodes, processes = job_shape(j)
    launch.at_least(0, max_restarts=max_restarts, max_retries=max_retries, rdzv_port=rdzv_port, threads=threads)
    resource = launch.host(cpu=cpu, memMB=memMB, gpu=gpu, h=h)
    launch.parsed_mounts(mounts)
    # Only nodes on a network need a common port. The nodes of a local job share this host, possibly with other jobs, so
    # the port is chosen here once for all nodes.
    port = rdzv_port or (launch.free_port() if nodes > 1 else DEFAULT_PORT)
    job = torchx_dist.ddp(
        *arguments,
        script=script,
        m=m,
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
    (role,) = job.roles
    cores = resource.cpu // processes if h else launch.available_cores() // (nodes * processes)
    role.env = {
        "EASQ_RUN_NAME": macros.app_id,
        "OMP_NUM_THREADS": str(threads or max(1, cores)),
        # Keeps the script's directory out of sys.path: easq_rec/ is a package, not a directory of top-level modules.
        # A module is found through the working directory, which the same setting would also exclude.
        **({"PYTHONSAFEPATH": "1"} if script else {}),
        # By default the workers of a restart meet in the store of the first rendezvous, which still holds the addresses
        # of ended workers: gloo then waits for a dead peer until it times out.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        # At the end of a job with several nodes, the node that hosts the store may exit first; the others then print a
        # C++ stack trace, although nothing is wrong.
        **({} if debug else {"TORCH_CPP_LOG_LEVEL": "ERROR"}),
        **role.env,
    }
    role.args = ["-c", command(role.args, max_restarts=max_restarts, one_node=nodes == 1)]
    return job


def command(args: list[str], *, max_restarts: int, one_node: bool) -> str:
    """The bash command of the job, made from the one TorchX wrote (``bash -c 'torchrun ...'``)."""
    flag, written = args
    assert flag == "-c", args
    assert written.startswith("torchrun "), written
    options = ["--max_restarts", str(max_restarts)]
    if one_node:
        # Otherwise torchrun announces this host by its full name, which many laptops cannot resolve.
        options += ["--local_addr", "localhost"]
    return launch.started(f"torchrun {' '.join(options)} {written.removeprefix('torchrun ')}")


def job_shape(j: str) -> tuple[int, int]:
    """Nodes (the most, if elastic) and processes per node of ``[{min}:]{nodes}x{processes}``.

    Raises:
        LaunchError: invalid form.
    """
    try:
        least, nodes, processes, _ = torchx_dist.parse_nnodes(j)
    except ValueError:
        nodes = processes = least = 0
    if least < 1 or nodes < least or processes < 1:
        raise LaunchError(f"-j {j} is not allowed: NODESxPROCESSES as in 2x8, or MIN:MAXxPROCESSES as in 1:2x8")
    return nodes, processes
