"""Phases: their times, and how the watchdog sees them."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from easq_rec.training.phases import WAITING, Phases
from easq_rec.training.process import Exchange, Runtime


def test_an_inner_phase_interrupts_the_outer_one() -> None:
    phases = Phases()
    phases.take_window(1)
    with phases("outer"):
        time.sleep(0.02)
        with phases("inner one"):
            time.sleep(0.04)
    time.sleep(0.03)
    milliseconds, elapsed = phases.take_window(2)
    assert milliseconds["ms_outer"] == pytest.approx(10, abs=5)
    assert milliseconds["ms_inner_one"] == pytest.approx(20, abs=5)
    assert milliseconds["ms_other"] == pytest.approx(15, abs=5)
    assert sum(milliseconds.values()) == pytest.approx(1_000 * elapsed / 2)
    assert set(phases.take_window(1)[0]) == {"ms_other"}, "a new window starts at 0"


def test_a_switched_phase_ends_with_its_block() -> None:
    phases = Phases()
    with phases("one"):
        phases.switch("two")
        assert phases.current.names == ("two",)
        with phases("three"):
            assert str(phases.current) == "two: three"
    assert phases.current.names == () and str(phases.current) == "between two phases"


def test_an_error_ends_all_phases() -> None:
    phases = Phases()

    def fail() -> None:
        with phases("one"):
            phases.switch("two")
            raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        fail()
    assert phases.current.names == ()


def test_progress_counts_phases_within_a_step() -> None:
    phases = Phases()
    assert phases.current.step is None
    with phases("start"):
        pass
    assert phases.current.entered == 1
    phases.end_step(4)
    assert (phases.current.step, phases.current.entered) == (4, 0)
    with phases("data"):
        pass
    with phases("forward"):
        assert (phases.current.step, phases.current.entered) == (4, 2)


def test_a_collective_of_this_package_is_a_separate_phase() -> None:
    """Another thread sees the phase while the collective waits."""
    phases, over = Phases(), threading.Event()
    work = SimpleNamespace(wait=over.wait)
    exchange = Exchange(work, phases)  # type: ignore[arg-type]

    def wait() -> None:
        with phases("forward"):
            exchange.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    until = time.monotonic() + 10
    while not phases.current.waits:
        assert time.monotonic() < until
    assert phases.current.names == ("forward", WAITING)
    over.set()
    thread.join()
    assert not phases.current.waits


def test_a_single_rank_never_waits(runtime: Runtime) -> None:
    runtime.phases.end_step(0)
    assert runtime.any_rank(True) and not runtime.any_rank(False)
    assert runtime.start_sum(torch.tensor([3.0]))().tolist() == [3.0]
    assert runtime.phases.current.entered == 0
