"""The golden trajectory: losses of the first 50 steps of `quickstart`, stored with the environment they came from.

    python -m tests.golden --record      stores the losses of this checkout (`make golden`)

L_dense is switched on, and its warm-up is shortened, so that all losses take part. The losses are compared within
rounding. The file also has digests of data, order and initial weights, which are the same on every CPU.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from easq_rec.config.recipes import quickstart
from easq_rec.tools.simulation.world import ensure
from tests import cpus, seeded

REPOSITORY = Path(__file__).parents[1]
FILE = Path(__file__).parent / "golden_quickstart.json"
STEPS = 50
TOLERANCE = 1e-4
"""Largest absolute difference of a loss in the first steps, where the results differ only by rounding."""
EXACT_STEPS = 5
"""Number of these steps. On one machine, limits to AVX2 and to SSE without fused multiply-add differ by 3e-6 in the
first 5 steps, by 1e-3 in the first 12 and by 2e-2 in all 50."""
TOLERANCE_LATER = 0.05
"""Largest absolute difference in the later steps, in which AdamW amplifies rounding: where the true gradient is almost
0, rounding decides its sign, and AdamW takes a full step."""
NAMES = ("loss_pointwise", "loss_main", "loss_satisfaction", "loss_dense", "loss_evidence")


def trajectory(directory: Path, *, cpu: str = "native") -> list[list[float | None]]:
    """The losses of each step of a run in a new process. A loss that a step does not compute is None.

    Args:
        cpu: the kind of CPU that the process is limited to (`tests.cpus`).
    """
    command = [
        sys.executable, "-m", "easq_rec.cli", "train", "quickstart", "--run-dir", str(directory / "run"),
        "--data", str(world(directory)), "--trainer.stop-at-step", str(STEPS), "--trainer.threads", "1",
        "--losses.warmup-steps", "10", "--losses.dense.weight", "0.3", "--evaluation.every-steps", "0",
        "--logging.every-steps", "1", "--logging.tensorboard", "False",
    ]  # fmt: skip
    environment = cpus.environment(cpu)
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (directory / "run" / "metrics.jsonl").read_text().splitlines()]
    return [[line.get(name) for name in NAMES] for line in lines if line["split"] == "train"]


def world(directory: Path) -> Path:
    """The world that `quickstart` generates."""
    ensure(quickstart().world, directory / "world")
    return directory / "world"


def digests(directory: Path) -> dict[str, str]:
    """Digests of what the seeds of `quickstart` determine (`tests.seeded`)."""
    return seeded.digests(quickstart(), world(directory))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", required=True)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        losses, exact = trajectory(Path(directory)), digests(Path(directory))
    names = ("torch", "torchrec", "fbgemm-gpu-cpu", "numpy")
    content = {
        "environment": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            **{name: importlib.metadata.version(name) for name in names},
        },
        "digests": exact,
        "names": NAMES,
        "losses": losses,
    }
    FILE.write_text(json.dumps(content, indent=1) + "\n")
    print(f"recorded {len(losses)} steps in {FILE}")


if __name__ == "__main__":
    main()
