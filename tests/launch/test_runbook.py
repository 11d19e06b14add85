"""TorchX accepts every command in docs/how-to/cluster.md."""

from __future__ import annotations

import re
import shlex
import shutil

import pytest
from torchx.runner import get_runner

from tests.launch.requests import CLIENTS, REPOSITORY
from torchx_components import resources

RUNBOOK = (REPOSITORY / "docs" / "how-to" / "cluster.md").read_text()
COMMANDS = re.findall(r"^    (torchx run (?:.*\\\n)*.*)$", RUNBOOK, flags=re.MULTILINE)[1:]
"""All commands except the first, which is a template."""


def test_every_scheduler_has_a_section() -> None:
    sections = re.findall(r"^## `(\w+)`", RUNBOOK, flags=re.MULTILINE)
    assert sections == ["local_cwd", "slurm", "lsf", "kubernetes", "aws_batch", "local_docker", "ray"]
    assert {shlex.split(command)[shlex.split(command).index("-s") + 1] for command in COMMANDS} == set(sections)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split("-s ")[1].split()[0])
@pytest.mark.filterwarnings("ignore:[\\s\\S]*Volcano:UserWarning")
def test_command_is_accepted(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    words = shlex.split(command.replace("\\\n", " "))[2:]
    options: dict[str, str] = {}
    while words[0].startswith("-"):
        assert words[0] in ("-s", "-cfg", "--workspace")
        options[words[0]] = words[1]
        words = words[2:]
    scheduler = options["-s"]
    if client := CLIENTS.get(scheduler):
        pytest.importorskip(client, reason=f"{scheduler} needs the package {client} (extra `cluster`)")
    with get_runner() as runner:
        config = runner.scheduler_run_opts(scheduler).cfg_from_str(options.get("-cfg", ""))
        # Only ray gets a copy of the directory without further options.
        workspace = f"file://{REPOSITORY / 'torchx_components'}" if scheduler == "ray" else None
        dryrun = runner.dryrun_component(words[0], words[1:], scheduler, cfg=config, workspace=workspace)
    assert str(dryrun)
    if scheduler == "ray":
        shutil.rmtree(dryrun.request.working_dir)


def test_every_host_is_named() -> None:
    own = {name for name, value in vars(resources).items() if getattr(value, "__module__", "") == resources.__name__}
    named = set(re.findall(r"`((?:[ah]\d+|cpu)_\d+|aws_\w+\.\w+)`", RUNBOOK))
    assert own <= {name.replace(".", "_") for name in named}


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)", RUNBOOK):
        assert (REPOSITORY / "docs" / "how-to" / target).exists(), target
