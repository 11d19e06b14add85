"""How fast are the synthetic worlds written, and does memory grow with the log?

Each world and size runs in a separate process with one thread. Prints one JSON line.

    python -m benchmarks.world [--versions 1 2] [--requests 40000 400000] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

from benchmarks.report import hardware, publish
from easq_rec.config import World


def generate(version: Literal[1, 2], requests: int, folder: str) -> None:
    """Writes a world in this process, and prints time and memory."""
    from benchmarks.train_step import resident_mib
    from easq_rec.tools.simulation import world

    begin = time.process_time()
    config = World(version=version, requests=requests)
    world.generate(config, Path(folder))
    seconds = time.process_time() - begin
    found = {
        "version": version,
        "requests": requests,
        "impressions_per_cpu_second": round(requests * config.candidates / seconds),
        "peak_rss_mib": round(resident_mib("VmHWM")),
    }
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--requests", type=int, nargs="+", default=[40_000, 400_000])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    runs = []
    for version, requests in itertools.product(args.versions, args.requests):
        with tempfile.TemporaryDirectory() as name:
            call = f"generate({version}, {requests}, {str(Path(name) / 'world')!r})"
            code = f"from benchmarks.world import generate; {call}"
            one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=one_thread
            )
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    publish({"benchmark": "world", "runs": runs, **hardware()}, args.out)


if __name__ == "__main__":
    main()
