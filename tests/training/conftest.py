"""A fixture with the runtime of one rank on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from easq_rec.config import TrainerConfig
from easq_rec.training.process import Runtime, running


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with running(TrainerConfig(device="cpu", threads=1)) as runtime:
        yield runtime
