"""Named hosts are found by name in addition to TorchX's, and have the sizes of the machines of that name."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from torchx import specs
from torchx.specs.named_resources_aws import EFA_DEVICE, K8S_ITYPE, NAMED_RESOURCES

from torchx_components import resources

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "cpu", "gpu", "gib"),
    [
        ("a100_8", 128, 8, 1024),
        ("h100_8", 112, 8, 2048),
        ("h200_8", 112, 8, 2048),
        ("cpu_16", 16, 0, 64),
        ("aws_p4d.24xlarge", 96, 8, 1152),
        ("aws_p5.48xlarge", 192, 8, 2048),
        ("aws_p5e.48xlarge", 192, 8, 2048),
        ("aws_p5en.48xlarge", 192, 8, 2048),
    ],
)
def test_sizes_of_hosts(name: str, cpu: int, gpu: int, gib: int) -> None:
    host = specs.named_resources[name]
    assert (host.cpu, host.gpu) == (cpu, gpu)
    assert 0.95 * gib * 1024 < host.memMB < gib * 1024, "firmware, kernel and agents need a part of the memory"


@pytest.mark.parametrize(
    ("name", "interfaces"),
    [("aws_p4d.24xlarge", 4), ("aws_p5.48xlarge", 32), ("aws_p5e.48xlarge", 32), ("aws_p5en.48xlarge", 16)],
)
def test_instance_types_and_network_interfaces_of_aws_hosts(name: str, interfaces: int) -> None:
    host = specs.named_resources[name]
    assert host.capabilities[K8S_ITYPE] == name.removeprefix("aws_")
    assert host.devices == {EFA_DEVICE: interfaces}


def test_hosts_of_torchx_are_still_found() -> None:
    for name in (*NAMED_RESOURCES, "gpu.xlarge", "cpu.nano"):
        assert specs.named_resources[name].cpu > 0


def test_every_host_is_registered_and_replaces_no_other() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    registered = project["entry-points"]["torchx.named_resources"]
    assert not set(registered) & set(NAMED_RESOURCES)
    found = {name.replace(".", "_"): place for name, place in registered.items()}
    own = [
        name for name, value in vars(resources).items() if callable(value) and value.__module__ == resources.__name__
    ]
    assert found == {name: f"torchx_components.resources:{name}" for name in own}
