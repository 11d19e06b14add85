"""Converts the requests of TorchX's schedulers to one form, and runs their commands with stand-in programs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from torchx.runner import get_runner

REPOSITORY = Path(__file__).parents[2]
CLIENTS = {"kubernetes": "kubernetes", "aws_batch": "boto3", "local_docker": "docker", "ray": "ray"}
"""The package that a scheduler of TorchX imports."""
CONFIG: dict[str, dict[str, Any]] = {
    "kubernetes": {"queue": "default"},
    "aws_batch": {"queue": "gpus"},
    "lsf": {"host_network": True, "jobdir": "/lustre/jobs"},
}

PRINTER = f"""#!{sys.executable}
import json, os, sys
name = os.path.basename(sys.argv[0])
print(json.dumps([name, *sys.argv[1:]]), flush=True)
if name == "bsub":
    os.execvp("bash", ["bash", "-c", sys.stdin.read()])
"""
"""A program that prints its name and arguments. As bsub it also runs the script on its standard input."""
PROGRAMS = ("easq-rec", "python", "torchrun", "srun", "bsub", "docker")


@dataclass(frozen=True, kw_only=True)
class Replica:
    """A command that a scheduler would start, and its resources. A value that the request does not set is None."""

    command: list[str]
    env: dict[str, str]
    image: str | None = None
    cpu: int | None = None
    gpu: int | None = None
    memory_mb: int | None = None
    mounts: list[tuple[str, str, bool]] | None = None
    """(source, target, read only)"""
    devices: list[str] = field(default_factory=list)


def asked(scheduler: str, component: str, *arguments: str) -> Any:
    """The request that `torchx run` would send to the scheduler."""
    client = CLIENTS.get(scheduler)
    if client is not None:
        pytest.importorskip(client, reason=f"{scheduler} needs the package {client} (extra `cluster`)")
    # ray copies a directory to the cluster, so it gets a small one. The others get none.
    workspace = f"file://{REPOSITORY / 'torchx_components'}" if scheduler == "ray" else None
    with get_runner() as runner:
        dryrun = runner.dryrun_component(
            component, list(arguments), scheduler, cfg=dict(CONFIG.get(scheduler, {})), workspace=workspace
        )
    assert str(dryrun), "--dryrun prints nothing"
    if scheduler == "ray":
        shutil.rmtree(dryrun.request.working_dir)
    return dryrun.request


def replicas(scheduler: str, request: Any) -> list[Replica]:
    """The replicas of a request, in order. Requests of lsf are not supported: their replicas are only in a script."""
    match scheduler:
        case "local_cwd":
            return [Replica(command=one.args, env=one.env) for role in request.role_params.values() for one in role]
        case "slurm":
            return [_slurm(one) for one in request.replicas.values()]
        case "kubernetes":
            return [_kubernetes(task["template"].spec) for task in request.resource["spec"]["tasks"]]
        case "aws_batch":
            (nodes,) = request.job_def["nodeProperties"]["nodeRangeProperties"]
            first, last = map(int, nodes["targetNodes"].split(":"))
            return [_aws_batch(nodes["container"], number) for number in range(first, last + 1)]
        case "local_docker":
            return [_docker(one) for one in request.containers]
        case "ray":
            return [
                Replica(command=one.command, env=one.env, cpu=one.num_cpus, gpu=one.num_gpus) for one in request.actors
            ]
    raise AssertionError(scheduler)


def _slurm(one: Any) -> Replica:
    options = one.sbatch_opts
    return Replica(
        command=[one.entrypoint, *one.args],
        env=one.env,
        cpu=int(options["cpus-per-task"]),
        gpu=int(options.get("gpus-per-task", 0)),
        memory_mb=int(options["mem"]),
    )


def _kubernetes(pod: Any) -> Replica:
    (one,) = pod.containers
    limits = one.resources.limits
    sources = {volume.name: volume.host_path.path for volume in pod.volumes if volume.host_path}
    claims = [volume for volume in pod.volumes if volume.persistent_volume_claim]
    sources |= {volume.name: volume.persistent_volume_claim.claim_name for volume in claims}
    shown = [mount for mount in one.volume_mounts if mount.name in sources]
    return Replica(
        command=one.command,
        env={variable.name: variable.value for variable in one.env},
        image=one.image,
        cpu=int(limits["cpu"].removesuffix("m")) // 1000,
        gpu=int(limits.get("nvidia.com/gpu", 0)),
        memory_mb=int(limits["memory"].removesuffix("M")),
        mounts=[(sources[mount.name], mount.mount_path, mount.read_only) for mount in shown],
        devices=[name for name in limits if name.startswith("vpc.amazonaws.com/") for _ in range(int(limits[name]))],
    )


def _aws_batch(one: Any, number: int) -> Replica:
    """All nodes share one description. Each node reads its number from its environment."""
    needs = {need["type"]: int(need["value"]) for need in one["resourceRequirements"]}
    sources = {
        volume["name"]: volume["host"]["sourcePath"]
        if "host" in volume
        else volume["efsVolumeConfiguration"]["fileSystemId"]
        for volume in one["volumes"]
    }
    env = {variable["name"]: variable["value"] for variable in one["environment"]}
    return Replica(
        command=one["command"],
        env={**env, "AWS_BATCH_JOB_NODE_INDEX": str(number)},
        image=one["image"],
        cpu=needs["VCPU"],
        gpu=needs.get("GPU", 0),
        memory_mb=needs["MEMORY"],
        mounts=[
            (sources[mount["sourceVolume"]], mount["containerPath"], mount["readOnly"]) for mount in one["mountPoints"]
        ],
        devices=[device["hostPath"] for device in one["linuxParameters"]["devices"]],
    )


def _docker(one: Any) -> Replica:
    how = one.kwargs
    return Replica(
        command=one.command,
        env=how["environment"],
        image=one.image,
        cpu=how["nano_cpus"] // 10**9,
        gpu=sum(device["Count"] for device in how.get("device_requests", [])),
        memory_mb=int(how["mem_limit"].removesuffix("m")),
        mounts=[(mount["Source"], mount["Target"], mount["ReadOnly"]) for mount in how["mounts"]],
        devices=[device.split(":")[0] for device in how["devices"]],
    )


def stand_ins(folder: Path) -> Path:
    """Fills a folder with programs that print their name and arguments."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS:
        (folder / name).write_text(PRINTER)
        (folder / name).chmod(0o755)
    return folder


def calls(folder: Path, command: list[str], **env: str) -> list[list[str]]:
    """Runs a command with stand-ins for the programs of a job. Returns the words of their calls, in order."""
    env = {**env, "PATH": os.pathsep.join([str(stand_ins(folder / "programs")), os.defpath])}
    return ran(command, env)


def ran(command: list[str], env: dict[str, str]) -> list[list[str]]:
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]
