"""Checks of the Dockerfile without building an image: it passes its linter and copies all files that it needs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
import yaml
from kubernetes.client import ApiClient
from torchx.workspace.api import walk_workspace

from easq_rec.cli.main import MARKERS, Command
from easq_rec.cli.serve import ServeCommand
from easq_rec.config import command_line
from easq_rec.serving.server.run import DRAIN_S

REPOSITORY = Path(__file__).parents[2]
DOCKERFILE = REPOSITORY / "Dockerfile"
HADOLINT = Path(sys.executable).with_name("hadolint")


def copied_first() -> list[tuple[list[str], str]]:
    """(sources, target) of the files that are copied for `make setup`, before all other files of each image."""
    lines = re.findall(r"^COPY --chown=\S+ (.+)$", DOCKERFILE.read_text(), flags=re.MULTILINE)
    *first, served, trained = [line.split() for line in lines]
    assert served == trained == [".", "."]
    return [(words[:-1], words[-1]) for words in first]


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint (extra `dev`) has no binary for this machine")
def test_dockerfile_passes_its_linter() -> None:
    done = subprocess.run([HADOLINT, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_that_are_copied_first_are_enough_for_make_setup(tmp_path: Path) -> None:
    for sources, target in copied_first():
        (tmp_path / target).mkdir(parents=True, exist_ok=True)
        for source in sources:
            shutil.copy2(REPOSITORY / source, tmp_path / target)
    plan = subprocess.run(
        ["make", "-n", "setup", "DEVICE=cuda"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert "-e '.[cuda]'" in plan and "torchrec==" in plan
    # The build of the package reads these files.
    settings = tomllib.loads((tmp_path / "pyproject.toml").read_text())
    project = settings["project"]
    for file in (project["readme"], *project["license-files"]):
        assert (tmp_path / file).is_file(), file
    module, _ = settings["tool"]["setuptools"]["dynamic"]["version"]["attr"].rsplit(".", 1)
    assert "__version__" in (tmp_path / module / "__init__.py").read_text()
    for package in settings["tool"]["setuptools"]["packages"]["find"]["include"]:
        assert (tmp_path / package.removesuffix("*") / "__init__.py").is_file(), package


def test_kubernetes_starts_what_the_image_serves() -> None:
    """The manifest is one that the API's client knows, and its arguments and probes are those of the command."""
    deployment, service = yaml.safe_load_all((REPOSITORY / "examples/kubernetes/serve.yaml").read_text())
    response = SimpleNamespace(data=json.dumps(deployment))
    found = ApiClient().deserialize(response, "V1Deployment")
    sent = ApiClient().sanitize_for_serialization(found)
    assert sent == deployment, "a field is none of Kubernetes"
    pod = found.spec.template.spec
    (container,) = pod.containers
    (entry,) = re.findall(r"^ENTRYPOINT (.+)$", DOCKERFILE.read_text(), flags=re.MULTILINE)
    program, *words = json.loads(entry)
    assert program == "easq-rec"
    command = command_line.parse(Command, [*words, *container.args], prog=program, markers=MARKERS)
    assert isinstance(command, ServeCommand) and command.host == "0.0.0.0"
    (port,) = container.ports
    assert port.container_port == command.port
    assert int(container.resources.requests["cpu"]) == command.processes
    assert {mount.mount_path for mount in container.volume_mounts} == {command.packages, "/tmp"}
    probes = (container.startup_probe, container.readiness_probe, container.liveness_probe)
    assert [probe.http_get.path for probe in probes] == ["/ready", "/ready", "/live"]
    assert pod.termination_grace_period_seconds > DRAIN_S + 5 + 5
    assert service["spec"]["selector"] == found.spec.selector.match_labels


def test_image_has_a_supported_version_of_python() -> None:
    (version,) = re.findall(r"^FROM python:(\d+\.\d+)-", DOCKERFILE.read_text(), flags=re.MULTILINE)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert f"Programming Language :: Python :: {version}" in project["classifiers"]


def test_copies_of_the_checkout_omit_ignored_files(tmp_path: Path) -> None:
    """TorchX copies the directory to a job or into an image, except for the files that the ignore file names."""
    assert (REPOSITORY / ".torchxignore").samefile(REPOSITORY / ".dockerignore")
    shutil.copy2(REPOSITORY / ".dockerignore", tmp_path / ".torchxignore")
    kept = ("easq_rec/train.py", "easq_rec/data/order.py", "benchmarks/data.py", "datasets/world/README.md")
    left = (
        *(".git/HEAD", ".venv/bin/python", "runs/one/config.json", "data/requests/a.parquet", "build/lib/a.py"),
        *("easq_rec/__pycache__/train.pyc", ".pytest_cache/README.md", "easq_rec.egg-info/PKG-INFO"),
    )
    for file in (*kept, *left):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    found = {
        str((Path(folder) / file).relative_to(tmp_path))
        for folder, _, files in walk_workspace(fsspec.filesystem("file"), str(tmp_path))
        for file in files
    }
    assert found == {*kept, ".torchxignore"}
