"""Checks whether easq-rec can run in this environment, and names the command that repairs it.

torch, FBGEMM and torchrec must be built for each other. An incompatible pair fails inside an import, with an undefined
symbol or a missing operator, so versions are compared before any import. Therefore this module imports only the
standard library, and reads the three packages through their metadata or in a child process.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from easq_rec.cpu_flags import cpu_flags, slow_bf16
from easq_rec.errors import UserError

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Combination:
    """One set of compatible builds."""

    device: Literal["cpu", "cuda"]
    torch: str
    fbgemm: str
    torchrec: str
    note: str

    @property
    def fbgemm_distribution(self) -> str:
        return FBGEMM_BUILDS[self.device][0]


FBGEMM_BUILDS: dict[str, tuple[str, ...]] = {
    "cpu": ("fbgemm-gpu-cpu", "fbgemm-gpu-nightly-cpu"),
    "cuda": ("fbgemm-gpu", "fbgemm-gpu-nightly"),
}
"""Distributions that install the module fbgemm_gpu, the released one first. All write the same files."""

COMBINATIONS = (
    Combination(device="cpu", torch="2.13.0", fbgemm="1.8.0", torchrec="1.8.0", note="make setup"),
    Combination(device="cuda", torch="2.13.0", fbgemm="1.8.0", torchrec="1.8.0", note="make setup DEVICE=cuda"),
    Combination(device="cpu", torch="2.11.0", fbgemm="1.6.0", torchrec="1.6.1", note="make test-oldest"),
    Combination(device="cuda", torch="2.11.0", fbgemm="1.6.0", torchrec="1.6.1", note="not yet run"),
)
"""The compatibility matrix. For other versions a rule holds: FBGEMM 1.X and torchrec 1.X need torch 2.(X+5)."""

PYTHON = (3, 11)
JAVA = 17
"""Oldest version that Spark 4 runs on."""
TABLE_JARS = {"Hive": "spark-hive_", "Iceberg": "iceberg-spark-runtime-", "Delta": "delta-spark_"}
"""Formats of tables that Spark reads by a jar, and how the names of these begin."""

REQUIRED = ("fsspec", "numpy", "pyarrow", "pyre-extensions", "tensordict", "torchmetrics", "tqdm", "tyro")
"""Needed to train, in addition to torch, FBGEMM and torchrec."""
WANTED = ("duckdb", "jinja2", "matplotlib", "safetensors", "scikit-learn", "scipy", "tensorboard", "torchx")
"""Needed by data build and inspect, reports, export, study worth, the logs and the launcher: their absence is reported,
but training works."""


@dataclass(frozen=True)
class Problem:
    """A fault of the environment, and the command that repairs it."""

    what: str
    remedy: str
    blocks: bool = True
    """Whether training is impossible until it is repaired."""

    def __str__(self) -> str:
        return f"{self.what}\n    repair: {self.remedy}"


class EnvironmentProblem(UserError):
    """The environment cannot run easq-rec; the message lists every reason with its remedy."""


def normalise(name: str) -> str:
    """The normalised name of a distribution: Fbgemm_GPU.cpu and fbgemm-gpu-cpu are the same."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_versions() -> dict[str, str]:
    """Version of every installed distribution by normalised name; of two copies, the one that Python imports."""
    versions: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # half-removed distributions have none
            versions.setdefault(normalise(name), distribution.version)
    return versions


def core_versions() -> dict[str, str]:
    """Versions of the packages that affect a run's numbers, by name, for logs. Missing packages are left out."""
    versions = {"python": sys.version.split()[0]}
    fbgemm = [name for names in FBGEMM_BUILDS.values() for name in names]
    for name in ("easq-rec", "torch", *fbgemm, "torchrec", "torchx"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def torch_cuda_version(version: str | None) -> str | None:
    """The CUDA version that torch was built for, None for a CPU build; read without importing torch.

    Wheels of the usual package index have no build suffix, so torch's version.py is read for them.
    """
    if version is None or "+cpu" in version:
        return None
    if suffix := re.search(r"\+cu(\d+)", version):
        return suffix[1]
    spec = importlib.util.find_spec("torch")  # top level: found, not imported
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).with_name("version.py")
    found = re.search(r"^cuda\b[^=]*=\s*['\"]([^'\"]+)", file.read_text(), re.MULTILINE) if file.exists() else None
    return found[1] if found else None


def gpu_present() -> bool:
    """Whether an NVIDIA driver shows a device; does not use torch, which may be broken."""
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg"))


def components() -> dict[str, str]:
    """TorchX component entry points: name to module."""
    return {entry.name: entry.value for entry in metadata.entry_points(group="torchx.components")}


