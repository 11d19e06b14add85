"""`easq.follow`, `easq.sweep`, `easq.build` and `easq.bench` through TorchX. A sweep and a benchmark run."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torchx.specs import AppDef, Role
from torchx.specs.builders import materialize_appdef
from torchx.specs.file_linter import validate

from easq_rec.tools.studies.grid import ANCHORS
from tests.conftest import Warm
from tests.ray_processes import servers
from torchx_components import easq, ray_node
from torchx_components.launch import LaunchError

REPOSITORY = Path(__file__).parents[2]
TORCHX = Path(sys.executable).with_name("torchx")
COMPONENTS = (easq.follow, easq.sweep, easq.build, easq.bench)
FOLLOW = ("--source", "/live", "--run_dir", "/run")
SWEEP = ("rank", "--out", "/shared/rank")
BUILD = ("--config", "logs.toml", "--out", "/shared/data")


@pytest.fixture(autouse=True)
def checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes to the root of the checkout: easq.bench looks for benchmarks/ in the working directory."""
    monkeypatch.chdir(REPOSITORY)


def role(component: Callable[..., AppDef], *arguments: str) -> Role:
    (role,) = materialize_appdef(component, list(arguments)).roles
    return role


def command(role: Role) -> str:
    """The command that bash runs, without the search path before it."""
    assert (role.entrypoint, role.args[0]) == ("bash", "-c")
    return role.args[1][role.args[1].index("exec ") + len("exec ") :]


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.__name__)
def test_component_passes_the_linter_of_torchx_and_is_documented(component: Callable[..., AppDef]) -> None:
    assert validate(str(easq.__file__), component.__name__) == []
    described = inspect.getdoc(component)
    assert described is not None
    for parameter in inspect.signature(component).parameters:
        assert f"\n    {parameter}: " in described, parameter


def test_helpers_do_not_break_the_listing() -> None:
    for name, _ in inspect.getmembers(easq, inspect.isfunction):
        validate(str(easq.__file__), name)


# ---------------------------------------------------------------------------------------------------------------------
# The jobs


def test_a_job_that_follows_gets_its_source_and_is_started_again() -> None:
    job = role(easq.follow, *FOLLOW, "--packages", "/packages", "-j", "1x2", "easq", "--optim.schedule", "constant")
    words = shlex.split(job.args[-1])
    assert job.entrypoint == "bash" and job.max_retries == 100
    assert words[words.index("--max_restarts") + 1] == "100" and words[words.index("--nproc_per_node") + 1] == "2"
    script = words[words.index("easq_rec/train.py") + 1 :]
    assert script[:3] == ["easq", "--optim.schedule", "constant"]
    assert script[3:] == ["--follow", "/live", "--run-dir", "/run", "--follow.packages", "/packages"]
    with pytest.raises(LaunchError, match="give --run_dir before it"):
        role(easq.follow, *FOLLOW, "easq", "--run-dir=/other")


def test_replicas_of_a_sweep_get_the_arguments_of_the_study_unchanged() -> None:
    asked = ("--n", "4", "--cpu", "8", "--gpu", "2", "--port", "6400")
    job = role(easq.sweep, *asked, "rank", "--out", "a $b", "--seeds", "3", "--gpus", "0.5")
    assert (job.num_replicas, job.resource.cpu, job.resource.gpu) == (4, 8, 2)
    assert command(job) == (
        "python -m torchx_components.ray_node --replica ${replica_id} --nodes 4 --head $${${rank0_env}:-localhost} "
        "--port 6400 --cpus 8 --gpus 2 -- rank --out 'a $$b' --seeds 3 --gpus 0.5"
    )


def test_every_sweep_has_a_free_port_of_its_own() -> None:
    ports = {re.search(r"--port (\d+) ", command(role(easq.sweep, *SWEEP)))[1] for _ in range(5)}  # type: ignore[index]
    assert len(ports) > 1 and all(1024 <= int(port) < 65536 for port in ports)


