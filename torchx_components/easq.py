"""Jobs beside ``dist.ddp``: ``easq.follow``, ``easq.sweep``, ``easq.build``, ``easq.bench``.

The replicas of a sweep are the nodes of a Ray cluster. Those of a build communicate only through the file system: each
claims free work. Both write to a directory that all replicas see, a lost replica costs only time, and a replica that is
done early waits, because some schedulers end a job soon after its first replica ends.

As in ``dist.py``, TorchX reads the annotations from the source: ``Optional[int]``, never ``int | None``.
"""

from pathlib import Path
from typing import Dict, List, Optional

import torchx
from torchx import specs
from torchx.specs import macros

from torchx_components import launch, torchrun
from torchx_components.launch import LaunchError


def follow(
    *training: str,
    source: str,
    run_dir: str,
    packages: Optional[str] = None,
    j: str = "1x1",
    h: Optional[str] = None,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 4096,
    name: str = "follow",
    image: str = torchx.IMAGE,
    env: Optional[Dict[str, str]] = None,
    max_retries: int = 100,
    max_restarts: int = 100,
    rdzv_port: int = 0,
    threads: int = 0,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Trains on a stream without an end, and publishes packages. It goes on from its checkpoint after any failure.

    torchx run easq.follow --source SOURCE --run_dir DIR [options] RECIPE [overrides of the recipe]

    Args:
        training: the recipe and overrides, as of easq_rec/train.py
        source: directory or URL of requests/ and answers/, or kafka://HOST:PORT/REQUESTS,ANSWERS
        run_dir: run directory, seen by all nodes and all later starts of the job
        packages: directory into which the run exports itself for serving; by default it does not
        j: [{min_nodes}:]{nodes}x{processes per node}; with GPUs at most as many processes as GPUs of a node
        h: a registered named resource (instead of cpu, gpu and memMB)
        cpu: CPUs per node, requested from the scheduler (local schedulers do not limit them)
        gpu: GPUs per node, requested from the scheduler
        memMB: memory per node in MB, requested from the scheduler
        name: name of the job
        image: container image or image directory (local_cwd ignores it)
        env: environment variables of the job (A=1,B=2)
        max_retries: how often the scheduler may start the job again (local_cwd, lsf and ray never do)
        max_restarts: how often torchrun may restart all processes after a failure
        rdzv_port: port of the rendezvous of several nodes, as of dist.ddp
        threads: CPU threads per process (OMP_NUM_THREADS), as of dist.ddp
        mounts: mounts of the container (type=<bind/volume>,src=/host,dst=/job[,readonly])
    """
    given = {word.partition("=")[0] for word in training}
    elsewhere = {"--follow": "--source", "--run-dir": "--run_dir", "--follow.packages": "--packages"}
    for option, instead in elsewhere.items():
        if option in given:
            raise LaunchError(f"{option} is not allowed after the recipe: give {instead} before it")
    arguments = [*training, "--follow", source, "--run-dir", run_dir]
    arguments += ["--follow.packages", packages] if packages else []
    return torchrun.app(
        arguments,
        script="easq_rec/train.py",
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
        debug=False,
        tee=3,
    )


def sweep(
    *study: str,
    n: int = 2,
    h: Optional[str] = None,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 4096,
    name: str = "sweep",
    image: str = torchx.IMAGE,
    env: Optional[Dict[str, str]] = None,
    port: int = 0,
    max_retries: int = 0,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Runs the trainings of a study on a Ray cluster of N replicas; the first one also runs the study.

    torchx run easq.sweep [options] STUDY --out DIR [options of easq-rec study]

    Args:
        study: the arguments of easq-rec study: the name of the study, --out DIR, and other options
        n: replicas
        h: a registered named resource (instead of cpu, gpu and memMB)
        cpu: CPUs per replica, requested from the scheduler, and offered to the trainings
        gpu: GPUs per replica, likewise; a training takes those that --gpus of the study gives it
        memMB: memory per replica in MB, asked of the scheduler (local schedulers do not limit it)
        name: name of the job
        image: container image or image directory (local_cwd ignores it)
        env: environment variables of the replicas (A=1,B=2)
        port: port of the cluster's head; by default one that is free on this host
        max_retries: how often the scheduler may start the job again (local_cwd, lsf and ray never do)
        mounts: mounts of the container (type=<bind/volume>,src=/host,dst=/job[,readonly])
    """
    usage = "torchx run easq.sweep --n 4 STUDY --out DIR [options of easq-rec study]"
    if not study or study[0].startswith("-"):
        raise LaunchError(f"the study is missing: {usage}")
    given = {word.partition("=")[0] for word in study}
    for option, instead in {"--jobs": "--cpu before the study", "--resume": "none", "--ray": "none"}.items():
        if option in given:
            raise LaunchError(f"{option} is not allowed after the study, the sweep sets it: give {instead}")
    if "--out" not in given:
        raise LaunchError(f"--out is missing, a directory that all replicas see: {usage}")
    launch.at_least(1, n=n)
    launch.at_least(0, port=port)
    resource = launch.host(cpu=cpu, memMB=memMB, gpu=gpu, h=h)
    # bash replaces the variable; on the first node of some schedulers it is not set.
    head = f"$${{{macros.rank0_env}:-localhost}}"
    nodes = f"--replica {macros.replica_id} --nodes {n} --head {head} --port {port or launch.free_port()}"
    offered = f"--cpus {int(resource.cpu)} --gpus {int(resource.gpu)}"
    command = f"python -m torchx_components.ray_node {nodes} {offered} -- {launch.quoted(list(study))}"
    return _replicas(command, n, resource, name, image, env, max_retries, mounts)


def build(
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
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Builds requests/ and answers/ from raw logs by N processes that share the work.

    torchx run easq.build --config logs.toml --out DIR --n 4

    Args:
        config: the TOML file of easq-rec data build
        out: directory to write, seen by all replicas; appears when it is complete
        n: replicas
        h: a registered named resource (instead of cpu and memMB)
        cpu: CPUs per replica, requested from the scheduler, and threads of its SQL engine
        memMB: memory per replica in MB, asked of the scheduler (local schedulers do not limit it)
        engine_memMB: memory limit of the SQL engine
        temp: directory of temporary files; by default next to the output
        name: name of the job
        image: container image or image directory (local_cwd ignores it)
        env: environment variables of the replicas (A=1,B=2)
        max_retries: how often the scheduler may start the job again (local_cwd, lsf and ray never do)
        mounts: mounts of the container (type=<bind/volume>,src=/host,dst=/job[,readonly])
    """
    launch.at_least(1, n=n, engine_memMB=engine_memMB)
    resource = launch.host(cpu=cpu, memMB=memMB, gpu=0, h=h)
    options = ["--config", config, "--out", out, "--threads", str(int(resource.cpu)), "--memory-mb", str(engine_memMB)]
    options += ["--temp", temp] if temp else []
    command = f"easq-rec data build {launch.quoted([*options, '--shared'])}"
    return _replicas(command, n, resource, name, image, env, max_retries, mounts)


def bench(
    *benchmark: str,
    j: str = "1x1",
    h: Optional[str] = None,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 8192,
    name: str = "/",
    image: str = torchx.IMAGE,
    env: Optional[Dict[str, str]] = None,
    rdzv_port: int = 0,
    threads: int = 0,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Runs a module of benchmarks/ on a host of the cluster, from the root of a checkout.

    torchx run easq.bench [options] BENCHMARK [arguments of the benchmark]

    Args:
        benchmark: the name of the module in benchmarks/ and its arguments
        j: {nodes}x{processes per node} under torchrun, for a benchmark that asks for its rank; 1x1: no torchrun
        h: a registered named resource (instead of cpu, gpu and memMB)
        cpu: CPUs per node, requested from the scheduler (local schedulers do not limit them)
        gpu: GPUs per node, requested from the scheduler
        memMB: memory per node in MB, requested from the scheduler
        name: name of the job; by default that of the benchmark
        image: container image or image directory (local_cwd ignores it)
        env: environment variables of the job (A=1,B=2); they override the ones set here
        rdzv_port: port of the rendezvous of several nodes, as of dist.ddp
        threads: CPU threads per process (OMP_NUM_THREADS), as of dist.ddp; most benchmarks set their own
        mounts: mounts of the container (type=<bind/volume>,src=/host,dst=/job[,readonly])
    """
    folder = Path("benchmarks")
    scripts = {file.stem for file in folder.glob("*.py") if '__name__ == "__main__"' in file.read_text()}
    known = sorted(scripts | {file.parent.name for file in folder.glob("*/__main__.py")})
    if not known:
        raise LaunchError("there is no benchmarks/ here: call easq.bench from the root of a checkout")
    if not benchmark or benchmark[0] not in known:
        given = f"unknown benchmark {benchmark[0]}" if benchmark else "the benchmark is missing"
        raise LaunchError(f"{given}: torchx run easq.bench [options] BENCHMARK, one of {', '.join(known)}")
    module, *arguments = benchmark
    job = torchrun.app(
        arguments,
        m=f"benchmarks.{module}",
        name=name,
        image=image,
        h=h,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        j=j,
        env=env,
        # An interrupted measurement is not restarted automatically.
        max_retries=0,
        max_restarts=0,
        rdzv_port=rdzv_port,
        threads=threads,
        mounts=mounts,
        debug=False,
        tee=3,
    )
    if j == "1x1":
        words = launch.quoted(["-m", f"benchmarks.{module}", *arguments])
        job.roles[0].args = ["-c", launch.started(f"python {words}")]
    return job


def _replicas(
    command: str,
    n: int,
    resource: specs.Resource,
    name: str,
    image: str,
    env: Optional[Dict[str, str]],
    max_retries: int,
    mounts: Optional[List[str]],
) -> specs.AppDef:
    """N replicas of a command."""
    launch.at_least(0, max_retries=max_retries)
    role = specs.Role(
        name=name,
        image=image,
        entrypoint="bash",
        args=["-c", launch.started(command)],
        env=dict(env or {}),
        num_replicas=n,
        max_retries=max_retries,
        resource=resource,
        mounts=launch.parsed_mounts(mounts),
    )
    return specs.AppDef(name=name, roles=[role])