def check(
    versions: Mapping[str, str] | None = None,
    *,
    python: tuple[int, int] | None = None,
    torch_cuda: str | None = None,
    gpu: bool | None = None,
    entry_points: Mapping[str, str] | None = None,
) -> list[Problem]:
    """All problems of an environment; by default of this one.

    Tests describe another environment: `versions` maps distributions to versions (all others are missing), and
    `torch_cuda` (the CUDA version of torch's build), `gpu` and `entry_points` are used as given.
    """
    if versions is None:
        versions = installed_versions()
        torch_cuda = torch_cuda_version(versions.get("torch"))
        gpu = gpu_present() if gpu is None else gpu
        entry_points = components() if entry_points is None else entry_points
    found = {normalise(name): version for name, version in versions.items()}
    builds = {device: [name for name in names if name in found] for device, names in FBGEMM_BUILDS.items()}
    row = choose_combination(found.get("torch"), torch_cuda, builds, gpu=bool(gpu))

    problems = check_python(python or sys.version_info[:2])
    problems += check_builds(builds, row, torch=found.get("torch"), torch_cuda=torch_cuda, gpu=bool(gpu))
    problems += check_pairs(found, builds, row)
    problems += check_packages(found, row)
    if "torchx" in found and (entry_points or {}).get("dist") != "torchx_components.dist":
        what = "`torchx run dist.ddp` is not that of easq-rec: the entry points of torchx_components are not installed"
        problems.append(Problem(what, pip("install --no-deps -e .") + "   (in the checkout)", blocks=False))
    return problems


def choose_combination(
    torch: str | None, torch_cuda: str | None, builds: Mapping[str, list[str]], *, gpu: bool
) -> Combination:
    """The closest row of the matrix, at which remedies aim."""
    if torch is None:
        device = "cuda" if gpu and not builds["cpu"] else "cpu"
    elif torch_cuda is not None:
        # A CUDA build of torch also runs on the CPU: the other packages, or a GPU, show the intended device.
        device = "cuda" if gpu or not builds["cpu"] else "cpu"
    else:
        device = "cpu"
    rows = [row for row in COMBINATIONS if row.device == device]
    return next((row for row in rows if torch and minor(row.torch) == minor(torch)), rows[0])


def check_python(python: tuple[int, int]) -> list[Problem]:
    if python >= PYTHON:
        return []
    what = f"Python {python[0]}.{python[1]} is too old: easq-rec needs {PYTHON[0]}.{PYTHON[1]} or later"
    return [Problem(what, "make clean && make setup PYTHON=python3.11   (in the checkout)")]


def check_builds(
    builds: Mapping[str, list[str]], row: Combination, *, torch: str | None, torch_cuda: str | None, gpu: bool
) -> list[Problem]:
    """Checks that one build of FBGEMM is installed, and that it is for the device of torch's build."""
    names = [*builds["cpu"], *builds["cuda"]]
    if not names:
        return [Problem("FBGEMM is not installed", install_fbgemm(row))]
    # Installing over another build leaves a mixture of both, so all builds are removed first.
    replace = f"{pip('uninstall -y', *names)} && {install_fbgemm(row)}"
    if len(names) > 1:
        what = f"two builds of FBGEMM are installed, {' and '.join(names)}: each overwrote files of the other"
        return [Problem(what, replace)]
    if torch is not None and builds["cuda"] and torch_cuda is None:
        return [Problem(f"{names[0]} is a CUDA build and torch {torch} is a CPU build", replace)]
    if builds["cpu"] and torch_cuda is not None and gpu:
        what = f"{names[0]} has no GPU kernels, but torch {torch} is a CUDA build and a GPU is present"
        return [Problem(what, f"{replace}   (or train on the CPU: --trainer.device cpu)")]
    return []


def check_pairs(found: Mapping[str, str], builds: Mapping[str, list[str]], row: Combination) -> list[Problem]:
    """Checks that the versions of torch, FBGEMM and torchrec are compatible."""
    problems = []
    torch, fbgemm_name = found.get("torch"), next((name for names in builds.values() for name in names), None)
    torchrec_name = next((name for name in ("torchrec", "torchrec-nightly") if name in found), None)
    if torch is None:
        problems.append(Problem("torch is not installed", pip("install", f"torch=={row.torch}")))
    if torchrec_name is None:
        problems.append(Problem("torchrec is not installed", install_torchrec(row)))
    release = minor(found[fbgemm_name]) if fbgemm_name else None
    if release is None or fbgemm_name is None:
        return problems  # FBGEMM is missing, or a nightly, whose version is a date: nothing to compare
    wanted = (2, release[1] + 5) if release[0] == 1 else None
    if torch is not None and minor(torch) not in (None, wanted):
        goes = f"torch {wanted[0]}.{wanted[1]}" if wanted else "an older torch"
        what = f"torch {torch} and {fbgemm_name} {found[fbgemm_name]} are incompatible: this FBGEMM needs {goes}"
        install = pip("install", f"torch=={row.torch}", f"{row.fbgemm_distribution}=={row.fbgemm}")
        problems.append(Problem(what, f"{install} && {install_torchrec(row)}"))
    if torchrec_name is not None and minor(found[torchrec_name]) not in (None, release):
        what = (
            f"{torchrec_name} {found[torchrec_name]} and {fbgemm_name} {found[fbgemm_name]} are incompatible:"
            f" this FBGEMM needs torchrec {release[0]}.{release[1]}"
        )
        problems.append(Problem(what, f"{install_fbgemm(row)} && {install_torchrec(row)}"))
    return problems