def test_replicas_of_a_build_share_the_work() -> None:
    job = role(easq.build, "--config", "a $b.toml", "--out", "/logs", "--n", "4", "--cpu", "3", "--engine_memMB", "512")
    assert (job.num_replicas, job.resource.cpu) == (4, 3)
    assert "--config 'a $$b.toml' --out /logs --threads 3 --memory-mb 512" in command(job)
    assert command(job).endswith(" --shared")


def test_a_named_host_sets_the_cpus_gpus_and_threads() -> None:
    assert " --cpus 16 --gpus 0 -- " in command(role(easq.sweep, "-h", "cpu_16", *SWEEP))
    assert " --gpus 8 -- " in command(role(easq.sweep, "-h", "h100_8", *SWEEP))
    assert "--threads 16 " in command(role(easq.build, "-h", "cpu_16", *BUILD))


def test_retries_mounts_and_environment() -> None:
    asked = ("--max_retries", "2", "--env", "A=1", "--mounts", "type=volume,src=claim,dst=/shared")
    for component, arguments in ((easq.sweep, SWEEP), (easq.build, BUILD)):
        job = role(component, *asked, *arguments)
        assert (job.max_retries, job.env) == (2, {"A": "1"})
        assert [(mount.src, mount.dst_path) for mount in job.mounts] == [("claim", "/shared")]


def test_a_benchmark_runs_as_a_module_in_one_process() -> None:
    job = role(easq.bench, "--cpu", "4", "--threads", "1", "train_step", "--rounds", "3", "--out", "a b.json")
    assert command(job) == "python -m benchmarks.train_step --rounds 3 --out 'a b.json'"
    assert (job.num_replicas, job.resource.cpu, job.env["OMP_NUM_THREADS"]) == (1, 4, "1")
    # With PYTHONSAFEPATH the module would not be found in the working directory.
    assert "PYTHONSAFEPATH" not in job.env


def test_a_benchmark_may_be_a_package() -> None:
    job = role(easq.bench, "sharding", "what-if", "--preset", "5TB", "--out", "plans")
    assert command(job) == "python -m benchmarks.sharding what-if --preset 5TB --out plans"


def test_a_benchmark_of_several_ranks_runs_under_torchrun() -> None:
    job = role(easq.bench, "-j", "2x8", "-h", "h100_8", "train_step", "--rounds", "3")
    words = shlex.split(command(job))
    assert words[0] == "torchrun" and words[-4:] == ["-m", "benchmarks.train_step", "--rounds", "3"]
    assert words[words.index("--nproc_per_node") + 1] == "8"
    assert (job.num_replicas, job.resource.gpu, job.env["OMP_NUM_THREADS"]) == (2, 8, "14")


