"""Users are split evenly, by their id and the name of the experiment."""

from __future__ import annotations

import numpy as np
import pytest

from easq_rec.data.mixing import finalised
from easq_rec.serving.server.experiment import ServingExperiment

USERS = np.concatenate([np.arange(100_000), np.arange(100_000) - 2**62])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_an_arm_has_its_share(share: float) -> None:
    second = ServingExperiment(share=share).second_R(USERS)
    assert second.mean() == pytest.approx(share, abs=0.003)
    # A user has one arm, whoever else is in the call.
    assert (ServingExperiment(share=share).second_R(USERS[::-1])[::-1] == second).all()


def test_another_name_is_another_split() -> None:
    one, other = (ServingExperiment(share=0.5, name=name).second_R(USERS) for name in ("a", "b"))
    assert (one & other).mean() == pytest.approx(0.25, abs=0.005)


def test_a_larger_share_keeps_its_users() -> None:
    """So an experiment can grow without moving anyone back."""
    small, large = (ServingExperiment(share=share).second_R(USERS) for share in (0.1, 0.4))
    assert not (small & ~large).any()


def test_the_hash_is_splitmix64() -> None:
    """The first two outputs of the published generator with seed 0, whose state grows by the golden ratio."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        found = finalised(np.array([golden, golden * np.uint64(2)]))
    assert found.tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
