"""How fast does `easq-rec data build` turn raw tables into requests, and in how much memory?

    python -m benchmarks.build [--impressions 2000000 20000000] [--processes 1 8] [--folder DIR] [--out FILE]

The log is generated first, untimed, and all files are removed at the end. Builds run in separate processes; CPU time
and peak memory (VmHWM) are those of the kernel. `impressions_per_cpu_second` is the rate per core. With several
processes, CPU times are added up, and the files must have the same bytes as those of the first build.
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


def measure(config: Path, folder: Path, arguments: list[str], processes: int) -> tuple[dict[str, object], Path]:
    """Builds the log by so many processes; returns the figures and the output."""
    out = folder / f"out{processes}"
    usage = [folder / f"usage{number}.json" for number in range(processes)]
    command = ["data", "build", "--config", str(config), "--out", str(out), *arguments]
    command += ["--shared"] if processes > 1 else []
    begin = time.perf_counter()
    running = [
        subprocess.Popen([sys.executable, "-c", BUILD, str(file), *command], stdout=sys.stderr) for file in usage
    ]
    codes = [process.wait() for process in running]
    assert not any(codes), codes
    wall = time.perf_counter() - begin
    used, built = [json.loads(file.read_text()) for file in usage], json.loads((out / "build.json").read_text())
    counts, engine = built["counts"], built["engine"]
    read, cpu = counts["impressions.read"], sum(one["cpu_s"] for one in used)
    found = {
        "impressions": read,
        "processes": processes,
        "requests": counts["requests.kept"],
        "history_entries": counts["history.entries"],
        "impressions_per_second": round(read / wall),
        "impressions_per_cpu_second": round(read / cpu),
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "peak_rss_mib": round(max(one["peak_kb"] for one in used) / 1_024),
        "raw_mib": size_mib(config.parent),
        "dataset_mib": size_mib(out),
        "engine_threads": engine["threads"],
        "engine_memory_mb": engine["memory_mb"],
    }
    return found, out


def assert_same(one: Path, other: Path) -> None:
    """Both have the same Parquet files."""
    names = {folder: sorted(str(f.relative_to(folder)) for f in folder.rglob("*.parquet")) for folder in (one, other)}
    assert names[one] == names[other]
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in names[one])


def size_mib(folder: Path) -> int:
    return round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, nargs="+", default=[20_000_000])
    parser.add_argument("--processes", type=int, nargs="+", default=[1], help="that share a build; one build for each")
    parser.add_argument("--folder", type=Path, help="directory of the log and the output, which are removed")
    parser.add_argument("--threads", type=int, default=2, help="threads of the build")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    runs = []
    for impressions in args.impressions:
        folder = Path(tempfile.mkdtemp(prefix="easq-build-", dir=args.folder))
        try:
            config = write_log(folder / "raw", impressions)
            outputs: list[Path] = []
            for processes in args.processes:
                run, out = measure(config, folder, ["--threads", str(args.threads)], processes)
                runs.append(run)
                outputs.append(out)
                assert_same(outputs[0], out)
        finally:
            shutil.rmtree(folder)
    versions = {name: importlib.metadata.version(name) for name in ("duckdb", "pyarrow", "numpy")}
    publish({"benchmark": "build", "runs": runs, **versions, **hardware()}, args.out)


if __name__ == "__main__":
    main()
