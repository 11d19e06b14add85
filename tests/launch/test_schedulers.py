"""Dry runs of the components, up to the request that a scheduler would get.

No scheduler runs here. bash runs the commands in a request. Stand-ins for srun, bsub, docker, torchrun and easq-rec
print their arguments, which shows whether these survive all layers of quoting.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.launch.requests import REPOSITORY, asked, calls, ran, replicas, stand_ins, value
from torchx_components import ray_node

NAMED = ("local_cwd", "slurm", "kubernetes", "aws_batch", "local_docker", "ray")
"""All schedulers except lsf, whose request is a script."""
MOUNTS = "type=bind,src=/lustre,dst=/shared,type=volume,src=claim,dst=/data,readonly"
TRAINING = (
    *("-j", "2x8", "-h", "aws_p5.48xlarge", "--image", "easq:1", "--mounts", MOUNTS, "--rdzv_port", "29511"),
    *("--max_restarts", "3", "easq_rec/train.py", "easq", "--run-dir", "/shared/run one"),
)
BUILD = ("--config", "logs.toml", "--out", "/shared/a $b", "--n", "2", "--cpu", "4", "--memMB", "9000")
SWEEP = ("--n", "3", "-h", "cpu_16", "--port", "6400", "rank", "--out", "/shared/rank")

FIRST_NODE = {
    "local_cwd": {},
    "slurm": {"SLURM_JOB_NODELIST_HET_GROUP_0": "node7"},
    "kubernetes": {"VC_TRAIN_0_HOSTS": "train-0.job"},
    "aws_batch": {"AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS": "10.0.0.7"},
    "local_docker": {},
    "ray": {"TORCHX_RANK0_HOST": "10.0.0.7"},
}
"""The variables in which a scheduler gives a job the address of its first node."""


@pytest.fixture(autouse=True)
def activated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes to the checkout and activates the environment.

    In an activated environment, commands do not begin with the directory of its programs.
    """
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def meeting(scheduler: str, request: Any) -> list[str]:
    """The host at which each node of a training job finds the first node."""
    match scheduler:
        case "local_cwd":
            return ["localhost", "localhost"]
        case "kubernetes":
            return ["localhost", "train-0.job"]
        case "local_docker":
            return [request.containers[0].kwargs["name"]] * 2
    return [*FIRST_NODE[scheduler].values()] * 2


# ---------------------------------------------------------------------------------------------------------------------
# dist.ddp


@pytest.mark.parametrize("scheduler", NAMED)
def test_nodes_of_a_training_job(scheduler: str, tmp_path: Path) -> None:
    request = asked(scheduler, "dist.ddp", *TRAINING)
    nodes = replicas(scheduler, request)
    assert len(nodes) == 2
    endpoints = []
    for node in nodes:
        assert node.env["OMP_NUM_THREADS"] == "24" and node.env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
        assert node.gpu in (8, None) and node.cpu in (192, None)
        ((program, *words),) = calls(tmp_path, node.command, **node.env, **FIRST_NODE[scheduler])
        assert program == "torchrun"
        assert words[-4:] == ["easq_rec/train.py", "easq", "--run-dir", "/shared/run one"]
        assert (value(words, "--nnodes"), value(words, "--nproc_per_node")) == ("2", "8")
        assert value(words, "--max_restarts") == "3"
        endpoints.append(value(words, "--rdzv_endpoint"))
    assert endpoints == [f"{host}:29511" for host in meeting(scheduler, request)]
    assert len({node.env["EASQ_RUN_NAME"] for node in nodes}) == 1, "all nodes write into one run directory"


@pytest.mark.parametrize("scheduler", ["kubernetes", "aws_batch", "local_docker"])
def test_containers_of_a_training_job(scheduler: str) -> None:
    for node in replicas(scheduler, asked(scheduler, "dist.ddp", *TRAINING)):
        assert node.image == "easq:1"
        assert node.mounts == [("/lustre", "/shared", False), ("claim", "/data", True)]
        assert (node.cpu, node.gpu, node.memory_mb) == (192, 8, 2048 * 983)
        assert len(node.devices) == 32, "the devices are the network interfaces of the host"


@pytest.mark.parametrize("scheduler", ["local_cwd", "slurm", "kubernetes", "aws_batch", "local_docker", "ray"])
def test_gpus_of_one_node(scheduler: str) -> None:
    asked_for = ("-j", "1x4", "--cpu", "16", "--gpu", "4", "--memMB", "64000", "easq_rec/train.py")
    (node,) = replicas(scheduler, asked(scheduler, "dist.ddp", *asked_for))
    assert (node.gpu, node.cpu) in ((4, 16), (None, None)) and node.memory_mb in (64_000, None)


