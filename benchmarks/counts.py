"""How much CPU time does adding counts take, and does memory grow with the log?

Generates a synthetic world of each size and adds the counts of recipe `counts`, or adds those of another recipe to a
data directory. Each runs in a separate process with one thread. Prints one JSON line.

    python -m benchmarks.counts [--requests 83334 833340] [--data DIR --recipe NAME] [--out FILE.json]
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


def count(data: str, recipe: str, out: str) -> None:
    """Adds counts in this process, and prints time and memory."""
    from benchmarks.train_step import resident_mib
    from easq_rec.config.command_line import find_recipe
    from easq_rec.data.count_files import read_counts
    from easq_rec.tools.counts.command import add_counts

    schema = find_recipe(recipe).schema
    before, begin = resident_mib("VmRSS"), time.process_time()
    add_counts(data, Path(out), schema)
    seconds = time.process_time() - begin
    counts = read_counts(Path(out) / "counts")
    found = {
        "recipe": recipe,
        "counts": len(schema.counts),
        # The first count has no half-life.
        "impressions": round(counts.overall(schema.counts[0]).shown),
        "cpu_s": round(seconds, 2),
        "rss_before_mib": round(before),
        "peak_rss_mib": round(resident_mib("VmHWM")),
    }
    print(json.dumps(found))


def measure(data: Path, recipe: str, out: Path) -> dict[str, object]:
    code = f"from benchmarks.counts import count; count({str(data)!r}, {recipe!r}, {str(out)!r})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, nargs="*", default=[83_334, 833_340])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--recipe", default="kuairand_counts")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as name:
        if args.data is not None:
            runs.append(measure(args.data, args.recipe, Path(name) / "counted"))
    for requests in args.requests:
        from easq_rec.tools.simulation.world import generate

        with tempfile.TemporaryDirectory() as name:
            generate(World(requests=requests), Path(name) / "world", counts=False)
            runs.append(measure(Path(name) / "world", "counts", Path(name) / "counted"))
    publish({"benchmark": "counts", "runs": runs, **hardware()}, args.out)


if __name__ == "__main__":
    main()