def check_packages(found: Mapping[str, str], row: Combination) -> list[Problem]:
    setup = f"{row.note if row.note.startswith('make') else 'make setup'}   (in the checkout), or: "
    return [
        Problem(f"{name} is not installed", setup + pip("install", name), blocks=name in REQUIRED)
        for name in (*REQUIRED, *WANTED)
        if name not in found
    ]


def minor(version: str) -> tuple[int, int] | None:
    """(1, 8) of '1.8.0'; None for a nightly, whose version is a date or carries .dev."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None or int(match[1]) >= 2000 or ".dev" in version:
        return None
    return int(match[1]), int(match[2])


def pip(*arguments: str) -> str:
    """A pip command for this interpreter, whose environment may not be activated."""
    python = Path(sys.executable)
    shown = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    return f"{shlex.quote(str(shown))} -m pip {' '.join(arguments)}"


def install_fbgemm(row: Combination) -> str:
    return pip("install", f"{row.fbgemm_distribution}=={row.fbgemm}")


def install_torchrec(row: Combination) -> str:
    # --no-deps: torchrec requires the CUDA build of FBGEMM, which would overwrite the CPU build.
    return pip("install --no-deps", f"torchrec=={row.torchrec}")


def require_compatible(device: Device = "auto") -> None:
    """Raises EnvironmentProblem if training cannot work here. Takes milliseconds; called before torch is imported.

    With device 'cpu', missing GPU kernels of FBGEMM are not a problem.
    """
    problems = [problem for problem in check(gpu=False if device == "cpu" else None) if problem.blocks]
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise EnvironmentProblem(f"this environment cannot run easq-rec:\n{lines}\n`easq-rec doctor` shows more.")
    logging.getLogger().addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """False for what FBGEMM logs at every import if its table of versions lacks its release, as 1.6.0 does."""
    return "_fbgemm_torch_compat_table has no entry" not in str(record.msg)


# ---------------------------------------------------------------------------------------------------------------------
# easq-rec doctor

PROBE = """
import json, sys, warnings
warnings.simplefilter("ignore")
def said(**values): print(json.dumps(values), flush=True)
said(importing="torch")
import torch
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
said(threads=torch.get_num_threads(), gpus=[[gpu.name, gpu.total_memory] for gpu in gpus])
said(importing="fbgemm_gpu")
import fbgemm_gpu
for device in ["cpu"] + (["cuda"] if gpus and "cuda" in sys.argv else []):
    torch.ops.fbgemm.asynchronous_complete_cumsum(torch.ones(2, dtype=torch.int64, device=device)).sum().item()
