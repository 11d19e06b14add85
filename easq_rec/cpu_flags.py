"""What this machine's CPU can do, from the flags that the kernel reports. Standard library only."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags of instructions that multiply bf16 numbers: two of x86, one of Arm."""


def cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """The flags of the first CPU; empty where the system has no such file, as on macOS.

    Args:
        cpuinfo: a file in the format of Linux: `flags : ...` on x86, `Features : ...` on Arm.
    """
    if not cpuinfo.exists():
        return frozenset()
    for line in cpuinfo.read_text().splitlines():
        name, _, values = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(values.split())
    return frozenset()


def slow_bf16(flags: frozenset[str]) -> str | None:
    """One line that says that bf16 is slow on a CPU with these flags, and what to do; None if it is not, or if the
    flags are unknown."""
    if not flags or flags & BF16:
        return None
    return (
        "this CPU has no bf16 instructions: --trainer.precision bf16 is several times slower than fp32 on it, and "
        "--trainer.matmul medium is not faster; use --trainer.precision fp32 --trainer.matmul highest"
    )
