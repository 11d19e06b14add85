"""Environments in which a process computes as on a CPU with fewer instruction sets than this one.

Each library chooses its code when it is loaded, from the capabilities of the CPU. The variables here disable some of
them. This includes the C library: its exp and log have variants with and without fused multiply-add.
"""

from __future__ import annotations

import os

import numpy as np

NUMPY_EXTENSIONS = np.show_config(mode="dicts")["SIMD Extensions"]
NUMPY_FEATURES = [*NUMPY_EXTENSIONS.get("found", ()), *NUMPY_EXTENSIONS.get("not found", ())]
"""CPU features for which numpy has variants of its code, whether this CPU has them or not."""

AVX512 = ("AVX512", "X86_V4")
"""Prefixes of the names of numpy's features that need more than AVX2."""

LIMITS = {
    "native": {},
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "NPY_DISABLE_CPU_FEATURES": " ".join(name for name in NUMPY_FEATURES if name.startswith(AVX512)),
        "OPENBLAS_CORETYPE": "Haswell",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
    "default": {
        "ATEN_CPU_CAPABILITY": "default",
        "NPY_DISABLE_CPU_FEATURES": " ".join(NUMPY_FEATURES),
        "OPENBLAS_CORETYPE": "Nehalem",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA,-FMA4,-AVX2_Usable,-FMA_Usable,-FMA4_Usable",
    },
}
"""Environment variables by kind of CPU. `native` is this CPU with all its capabilities."""


def environment(cpu: str) -> dict[str, str]:
    """The environment of this process, with its CPU limits replaced by those of a kind of CPU."""
    names = {name for limits in LIMITS.values() for name in limits}
    return {name: value for name, value in os.environ.items() if name not in names} | LIMITS[cpu]
