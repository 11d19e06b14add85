"""A CPU without bf16 instructions is recognised by its flags, and the doctor and the trainer say what that means."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from easq_rec import doctor
from easq_rec.config import TrainerConfig
from easq_rec.cpu_flags import cpu_flags, slow_bf16
from easq_rec.training.setup import slow_precision

AVX2 = "processor : 0\nflags\t\t: fpu sse2 fma avx2\nbugs : none\n\nprocessor : 1\nflags : fpu avx512_bf16\n"
AVX512 = "flags : fpu avx2 avx512f avx512bw\n"
GENOA = "flags : fpu avx2 avx512f avx512_bf16\n"
XEON = "flags : avx512f amx_tile amx_bf16\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd sve bf16 i8mm\n"
OLD_ARM = "Features\t: fp asimd\n"


@pytest.mark.parametrize(
    ("cpuinfo", "slow"), [(AVX2, True), (AVX512, True), (OLD_ARM, True), (GENOA, False), (XEON, False), (ARM, False)]
)
def test_flags_tell_whether_bf16_is_slow(tmp_path: Path, cpuinfo: str, slow: bool) -> None:
    """The flags of the first processor count."""
    file = tmp_path / "cpuinfo"
    file.write_text(cpuinfo)
    said = slow_bf16(cpu_flags(file))
    assert (said is not None) == slow
    if said is not None:
        assert "\n" not in said and "no bf16 instructions" in said and "use --trainer.precision fp32" in said


def test_nothing_is_said_where_the_flags_are_unknown(tmp_path: Path) -> None:
    assert cpu_flags(tmp_path / "cpuinfo") == frozenset() and slow_bf16(frozenset()) is None


@pytest.mark.parametrize(
    ("trainer", "device", "warns"),
    [
        (TrainerConfig(precision="bf16"), "cpu", True),
        (TrainerConfig(matmul="medium"), "cpu", True),
        (TrainerConfig(), "cpu", False),
        (TrainerConfig(precision="bf16"), "cuda", False),
    ],
)
def test_the_trainer_warns_of_a_slow_precision(trainer: TrainerConfig, device: str, warns: bool) -> None:
    """Only a run that asks for bf16 products on a CPU without them."""
    said = slow_precision(trainer, torch.device(device), frozenset({"avx2"}))
    assert (said is not None) == warns
    assert slow_precision(trainer, torch.device(device), frozenset({"avx2", "avx512_bf16"})) is None


@pytest.mark.parametrize("slow", [False, True])
def test_the_doctor_says_it_in_one_line(
    slow: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "cpu_flags", lambda: frozenset({"avx2"} if slow else {"avx512_bf16"}))
    doctor.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if "bf16" in line]
    assert len(lines) == int(slow)
