"""`dist.ddp` through TorchX: its arguments, the job that it describes, and jobs that run."""

from __future__ import annotations

import importlib.util
import inspect
import os
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from torchx.specs import AppDef, Role
from torchx.specs.builders import materialize_appdef
from torchx.specs.file_linter import validate
from torchx.specs.finder import get_component, get_components

from torchx_components import dist, launch
from torchx_components.launch import LaunchError

REPOSITORY = Path(__file__).parents[2]
TORCHX = Path(sys.executable).with_name("torchx")
SCRIPT = "easq_rec/train.py"


def app(*arguments: str) -> AppDef:
    """The job that `torchx run dist.ddp ARGUMENTS` describes."""
    return materialize_appdef(dist.ddp, list(arguments))


def role(*arguments: str) -> Role:
    (role,) = app(*arguments).roles
    return role


def torchrun(role: Role) -> list[str]:
    """The arguments of the job's torchrun, split as bash splits them."""
    assert role.entrypoint == "bash"
    assert role.args[0] == "-c"
    words = shlex.split(role.args[1])
    return words[words.index("exec") + 1 :]


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


# ---------------------------------------------------------------------------------------------------------------------
# The job


def test_j_sets_nodes_and_processes() -> None:
    job = role("-j", "2x8", SCRIPT)
    assert job.num_replicas == 2
    assert option(torchrun(job), "--nnodes") == "2"
    assert option(torchrun(job), "--nproc_per_node") == "8"


def test_j_may_be_a_range_of_nodes() -> None:
    job = role("-j", "1:2x4", SCRIPT)
    assert (job.min_replicas, job.num_replicas) == (1, 2)
    assert option(torchrun(job), "--nnodes") == "1:2"


def test_script_and_its_arguments_come_last_and_unchanged() -> None:
    arguments = ["quickstart", "--trainer.max-steps", "3", "--run-dir", "a b/$c", "-j", "4x4"]
    words = torchrun(role("-j", "1x2", SCRIPT, *arguments))
    assert words[words.index(SCRIPT) :] == [SCRIPT, *arguments]
    assert option(words, "--nproc_per_node") == "2"


def test_job_is_named_after_the_script() -> None:
    assert app(SCRIPT).name == "train"
    assert app("--name", "trial/seven", SCRIPT).name == "seven"


def test_environment() -> None:
    env = role("-j", "1x2", SCRIPT).env
    assert env["EASQ_RUN_NAME"] == "${app_id}"
    assert env["PYTHONSAFEPATH"] == "1"
    assert env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"


def test_environment_of_the_user_wins() -> None:
    env = role("--env", "OMP_NUM_THREADS=3,MINE=yes", SCRIPT).env
    assert env["OMP_NUM_THREADS"] == "3"
    assert env["MINE"] == "yes"


@pytest.mark.parametrize(
    ("arguments", "threads"),
    [
        (["-j", "1x1"], 16),
        (["-j", "1x4"], 4),
        (["-j", "2x4"], 2),  # both nodes on this machine
        (["-j", "2x16"], 1),
        (["-j", "2x4", "--threads", "7"], 7),
        (["-j", "2x4", "-h", "gpu.xlarge"], 16),  # 64 CPUs on every node
    ],
)
def test_threads(monkeypatch: pytest.MonkeyPatch, arguments: list[str], threads: int) -> None:
    monkeypatch.setattr(launch, "available_cores", lambda: 16)
    assert role(*arguments, SCRIPT).env["OMP_NUM_THREADS"] == str(threads)


def test_restarts_and_retries() -> None:
    job = role("--max_restarts", "3", "--max_retries", "2", SCRIPT)
    assert option(torchrun(job), "--max_restarts") == "3"
    assert job.max_retries == 2


def test_one_node_uses_a_free_port() -> None:
    words = torchrun(role("-j", "1x2", SCRIPT))
    assert option(words, "--rdzv_endpoint") == "localhost:0"
    assert option(words, "--local_addr") == "localhost"


def test_nodes_share_one_port() -> None:
    job = role("-j", "2x2", SCRIPT)
    port = job.port_map["c10d"]
    assert port > 0
    # $$ is TorchX's escape of the $ that bash will see.
    assert option(torchrun(job), "--rdzv_endpoint") == f"$${{${{rank0_env}}:=localhost}}:{port}"
    assert "--local_addr" not in torchrun(job)


def test_port_can_be_named() -> None:
    assert role("-j", "2x2", "--rdzv_port", "29511", SCRIPT).port_map["c10d"] == 29511


