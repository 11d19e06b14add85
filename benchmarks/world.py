"""How fast is the synthetic world written, and does memory grow with the log?

Each size runs in a separate process with one thread. Prints one JSON line.

    python -m benchmarks.world [--requests 40000 400000] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import hardware, publish
from easq_rec.config import World


def generate(requests: int, folder: str) -> None:
    """Writes a world in this process, and prints time and memory."""
    from benchmarks.train_step import resident_mib
    from easq_rec.tools.simulation import world

    begin = time.process_time()
    config = World(requests=requests)
    world.generate(config, Path(folder))
    seconds = time.process_time() - begin
    found = {
        "requests": requests,
        "impressions_per_cpu_second": round(requests * config.candidates / seconds),
        "peak_rss_mib": round(resident_mib("VmHWM")),
    }
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, nargs="+", default=[40_000, 400_000])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    runs = []
    for requests in args.requests:
        with tempfile.TemporaryDirectory() as name:
            code = f"from benchmarks.world import generate; generate({requests}, {str(Path(name) / 'world')!r})"
            done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    publish({"benchmark": "world", "runs": runs, **hardware()}, args.out)


if __name__ == "__main__":
    main()