def test_program_of_this_interpreter_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = tmp_path / "an environment" / "bin"
    here.mkdir(parents=True)
    (here / "python").touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(here / "python"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert role(easq.sweep, *SWEEP).args[1].startswith(f"export PATH='{here}':$$PATH; exec python -m ")
    monkeypatch.setenv("PATH", f"{here}:/usr/bin")
    assert role(easq.sweep, *SWEEP).args[1].startswith("exec python -m ")


# ---------------------------------------------------------------------------------------------------------------------
# User errors


@pytest.mark.parametrize(
    ("component", "arguments", "message"),
    [
        (easq.sweep, (), "the study is missing"),
        (easq.sweep, ("--n", "2", "--", "--out", "x"), "the study is missing"),
        (easq.sweep, ("rank",), "--out is missing"),
        (easq.sweep, (*SWEEP, "--jobs", "4"), "--jobs is not allowed after the study"),
        (easq.sweep, (*SWEEP, "--jobs=4"), "--jobs is not allowed after the study"),
        (easq.sweep, (*SWEEP, "--resume"), "--resume is not allowed after the study"),
        (easq.sweep, (*SWEEP, "--ray", "auto"), "--ray is not allowed after the study"),
        (easq.sweep, ("--port", "-1", *SWEEP), "--port -1 is not allowed: 0 or more"),
        (easq.sweep, ("--n", "0", *SWEEP), "--n 0 is not allowed: 1 or more"),
        (easq.sweep, ("--cpu", "0", *SWEEP), "--cpu 0 is not allowed: 1 or more"),
        (easq.sweep, ("-h", "nothing", *SWEEP), "-h nothing is not allowed"),
        (easq.build, ("--n", "0", *BUILD), "--n 0 is not allowed: 1 or more"),
        (easq.build, ("--engine_memMB", "0", *BUILD), "--engine_memMB 0 is not allowed"),
        (easq.build, ("-h", "nothing", *BUILD), "-h nothing is not allowed"),
        (easq.build, ("--mounts", "type=nfs", *BUILD), "--mounts type=nfs is not allowed"),
        (easq.build, ("--max_retries", "-1", *BUILD), "--max_retries -1 is not allowed"),
        (easq.bench, (), "the benchmark is missing"),
        (easq.bench, ("report",), "unknown benchmark report: .* one of adapters, before_after, build"),
        (easq.bench, ("-j", "0x1", "train_step"), "-j 0x1 is not allowed"),
    ],
)
def test_user_errors(component: Callable[..., AppDef], arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(LaunchError, match=message) as raised:
        materialize_appdef(component, list(arguments))
    assert "\n" not in str(raised.value)


def test_benchmarks_are_searched_in_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LaunchError, match=r"there is no benchmarks/ here: call easq.bench from the root"):
        role(easq.bench, "train_step")


# ---------------------------------------------------------------------------------------------------------------------
# Jobs that run


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `torchx run` in an environment that is not activated."""
    (folder / ".torchxconfig").write_text((REPOSITORY / ".torchxconfig").read_text())
    return subprocess.run(
        [str(TORCHX), "run", *arguments],
        cwd=folder,
        env={**os.environ, "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.integration
def test_two_replicas_sweep_a_study_with_the_results_of_local_processes(tmp_path: Path, warm: Warm) -> None:
    """Two nodes of a Ray cluster on this host, with one CPU each, train real cells for a few steps."""
    pytest.importorskip("ray", reason="sweeps need the package ray (extra `cluster`)")
    study = ("rank", "--budget", "small", "--seeds=1", "--out")
    done = run(tmp_path, "easq.sweep", "--n", "2", "--cpu", "1", *study, "all of it")
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "6 cells, on Ray 127.0.0.1:" in output and output.count("written to all of it") == 1
    assert "the study starts" not in output, "a node did not join"
    token = tmp_path / "all of it" / ray_node.TOKEN
    assert token.stat().st_mode & 0o777 == 0o600 and token.read_text() not in output
    assert not servers(token.read_text())

    warm.run(warm.python, "-m", "easq_rec.cli", "study", *study, str(tmp_path / "local"), "--jobs", "1")
    swept, local = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("all of it", "local"))
    for found in (swept, local):
        del found["command"], found["cell_seconds"], found["wall_seconds"]
        for cell in found["cells"]:
            del cell["seconds"]
    trained = ["main_only", "r=2", "r=8"]
    assert swept == local and [cell["variant"] for cell in swept["cells"]] == [*trained, *ANCHORS]
    assert (tmp_path / "all of it" / "table.md").read_text() == (tmp_path / "local" / "table.md").read_text()


@pytest.mark.integration
@pytest.mark.parametrize("shape", ["1x1", "1x2"])
def test_a_benchmark_runs(tmp_path: Path, shape: str) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "hello.py").write_text(
        'import os, sys\nif __name__ == "__main__":\n'
        '    print("rank", os.environ.get("RANK"), sys.argv[1:], "threads", os.environ["OMP_NUM_THREADS"])\n'
    )
    done = run(tmp_path, "easq.bench", "-j", shape, "--threads", "3", "hello", "--out", "a b")
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    for rank in ["None"] if shape == "1x1" else ["0", "1"]:
        assert f"rank {rank} ['--out', 'a b'] threads 3" in output


@pytest.mark.integration
def test_an_error_of_a_component_is_one_message_without_traceback(tmp_path: Path) -> None:
    done = run(tmp_path, "easq.sweep", "rank")
    assert done.returncode != 0
    assert "--out is missing, a directory that all replicas see" in done.stderr
    assert "Traceback" not in done.stderr