def test_script_for_slurm(tmp_path: Path) -> None:
    request = asked("slurm", "dist.ddp", "--max_retries", "2", *TRAINING)
    script = request.materialize()
    needs = "--requeue --ntasks-per-node=1 --cpus-per-task=192 --mem=2013184 --gpus-per-task=8"
    assert [line for line in script.splitlines() if line.startswith("#SBATCH")] == [
        f"#SBATCH --job-name=train-0 {needs}",
        "#SBATCH hetjob",
        f"#SBATCH --job-name=train-1 {needs}",
    ]
    assert "export TORCHX_MAX_RETRIES=2\n" in script
    ((program, *words),) = calls(tmp_path, ["bash", "-c", script], SLURM_JOB_ID="4711")
    assert program == "srun"
    cut = words.index(":")
    for number, step in enumerate((words[:cut], words[cut + 1 :])):
        assert f"--output=slurm-4711-train-{number}.out" in step
        (exported,) = (word for word in step if word.startswith("--export="))
        assert {"EASQ_RUN_NAME=4711", "OMP_NUM_THREADS=24"} <= set(exported.removeprefix("--export=").split(","))
        ((torchrun, *arguments),) = calls(tmp_path, step[-3:], **FIRST_NODE["slurm"])
        assert torchrun == "torchrun" and value(arguments, "--rdzv_id") == "4711"
        assert value(arguments, "--rdzv_endpoint") == "node7:29511"
        assert arguments[-1] == "/shared/run one"


def test_script_for_lsf(tmp_path: Path) -> None:
    """bsub submits `docker run` in a here-document for a shell on the first node or on another one."""
    request = asked("lsf", "dist.ddp", *TRAINING)
    folder = tmp_path / "jobs"
    folder.mkdir()
    script = request.materialize("node7").replace("/lustre/jobs", str(folder))
    submitted = calls(tmp_path, ["bash", "-c", script])
    assert [call[0] for call in submitted] == ["bsub", "bsub"]
    (first, second) = submitted
    assert value(first, "-m") == "node7" and value(first, "-n") == "192"
    assert value(first, "-gpu") == "num=8:mode=shared:j_exclusive=yes"
    assert value(second, "-w") == f"started({value(first, '-J')})"
    for call in submitted:
        (ran,) = (folder / f"{value(call, '-J')}.out").read_text().splitlines()
        docker = json.loads(ran)
        assert docker[:2] == ["docker", "run"] and {"--net=host", "--cpus=192", "easq:1"} <= set(docker)
        assert value(docker, "-v") == "/lustre:/shared:rw"
        assert value(docker, "--mount") == "type=volume,src=claim,dst=/data,ro"
        assert value(docker, "--gpus") == "all" and value(docker, "--entrypoint") == "bash"
        assert "TORCHX_RANK0_HOST=node7" in docker and "OMP_NUM_THREADS=24" in docker
        ((torchrun, *arguments),) = calls(tmp_path, ["bash", *docker[-2:]], TORCHX_RANK0_HOST="node7")
        assert torchrun == "torchrun" and value(arguments, "--rdzv_endpoint") == "node7:29511"
        assert arguments[-1] == "/shared/run one"


# ---------------------------------------------------------------------------------------------------------------------
# Retries: the effect of --max_retries


def retries(scheduler: str, *options: str) -> Any:
    return asked(scheduler, "dist.ddp", *options, "easq_rec/train.py")


def test_retries_of_kubernetes() -> None:
    pytest.importorskip("kubernetes", reason="kubernetes needs the package kubernetes (extra `cluster`)")
    with pytest.warns(UserWarning, match="Volcano"):
        spec = retries("kubernetes", "--max_retries", "2").resource["spec"]
    assert spec["maxRetry"] == 2
    assert {policy["event"]: policy["action"] for policy in spec["tasks"][0]["policies"]} == {
        "PodEvicted": "RestartJob",
        "PodFailed": "RestartJob",
    }


def test_retries_of_docker() -> None:
    (container,) = retries("local_docker", "--max_retries", "2").containers
    assert container.kwargs["restart_policy"] == {"Name": "on-failure", "MaximumRetryCount": 2}


@pytest.mark.parametrize(("option", "attempts"), [(0, 1), (1, 1), (2, 2), (3, 3)])
def test_attempts_of_aws_batch(option: int, attempts: int) -> None:
    """TorchX sets the number of attempts to the number of retries: two retries are one attempt after the first."""
    request = retries("aws_batch", "--max_retries", str(option))
    assert request.job_def["retryStrategy"]["attempts"] == attempts


def test_lsf_ignores_retries() -> None:
    assert retries("lsf", "--max_retries", "2").app.roles[0].max_retries == 2
    scripts = [retries("lsf", *options) for options in (("--max_retries", "2"), ())]
    with_retries, without = (one.materialize().replace(one.app_id, "ID") for one in scripts)
    assert with_retries == without


