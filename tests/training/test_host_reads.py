"""A step makes the host wait for a GPU only where the design requires it."""

from __future__ import annotations

import contextlib
import dataclasses
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import easq_rec
from easq_rec.config import Config, TrainerConfig
from easq_rec.training.health import finite_check
from easq_rec.training.process import quiet, running
from easq_rec.upstream.torch_dispatch import HOST_READS, TorchDispatchMode
from tests.builders import small_config
from tests.training.health.checked_training import CheckedTraining

ATEN = torch.ops.aten
OURS = str(Path(easq_rec.__file__).parent)
LIBRARIES = ("torchrec", "fbgemm_gpu")
ON_CPU = ("host_lookup.py", "packing.py")
"""Files that do not run on a GPU."""


class HostReads(TorchDispatchMode):
    """Records where the package reads a number, needs a shape that depends on values, or copies a number to a tensor.

    On CUDA the host waits at these places. Reads by TorchRec are not recorded: it must know how many ids it sends to
    each rank, and waits for that on a separate stream.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._reads(func, args):
            stack, packages = traceback.extract_stack(), (OURS, *LIBRARIES)
            frames = [frame for frame in stack if any(package in frame.filename for package in packages)]
            # Reading flags that are already on the host costs nothing.
            if frames and frames[-1].filename.startswith(OURS) and not frames[-1].filename.endswith(ON_CPU):
                place = f"{Path(frames[-1].filename).name}: {frames[-1].line}"
                self.places |= {place} - {"finite_check.py: return [bool(flag) for flag in self._flags.tolist()]"}
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _reads(func: Any, args: Any) -> bool:
        if func in (ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default):
            return any(index is not None and index.dtype == torch.bool for index in args[1])
        return func in HOST_READS


def bounded() -> Config:
    config = small_config()
    return dataclasses.replace(config, losses=dataclasses.replace(config.losses, divergence_bound=0.1))


@pytest.mark.parametrize("variant", ["everything", "with_dpo", "paper", "ple", "direct", "main_only", "bounded"])
def test_the_host_reads_only_the_flags_of_the_finite_check(
    tmp_path: Path, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the finite check reads its flags a step later, nothing is read. Otherwise only its flags are read."""
    config = bounded() if variant == "bounded" else small_config(variant)
    found = []
    quiet()
    with running(TrainerConfig(device="cpu", threads=1)) as runtime:
        for late in (0, 1):
            monkeypatch.setattr(finite_check, "read_delay", lambda device, late=late: late)
            reads = HostReads()
            CheckedTraining(config, runtime, tmp_path).run(within=lambda reads=reads: reads)
            found.append(reads.places)
    at_once, later = found
    assert later == set()
    assert at_once and all(place.startswith("finite_check.py: ") for place in at_once)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_host_does_not_wait_for_cuda(tmp_path: Path) -> None:
    """From the second step on, CUDA warns of no synchronizing call in this package."""
    quiet()
    with running(TrainerConfig(device="cuda")) as runtime, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        training = CheckedTraining(small_config(), runtime, tmp_path)
        training.run(within=lambda: synchronisations_told(training.step > 0))
    places = {f"{Path(told.filename).name}:{told.lineno}" for told in caught if told.filename.startswith(OURS)}
    assert places == set()


@contextlib.contextmanager
def synchronisations_told(told: bool) -> Iterator[None]:
    """Makes CUDA warn of every synchronizing call within the block, if `told`."""
    torch.cuda.set_sync_debug_mode("warn" if told else "default")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
