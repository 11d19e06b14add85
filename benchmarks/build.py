"""How fast does `easq-rec data build` turn raw tables into requests, and in how much memory?

    python -m benchmarks.build [--impressions 2000000 20000000] [--folder DIR] [--out FILE]

The log is generated first, untimed, and all files are removed at the end. The build runs in a separate process; its CPU
time and peak memory (VmHWM) are those of the kernel. `impressions_per_cpu_second` is the rate per core.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.rawlog import write_log
from benchmarks.report import hardware, publish

BUILD = """
import json, resource, sys
from easq_rec.cli.main import main
code = main(sys.argv[2:])
status = dict(line.split(":") for line in open("/proc/self/status"))
used = resource.getrusage(resource.RUSAGE_SELF)
with open(sys.argv[1], "w") as file:
    json.dump({"cpu_s": used.ru_utime + used.ru_stime, "peak_kb": int(status["VmHWM"].split()[0])}, file)
sys.exit(code)
"""


def measure(config: Path, folder: Path, arguments: list[str]) -> dict[str, object]:
    """Builds the log in a separate process."""
    out, usage = folder / "out", folder / "usage.json"
    begin = time.perf_counter()
    command = ["data", "build", "--config", str(config), "--out", str(out), *arguments]
    subprocess.run([sys.executable, "-c", BUILD, str(usage), *command], check=True, stdout=sys.stderr)
    wall = time.perf_counter() - begin
    used, built = json.loads(usage.read_text()), json.loads((out / "build.json").read_text())
    counts, engine = built["counts"], built["engine"]
    read = counts["impressions.read"]
    return {
        "impressions": read,
        "requests": counts["requests.kept"],
        "history_entries": counts["history.entries"],
        "impressions_per_second": round(read / wall),
        "impressions_per_cpu_second": round(read / used["cpu_s"]),
        "wall_s": round(wall, 1),
        "cpu_s": round(used["cpu_s"], 1),
        "peak_rss_mib": round(used["peak_kb"] / 1_024),
        "raw_mib": size_mib(config.parent),
        "dataset_mib": size_mib(out),
        "engine_threads": engine["threads"],
        "engine_memory_mb": engine["memory_mb"],
    }


def size_mib(folder: Path) -> int:
    return round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, nargs="+", default=[20_000_000])
    parser.add_argument("--folder", type=Path, help="directory of the log and the output, which are removed")
    parser.add_argument("--threads", type=int, default=2, help="threads of the build")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    runs = []
    for impressions in args.impressions:
        folder = Path(tempfile.mkdtemp(prefix="easq-build-", dir=args.folder))
        try:
            config = write_log(folder / "raw", impressions)
            runs.append(measure(config, folder, ["--threads", str(args.threads)]))
        finally:
            shutil.rmtree(folder)
    versions = {name: importlib.metadata.version(name) for name in ("duckdb", "pyarrow", "numpy")}
    publish({"benchmark": "build", "runs": runs, **versions, **hardware()}, args.out)


if __name__ == "__main__":
    main()