# ---------------------------------------------------------------------------------------------------------------------
# easq.build, easq.sweep, easq.bench


NO_INSTANCE_TYPE = pytest.mark.filterwarnings("ignore:Cannot determine resource instance type:UserWarning")
"""TorchX warns that several nodes on AWS Batch may be of different types. Independent replicas may be."""


@NO_INSTANCE_TYPE
@pytest.mark.parametrize("scheduler", NAMED)
def test_replicas_of_a_build(scheduler: str, tmp_path: Path) -> None:
    found = replicas(scheduler, asked(scheduler, "easq.build", *BUILD))
    seen = [calls(tmp_path, one.command, **one.env) for one in found]
    options = ["--config", "logs.toml", "--out", "/shared/a $b", "--threads", "4", "--memory-mb", "1024", "--shared"]
    assert seen == [[["easq-rec", "data", "build", *options]]] * 2
    assert {(one.cpu, one.gpu) for one in found} <= {(4, 0), (None, None)}


@NO_INSTANCE_TYPE
@pytest.mark.parametrize("scheduler", NAMED)
def test_replicas_of_a_sweep(scheduler: str, tmp_path: Path) -> None:
    request = asked(scheduler, "easq.sweep", *SWEEP)
    found = replicas(scheduler, request)
    first, *others = heads(scheduler, request)
    for number, one in enumerate(found):
        ((program, *words),) = calls(tmp_path, one.command, **{**FIRST_NODE_OF_A_SWEEP[scheduler], **one.env})
        assert (program, words[:2]) == ("python", ["-m", "torchx_components.ray_node"])
        node = ray_node.parsed(words[2:])
        assert (node.replica, node.nodes, node.port, node.cpus, node.gpus) == (number, 3, 6400, 16, 0)
        assert node.head == (first if number == 0 else others[number - 1])
        assert node.study == ["rank", "--out", "/shared/rank"] and node.out == Path("/shared/rank")
    assert {one.memory_mb for one in found} <= {64 * 983, None}


FIRST_NODE_OF_A_SWEEP = {**FIRST_NODE, "kubernetes": {"VC_SWEEP_0_HOSTS": "sweep-0.job"}}


def heads(scheduler: str, request: Any) -> list[str]:
    """The host at which each node of a sweep looks for the head."""
    match scheduler:
        case "local_cwd":
            return ["localhost"] * 3
        case "kubernetes":
            return ["localhost", *["sweep-0.job"] * 2]
        case "local_docker":
            return [request.containers[0].kwargs["name"]] * 3
    return [*FIRST_NODE[scheduler].values()] * 3


@pytest.mark.parametrize(("component", "arguments"), [("easq.build", BUILD), ("easq.sweep", SWEEP)])
def test_replicas_for_lsf(component: str, arguments: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    request = asked("lsf", component, *arguments)
    submitted = calls(tmp_path, ["bash", "-c", request.materialize().replace("/lustre/jobs", str(folder))])
    for number, call in enumerate(submitted, 1):
        (ran,) = (folder / f"{value(call, '-J')}.out").read_text().splitlines()
        ((program, *words),) = calls(tmp_path, ["bash", *json.loads(ran)[-2:]])
        if component == "easq.sweep":
            assert program == "python" and ray_node.parsed(words[2:]).replica == number - 1
        else:
            assert program == "easq-rec" and words[-1] == "--shared"
            assert value(words, "--out") == "/shared/a $b"
    assert len(submitted) == len(replicas("slurm", asked("slurm", component, *arguments)))


@NO_INSTANCE_TYPE
@pytest.mark.parametrize("scheduler", NAMED)
def test_programs_are_found_in_an_environment_that_is_not_activated(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = stand_ins(tmp_path / "an environment" / "bin")
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    for component, arguments in (("easq.build", BUILD), ("dist.ddp", TRAINING)):
        for one in replicas(scheduler, asked(scheduler, component, *arguments)):
            ((program, *_),) = ran(one.command, {**one.env, **FIRST_NODE[scheduler], "PATH": os.defpath})
            assert program == {"easq.build": "easq-rec", "dist.ddp": "torchrun"}[component]


@pytest.mark.parametrize("scheduler", ["slurm", "kubernetes", "aws_batch", "local_docker"])
def test_host_of_a_benchmark(scheduler: str) -> None:
    options = ("-j", "1x1", "--cpu", "8", "--gpu", "1", "--threads", "4")
    (one,) = replicas(scheduler, asked(scheduler, "easq.bench", *options, "train_step", "--rounds", "3"))
    assert (one.cpu, one.gpu, one.memory_mb, one.env["OMP_NUM_THREADS"]) == (8, 1, 8192, "4")
    assert one.command[-1] == "exec python -m benchmarks.train_step --rounds 3"
