"""The doctor on given environments and on the environment that runs the tests."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from easq_rec import doctor

REPOSITORY = Path(__file__).parents[1]

BASE = dict.fromkeys((*doctor.REQUIRED, *doctor.WANTED), "1.0")
CPU = BASE | {"torch": "2.13.0+cpu", "fbgemm_gpu-cpu": "1.8.0", "torchrec": "1.8.0"}
OLDER_CPU = BASE | {"torch": "2.11.0", "fbgemm-gpu-cpu": "1.6.0", "torchrec": "1.6.1"}
CUDA = BASE | {"torch": "2.13.0", "fbgemm_gpu": "1.8.0", "torchrec": "1.8.0"}
OLDER_CUDA = BASE | {"torch": "2.11.0+cu128", "fbgemm-gpu": "1.6.0", "torchrec": "1.6.1"}
ENTRY_POINTS = {"dist": "torchx_components.dist"}


def check(
    versions: Mapping[str, str],
    *,
    torch_cuda: str | None = None,
    gpu: bool = False,
    entry_points: Mapping[str, str] = ENTRY_POINTS,
    python: tuple[int, int] = (3, 11),
) -> list[doctor.Problem]:
    return doctor.check(versions, torch_cuda=torch_cuda, gpu=gpu, entry_points=entry_points, python=python)


def without(versions: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: version for name, version in versions.items() if name not in names}


def only(problems: list[doctor.Problem]) -> doctor.Problem:
    assert len(problems) == 1, problems
    return problems[0]


@pytest.mark.parametrize("versions", [CPU, OLDER_CPU])
@pytest.mark.parametrize("gpu", [False, True])
def test_cpu_builds_are_healthy(versions: Mapping[str, str], gpu: bool) -> None:
    assert check(versions, gpu=gpu) == []


def test_remedies_keep_the_older_versions() -> None:
    problem = only(check(without(OLDER_CPU, "fbgemm-gpu-cpu")))
    assert "install fbgemm-gpu-cpu==1.6.0" in problem.remedy


@pytest.mark.parametrize(("versions", "cuda"), [(CUDA, "13.0"), (OLDER_CUDA, "12.8")])
@pytest.mark.parametrize("gpu", [False, True])
def test_cuda_builds_are_healthy(versions: Mapping[str, str], cuda: str, gpu: bool) -> None:
    assert check(versions, torch_cuda=cuda, gpu=gpu) == []


def test_cuda_torch_with_cpu_fbgemm_is_healthy_without_a_gpu() -> None:
    # `make setup` gives this on a laptop: the usual package index has only CUDA builds of torch.
    assert check(CPU | {"torch": "2.13.0"}, torch_cuda="13.0") == []


def test_cpu_fbgemm_is_a_problem_if_a_gpu_is_present() -> None:
    problem = only(check(CPU | {"torch": "2.13.0"}, torch_cuda="13.0", gpu=True))
    assert "fbgemm-gpu-cpu has no GPU kernels" in problem.what
    assert "uninstall -y fbgemm-gpu-cpu" in problem.remedy
    assert "install fbgemm-gpu==1.8.0" in problem.remedy


def test_cuda_fbgemm_with_cpu_torch_is_a_problem() -> None:
    problem = only(check(CUDA | {"torch": "2.13.0+cpu"}))
    assert "fbgemm-gpu is a CUDA build and torch 2.13.0+cpu is a CPU build" in problem.what
    assert "install fbgemm-gpu-cpu==1.8.0" in problem.remedy


def test_both_builds_of_fbgemm_are_a_problem() -> None:
    problem = only(check(CPU | {"fbgemm-gpu": "1.8.0"}))
    assert "fbgemm-gpu-cpu and fbgemm-gpu" in problem.what
    assert "uninstall -y fbgemm-gpu-cpu fbgemm-gpu" in problem.remedy
    assert "install fbgemm-gpu-cpu==1.8.0" in problem.remedy


def test_incompatible_torch_and_fbgemm_are_a_problem() -> None:
    problem = only(check(CPU | {"torch": "2.12.1+cpu"}))
    assert "torch 2.12.1+cpu and fbgemm-gpu-cpu 1.8.0 are incompatible" in problem.what
    assert "needs torch 2.13" in problem.what
    assert "install torch==2.13.0 fbgemm-gpu-cpu==1.8.0" in problem.remedy


def test_incompatible_torchrec_and_fbgemm_are_a_problem() -> None:
    problem = only(check(CPU | {"torchrec": "1.7.0"}))
    assert "torchrec 1.7.0 and fbgemm-gpu-cpu 1.8.0 are incompatible" in problem.what
    assert "install --no-deps torchrec==1.8.0" in problem.remedy


def test_remedy_keeps_an_older_torch_that_is_in_the_matrix() -> None:
    problem = only(check(OLDER_CUDA | {"torchrec": "1.8.0"}, torch_cuda="12.8", gpu=True))
    assert "install fbgemm-gpu==1.6.0" in problem.remedy
    assert "torchrec==1.6.1" in problem.remedy


def test_nightlies_are_not_compared() -> None:
    nightly = without(CPU, "fbgemm_gpu-cpu", "torchrec", "torch")
    nightly |= {
        "fbgemm-gpu-nightly-cpu": "2026.11.1",
        "torchrec-nightly": "2026.11.1",
        "torch": "2.15.0.dev20261101+cpu",
    }
    assert check(nightly) == []


@pytest.mark.parametrize(
    ("missing", "what"),
    [("torch", "torch is not"), ("torchrec", "torchrec is not"), ("fbgemm_gpu-cpu", "FBGEMM is not"), ("tyro", "tyro")],
)
def test_missing_package_blocks(missing: str, what: str) -> None:
    problem = only(check(without(CPU, missing)))
    assert problem.what.startswith(what)
    assert " install " in problem.remedy
    assert problem.blocks


def test_missing_launcher_does_not_block() -> None:
    problem = only(check(without(CPU, "torchx"), entry_points={}))
    assert problem.what == "torchx is not installed"
    assert not problem.blocks


@pytest.mark.parametrize("entry_points", [{}, {"dist": "torchx.components.dist"}])
def test_missing_entry_points_do_not_block(entry_points: dict[str, str]) -> None:
    problem = only(check(CPU, entry_points=entry_points))
    assert "torchx run dist.ddp" in problem.what
    assert "-e ." in problem.remedy
    assert not problem.blocks


def test_old_python_is_a_problem() -> None:
    assert "Python 3.10 is too old" in only(check(CPU, python=(3, 10))).what


def test_an_empty_environment_names_every_package_once() -> None:
    named = [problem.what.split(" ")[0] for problem in check({}, entry_points={})]
    assert sorted(named) == sorted(["torch", "torchrec", "FBGEMM", *doctor.REQUIRED, *doctor.WANTED])


@pytest.mark.parametrize(
    ("version", "cuda"), [("2.13.0+cpu", None), ("2.11.0+cu128", "128"), (None, None), ("2.13.0+cu130", "130")]
)
def test_cuda_version_of_torch(version: str | None, cuda: str | None) -> None:
    assert doctor.torch_cuda_version(version) == cuda


@pytest.mark.parametrize("row", doctor.COMBINATIONS, ids=str)
def test_matrix_obeys_its_rule(row: doctor.Combination) -> None:
    release = doctor.minor(row.fbgemm)
    assert release is not None
    assert doctor.minor(row.torch) == (2, release[1] + 5)
    assert doctor.minor(row.torchrec) == release


def test_pins_are_the_first_rows_of_the_matrix() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for device in ("cpu", "cuda"):
        row = next(row for row in doctor.COMBINATIONS if row.device == device)
        pins = {f"torch=={row.torch}", f"{row.fbgemm_distribution}=={row.fbgemm}"}
        pins |= {f"torchrec=={row.torchrec}"} if device == "cuda" else set()
        assert set(project["optional-dependencies"][device]) == pins
        makefile = (REPOSITORY / "Makefile").read_text()
        assert re.search(rf"^TORCH := torch=={re.escape(row.torch)}$", makefile, re.MULTILINE)
        assert re.search(rf"^TORCHREC := torchrec=={re.escape(row.torchrec)}$", makefile, re.MULTILINE)
    declared = {doctor.normalise(re.split(r"[<>=~!\[]", line)[0]) for line in project["dependencies"]}
    assert declared == {*doctor.REQUIRED, *doctor.WANTED}


def test_the_oldest_versions_that_are_tested_are_the_last_row_for_the_cpu() -> None:
    row = [row for row in doctor.COMBINATIONS if row.device == "cpu"][-1]
    makefile = (REPOSITORY / "Makefile").read_text()
    pins = {"TORCH": f"torch=={row.torch}", "FBGEMM": f"{row.fbgemm_distribution}=={row.fbgemm}"}
    for name, pin in (pins | {"TORCHREC": f"torchrec=={row.torchrec}"}).items():
        assert re.search(rf"^OLDEST_{name} := {re.escape(pin)}$", makefile, re.MULTILINE)


def test_libraries_load_silently_once_their_versions_are_checked() -> None:
    """FBGEMM 1.6.0 is missing in its own table of versions, and prints 6 lines about this at every import."""
    program = "from easq_rec import doctor; doctor.require_compatible('cpu'); import fbgemm_gpu"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert run.stdout + run.stderr == ""


def test_require_compatible_names_all_blocking_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = without(CPU, "tyro", "torchx") | {"torch": "2.12.0+cpu"}
    monkeypatch.setattr(doctor, "installed_versions", lambda: {doctor.normalise(name): v for name, v in wrong.items()})
    with pytest.raises(doctor.EnvironmentProblem) as raised:
        doctor.require_compatible()
    message = str(raised.value)
    assert isinstance(raised.value, ValueError)
    assert "torch 2.12.0+cpu and fbgemm-gpu-cpu 1.8.0 are incompatible" in message
    assert "tyro is not installed" in message
    assert "torchx" not in message
    assert message.count("repair: ") == 2


def test_device_cpu_ignores_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {doctor.normalise(name): version for name, version in CPU.items()} | {"torch": "2.13.0+cu130"}
    monkeypatch.setattr(doctor, "installed_versions", lambda: versions)
    monkeypatch.setattr(doctor, "gpu_present", lambda: True)
    doctor.require_compatible("cpu")
    with pytest.raises(doctor.EnvironmentProblem, match="no GPU kernels"):
        doctor.require_compatible()


@pytest.mark.parametrize(
    ("program", "what"),
    [
        ('print(\'{"importing": "torch"}\'); import no_such_module', "import torch fails: ModuleNotFoundError"),
        (
            'print(\'{"importing": "torchrec"}\', flush=True); import os; os.abort()',
            "import torchrec fails: the process ended with code -6",
        ),
    ],
)
def test_probe_survives_a_failing_import(program: str, what: str) -> None:
    _, problem = doctor.probe(program, cuda=False)
    assert problem is not None
    assert problem.what.startswith(what)


def test_main_reports_a_failed_import(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    problem = doctor.Problem("import torchrec fails: undefined symbol", "make setup")
    monkeypatch.setattr(doctor, "probe", lambda *, cuda: ({}, problem))
    assert doctor.main() == 1
    assert "import torchrec fails: undefined symbol\n    repair: make setup" in capsys.readouterr().out


def test_this_environment_is_healthy() -> None:
    assert doctor.check() == []
    doctor.require_compatible()


@pytest.mark.integration
def test_doctor_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "easq_rec.doctor"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "* in use" in run.stdout
    assert "healthy" in run.stdout
    assert run.stderr == ""


def test_the_tables_that_spark_reads_depend_on_its_jars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jars").mkdir()
    monkeypatch.setenv("SPARK_HOME", str(tmp_path))
    assert doctor.spark_tables().startswith(f"none; Hive, Iceberg, Delta: no jar in {tmp_path}/jars, give it to")
    for name in ("spark-hive_2.13-4.1.0", "iceberg-spark-runtime-4.1_2.13-1.11.0"):
        (tmp_path / "jars" / f"{name}.jar").touch()
    assert doctor.spark_tables().startswith("Hive, Iceberg; Delta: no jar in")
    (tmp_path / "jars" / "delta-spark_2.13-4.1.0.jar").touch()
    assert doctor.spark_tables() == "Hive, Iceberg, Delta"
