"""Starts ranks under torchrun for one measurement, and combines their results."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.throughput.phases import PHASES
from benchmarks.throughput.spec import Spec
from benchmarks.torchrun import environment

LONGEST_S = 1_800


def launch(spec: Spec, ranks: int, *, trace: Path | None = None) -> dict[str, Any]:
    """Runs one launch of ranks.

    Args:
        trace: file for rank 0's Chrome trace.

    Raises:
        RuntimeError: a rank failed; the message has its output.
    """
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        spec.write(folder / "spec.json")
        log = folder / "log"
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"),
            *("-m", "benchmarks.throughput.worker", str(folder / "spec.json"), str(folder)),
        ]
        with log.open("w") as file:
            done = subprocess.run(
                command, env=environment(), stdout=file, stderr=file, timeout=LONGEST_S, check=False
            ).returncode
        if done:
            # The first error; the end of the output is torchrun's report.
            text = log.read_text()
            raise RuntimeError(f"{ranks} ranks ended with exit code {done}:\n{text[text.find('Traceback') :][:6_000]}")
        found = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(ranks)]
        if trace is not None:
            shutil.copyfile(folder / "trace.json", trace)
        return together(found, spec)


def together(ranks: list[dict[str, Any]], spec: Spec) -> dict[str, Any]:
    """Combines all ranks of a launch: rates are summed, and a window is as long as that of its slowest rank."""
    windows = {
        name: [
            {
                "impressions_per_s": sum(part["impressions"] for part in parts) / max(p["seconds"] for p in parts),
                "impressions_per_cpu_s": sum(part["impressions"] for part in parts)
                / sum(part["cpu_seconds"] for part in parts),
                "step_ms": 1_000 * max(part["seconds"] for part in parts) / spec.steps,
            }
            for parts in zip(*(rank["windows"][name] for rank in ranks), strict=True)
        ]
        for name in spec.pipelines
    }
    phases = {
        kind: {name: _mean(rank[kind][name] for rank in ranks) for name in PHASES}
        for kind in ("phases_ms", "waited_ms")
    }
    step_ms = statistics.median(window["step_ms"] for window in windows[spec.pipelines[0]])
    flops, moved = _mean(rank["flops_per_step"] for rank in ranks), _mean(rank["bytes_per_step"] for rank in ranks)
    ceilings = {name: _mean(rank["ceilings"][name] for rank in ranks) for name in ranks[0]["ceilings"]}
    gemm = ceilings[f"gemm_{spec.config.trainer.precision}_gflops"]
    found: dict[str, Any] = {
        "windows": windows,
        **phases,
        "phases_step_ms": _mean(rank["phases_step_ms"] for rank in ranks),
        "gflop_per_step_and_rank": flops / 1e9,
        "gb_per_step_and_rank": moved / 1e9,
        "ceilings_per_rank": ceilings,
        "share_of_gemm": flops / 1e6 / step_ms / gemm,
        "share_of_bandwidth": moved / 1e6 / step_ms / ceilings["bandwidth_gb_per_s"],
        "peak_rss_mib_by_rank": [rank["peak_rss_mib"] for rank in ranks],
        **{name: ranks[0][name] for name in ranks[0] if name in PLACES},
    }
    if "peak_device_mib" in ranks[0]:
        found["peak_device_mib_by_rank"] = [rank["peak_device_mib"] for rank in ranks]
    return found


PLACES = ("backend", "device", "gpu", "cpu", "threads", "python", "torch", "torchrec", "fbgemm-gpu-cpu", "fbgemm-gpu")
"""Keys of a rank's description of its machine."""


def _mean(values: Any) -> float:
    return statistics.fmean(values)