def test_torchrun_of_this_interpreter_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = tmp_path / "an environment" / "bin"
    here.mkdir(parents=True)
    (here / "torchrun").touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(here / "python"))

    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    command = role(SCRIPT).args[1]
    assert command.startswith(f"export PATH='{here}':$$PATH; exec torchrun ")

    monkeypatch.setenv("PATH", f"{here}:/usr/bin")  # as in an activated environment
    assert role(SCRIPT).args[1].startswith("exec torchrun ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the script is missing"),
        (["-j", "2y8", SCRIPT], "-j 2y8 is not allowed"),
        (["-j", "0x8", SCRIPT], "-j 0x8 is not allowed"),
        (["-j", "4:2x8", SCRIPT], "-j 4:2x8 is not allowed"),
        (["-h", "nothing_like_it", SCRIPT], "-h nothing_like_it is not allowed"),
        (["--max_restarts", "-1", SCRIPT], "--max_restarts -1 is not allowed"),
        (["--max_retries", "-1", SCRIPT], "--max_retries -1 is not allowed"),
        (["--cpu", "0", SCRIPT], "--cpu 0 is not allowed: 1 or more"),
        (["--gpu", "-1", SCRIPT], "--gpu -1 is not allowed: 0 or more"),
        (["--mounts", "src=/data,dst=/data", SCRIPT], "type must be specified first; as in type=bind"),
        (["--mounts", "type=bind,from=/data", SCRIPT], "unknown mount option from"),
        (["--mounts", "type=bind,src=/data", SCRIPT], "--mounts type=bind,src=/data is not allowed: dst"),
        (["--mounts", "type=nfs,src=/data,dst=/data", SCRIPT], "invalid mount type 'nfs'"),
    ],
)
def test_user_errors(arguments: list[str], message: str) -> None:
    with pytest.raises(LaunchError, match=message) as raised:
        app(*arguments)
    assert isinstance(raised.value, ValueError)
    assert "\n" not in str(raised.value)


# ---------------------------------------------------------------------------------------------------------------------
# What TorchX requires of components


def test_component_passes_the_linter_of_torchx() -> None:
    assert validate(str(dist.__file__), "ddp") == []


def test_helpers_do_not_break_the_listing() -> None:
    # TorchX inspects every function of the module. An annotation like `int | None` in any of them raises an
    # AttributeError that hides all components.
    for name, _ in inspect.getmembers(dist, inspect.isfunction):
        validate(str(dist.__file__), name)


def test_every_option_is_described() -> None:
    described = inspect.getdoc(dist.ddp)
    assert described is not None
    for parameter in inspect.signature(dist.ddp).parameters:
        assert f"\n    {parameter}: " in described, parameter


def test_entry_points_are_installed() -> None:
    modules = {entry.name: entry.value for entry in metadata.entry_points(group="torchx.components")}
    assert modules["dist"] == "torchx_components.dist"
    assert modules["easq"] == "torchx_components.easq"


def test_component_is_found_in_addition_to_the_builtins() -> None:
    assert inspect.getmodule(get_component("dist.ddp").fn) is dist
    found = set(get_components())
    ours = {name for name in found if name.startswith("easq.")}
    assert ours == {"easq.bench", "easq.build", "easq.follow", "easq.sweep"}
    # All builtins are found except those of torchx.components.dist, which the component of this project replaces.
    for module in ("metrics", "serve", "utils"):
        file = importlib.util.find_spec(f"torchx.components.{module}")
        assert file is not None
        assert any(name.startswith(f"{module}.") for name in found), module
    assert not [name for name in found if name.startswith("dist.") and name != "dist.ddp"]


# ---------------------------------------------------------------------------------------------------------------------
# Jobs that run

PROGRAM = """
import os, signal, sys
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
rank, restart = dist.get_rank(), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
if sys.argv[1:] == ["fail"] and rank == 1:
    raise RuntimeError("rank one is unhappy")
if sys.argv[1:] == ["die-once"] and rank == 1 and restart == 0:
    os.kill(os.getpid(), signal.SIGKILL)
total = torch.tensor([rank + 1.0])
dist.all_reduce(total)
print(f"rank {rank} of {dist.get_world_size()}: {total.item()}, restart {restart}, run {os.environ['EASQ_RUN_NAME']}")
print(f"package first: {'package' in (sys.path[0] or '.').split('/')}, interpreter {sys.executable}", flush=True)
dist.destroy_process_group()
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A directory with the repository's .torchxconfig and a small distributed script."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "script.py").write_text(PROGRAM)
    (tmp_path / ".torchxconfig").write_text((REPOSITORY / ".torchxconfig").read_text())
    return tmp_path


def run_job(workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a user types it, with an environment that is not activated."""
    return subprocess.run(
        [str(TORCHX), "run", "dist.ddp", *arguments],
        cwd=workspace,
        env={**os.environ, "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.mark.distributed
@pytest.mark.parametrize(("shape", "total"), [("1x2", 3.0), ("2x1", 3.0)])
def test_a_job_runs(workspace: Path, shape: str, total: float) -> None:
    run = run_job(workspace, "-j", shape, "package/script.py")
    output = run.stdout + run.stderr
    assert run.returncode == 0, output
    for rank in range(2):
        assert f"rank {rank} of 2: {total}, restart 0, run script-" in output
    assert "package first: False" in output
    assert f"interpreter {Path(sys.executable).parent}" in output


@pytest.mark.distributed
def test_failing_rank_fails_the_job_and_shows_its_error(workspace: Path) -> None:
    run = run_job(workspace, "-j", "1x2", "package/script.py", "fail")
    assert run.returncode != 0
    assert "RuntimeError: rank one is unhappy" in run.stdout + run.stderr


@pytest.mark.distributed
def test_killed_worker_is_restarted(workspace: Path) -> None:
    run = run_job(workspace, "-j", "1x2", "--max_restarts", "1", "package/script.py", "die-once")
    output = run.stdout + run.stderr
    assert run.returncode == 0, output
    for rank in range(2):
        assert f"rank {rank} of 2: 3.0, restart 1" in output


@pytest.mark.integration
def test_missing_script_is_one_message_without_traceback(workspace: Path) -> None:
    run = run_job(workspace, "-j", "1x2")
    assert run.returncode != 0
    assert "the script is missing" in run.stderr
    assert "Traceback" not in run.stderr