said(importing="torchrec")
import torchrec
said(importing=None)
"""
"""Run in a child process: an incompatible import may end the process, and its output must not mix with ours."""


def probe(program: str = PROBE, *, cuda: bool) -> tuple[dict[str, Any], Problem | None]:
    """Imports the three packages and calls one operator; returns the findings and the failure, if any."""
    command = [sys.executable, "-c", program, *(["cuda"] if cuda else [])]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        return {}, Problem("importing torch, fbgemm_gpu and torchrec took longer than 300 s", "easq-rec doctor")
    seen: dict[str, Any] = {}
    for line in run.stdout.splitlines():
        if line.startswith("{"):
            seen |= json.loads(line)
    if run.returncode == 0:
        return seen, None
    lines = run.stderr.strip().splitlines()
    reason = lines[-1].strip() if run.returncode > 0 and lines else f"the process ended with code {run.returncode}"
    remedy = "make clean && make setup   (in the checkout)"
    return seen, Problem(f"import {seen.get('importing')} fails: {reason}", remedy)


def spark_problems() -> list[Problem]:
    """What `easq-rec data build --engine spark` lacks here; it is optional, so nothing else needs it."""
    problems = []
    if importlib.util.find_spec("pyspark") is None:
        problems.append(Problem("PySpark is not installed", "pip install 'easq-rec[spark]'"))
    home = os.environ.get("JAVA_HOME")
    java = Path(home, "bin", "java") if home else Path(shutil.which("java") or "java")
    try:
        said = subprocess.run([str(java), "-version"], capture_output=True, text=True, check=True, timeout=60).stderr
    except (OSError, subprocess.SubprocessError):
        return [*problems, Problem("there is no Java", f"install a runtime of Java {JAVA} or later, or set JAVA_HOME")]
    found = re.search(r'version "(\d+)', said)
    if found is not None and int(found[1]) < JAVA:
        remedy = f"install Java {JAVA} or later, and set JAVA_HOME to it"
        problems.append(Problem(f"Java {found[1]} is too old for Spark 4", remedy))
    return problems


def spark_tables() -> str:
    """Which tables of a catalog Spark reads with the jars that lie beside it. Others may be given to spark-submit."""
    home, found = os.environ.get("SPARK_HOME"), importlib.util.find_spec("pyspark")
    if home is not None:
        jars = Path(home, "jars")
    elif found is not None and found.origin is not None:
        jars = Path(found.origin).with_name("jars")
    else:
        return "none without PySpark"
    present = [name for name, jar in TABLE_JARS.items() if any(jars.glob(f"{jar}*.jar"))]
    others = [name for name in TABLE_JARS if name not in present]
    remedy = f"{', '.join(others)}: no jar in {jars}, give it to spark-submit by --packages or --jars"
    return "; ".join([f"{', '.join(present) or 'none'}", *([remedy] if others else [])])


def main() -> int:
    """Prints the state of the environment; returns 0 if it is healthy, else 1."""
    versions = installed_versions()
    cuda = torch_cuda_version(versions.get("torch"))
    problems = check()
    fbgemm = [name for names in FBGEMM_BUILDS.values() for name in names if name in versions]
    # If one of the three is missing, an import error would only repeat that.
    complete = "torch" in versions and bool(fbgemm) and "torchrec" in versions
    seen, failure = probe(cuda=any(name in FBGEMM_BUILDS["cuda"] for name in fbgemm)) if complete else ({}, None)
    problems += [failure] if failure else []

    print("versions")
    print(f"  {'python':<16} {sys.version.split()[0]}   {sys.executable}")
    build = f"   (CUDA {cuda} build)" if cuda else "   (CPU build)"
    for name in ("easq-rec", "torch", *(fbgemm or ["fbgemm-gpu-cpu"]), "torchrec", *REQUIRED, *WANTED):
        print(f"  {name:<16} {versions.get(name, 'missing')}{build if name == 'torch' and name in versions else ''}")

    print("\ncompatible (FBGEMM 1.X and torchrec 1.X need torch 2.(X+5))")
    print(f"    {'device':<7} {'torch':<8} {'FBGEMM':<22} torchrec")
    for row in COMBINATIONS:
        mark = "*" if in_use(row, versions) else " "
        builds = f"{row.fbgemm_distribution} {row.fbgemm}"
        print(f"  {mark} {row.device:<7} {row.torch:<8} {builds:<22} {row.torchrec:<9} {row.note}")
    print("  * in use" if any(in_use(row, versions) for row in COMBINATIONS) else "  none of these builds is in use")

    print("\ndevices")
    for name, memory in seen.get("gpus", []):
        print(f"  GPU              {name}, {memory / 2**30:.0f} GiB")
    if not seen.get("gpus"):
        print("  GPU              none" + (" that torch can use" if gpu_present() else ""))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    threads = f", {seen['threads']} torch threads" if "threads" in seen else ""
    limit = f" (OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']})" if "OMP_NUM_THREADS" in os.environ else ""
    print(f"  CPU              {available_cores()} cores{threads}{limit}, {memory:.0f} GiB of memory")

    if slow := slow_bf16(cpu_flags()):
        print(f"  bf16             {slow}")

    print("\noptional")
    lacking = "; ".join(f"{problem.what}: {problem.remedy}" for problem in spark_problems())
    print(f"  data build --engine spark   {lacking or 'ready'}")
    print(f"  its catalog tables          {spark_tables()}")
    kafka = "ready" if "confluent-kafka" in versions else "no confluent-kafka: pip install 'easq-rec[kafka]'"
    print(f"  streams from Kafka          {kafka}")

    print("\nproblems" if problems else "\nhealthy: no problems")
    for problem in problems:
        print(f"  - {problem}")
    return 1 if problems else 0


def in_use(row: Combination, versions: Mapping[str, str]) -> bool:
    """Whether the installed versions are those of this row (torch without its build suffix)."""
    wanted = {"torch": row.torch, row.fbgemm_distribution: row.fbgemm, "torchrec": row.torchrec}
    return all(versions.get(name, "").split("+")[0] == version for name, version in wanted.items())


def available_cores() -> int:
    """Cores that this process may run on, which a container or a batch system may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
