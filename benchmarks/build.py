"""How fast does `easq-rec data build` turn raw tables into requests, and in how much memory?

    python -m benchmarks.build [--impressions 2000000 20000000] [--processes 1 8] [--engine local spark catalog]
        [--folder DIR] [--out FILE [--add]]

The log is generated first, untimed, and all files are removed at the end. The engine `local` builds it once for each
number of processes, `spark` once, with `local[THREADS]`. `catalog` is `spark` with all four tables in a Hive metastore,
over the same Parquet files. All builds of a log must have the same files, byte for byte.

CPU time is that of the command and all of its descendants (`process_tree.py`): with Spark, the JVM and the workers in
Python. That of a session's start is measured by itself, just before: a process imports the builder, and opens and
closes a session as a build does, with the metastore if it needs one. What this takes beyond the imports is
`session_cpu_s`, and not part of `cpu_s` and `impressions_per_cpu_second`, the rate per core. `wall_s` includes it.

Two peaks of memory: `peak_mib` is the largest sum of the proportional set sizes of all processes, sampled five times a
second; `peak_process_mib` is the largest VmHWM of a process of the command, which is exact, and has no JVM or workers.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks import process_tree
from benchmarks.rawlog import write_log
from benchmarks.report import hardware, publish

BUILD = """
import json, sys
from easq_rec.cli.main import main
code = main(sys.argv[2:])
status = dict(line.split(":") for line in open("/proc/self/status"))
with open(sys.argv[1], "w") as file:
    json.dump({"peak_kb": int(status["VmHWM"].split()[0])}, file)
sys.exit(code)
"""
SESSION = """
import dataclasses, json, resource, sys
from pathlib import Path
from easq_rec.cli.main import main
from easq_rec.tools.builder import command, spark
from easq_rec.tools.builder.parse import load
build = load(Path(sys.argv[2]))
build = dataclasses.replace(build, engine=dataclasses.replace(build.engine, threads=int(sys.argv[3])))
used = resource.getrusage(resource.RUSAGE_SELF)
with spark._session(build) as session:
    if build.impressions.table is not None:
        session.sql("SHOW TABLES").collect()
with open(sys.argv[1], "w") as file:
    json.dump({"imports_cpu_s": used.ru_utime + used.ru_stime}, file)
"""

DEFAULTS = """
spark.sql.warehouse.dir {folder}/warehouse
spark.hadoop.javax.jdo.option.ConnectionURL jdbc:derby:;databaseName={folder}/metastore;create=true
spark.driver.extraJavaOptions -Dderby.system.home={folder}
"""
"""Spark's configuration for `catalog`."""
CREATE = """
import sys
from pathlib import Path
from easq_rec.tools.builder import spark
from easq_rec.tools.builder.parse import load
raw = Path(sys.argv[2])
with spark._session(load(Path(sys.argv[1]))) as session:
    for name, source in load(raw / "logs.toml").sources.items():
        session.sql(f"CREATE TABLE {name} USING parquet LOCATION '{raw / source.path}'")
"""


def create_tables(raw: Path, folder: Path) -> tuple[Path, dict[str, str]]:
    """Creates a Hive metastore with tables over the raw files; returns a config of these tables, and the environment in
    which Spark finds them."""
    folder.mkdir()
    (folder / "spark-defaults.conf").write_text(DEFAULTS.format(folder=folder))
    text = re.sub(r'path = "(\w+)(\.parquet)?"', r'table = "default.\1"', (raw / "logs.toml").read_text())
    config, env = folder / "tables.toml", {"SPARK_CONF_DIR": str(folder)}
    config.write_text(text)
    process_tree.run([[sys.executable, "-c", CREATE, str(config), str(raw)]], env)
    return config, env


def measure(folder: Path, threads: int, *, engine: str, processes: int = 1) -> tuple[dict[str, object], Path]:
    """Builds the log in `folder/raw` by so many processes; returns the figures and the output."""
    config, env = folder / "raw" / "logs.toml", dict[str, str]()
    if engine == "catalog":
        config, env = create_tables(folder / "raw", folder / "catalog")
    out = folder / f"{engine}{processes}"
    usage = [folder / f"usage{number}.json" for number in range(processes)]
    options = ["--config", str(config), "--out", str(out), "--threads", str(threads)]
    options += ["--engine", "local" if engine == "local" else "spark"]
    options += ["--shared"] if processes > 1 else []
    session_s = 0.0 if engine == "local" else session_cpu_s(config, folder, threads, env)
    used = process_tree.run(
        [[sys.executable, "-c", BUILD, str(file), "data", "build", *options] for file in usage], env
    )
    built = json.loads((out / "build.json").read_text())
    counts, resources = built["counts"], built["engine"]
    read, cpu_s = counts["impressions.read"], used.cpu_s - session_s
    found = {
        "impressions": read,
        "engine": engine,
        "processes": processes,
        "requests": counts["requests.kept"],
        "history_entries": counts["history.entries"],
        "impressions_per_second": round(read / used.wall_s),
        "impressions_per_cpu_second": round(read / cpu_s),
        "wall_s": round(used.wall_s, 1),
        "cpu_s": round(cpu_s, 1),
        "session_cpu_s": round(session_s, 1),
        "peak_mib": round(used.peak_mib),
        "peak_process_mib": round(max(json.loads(file.read_text())["peak_kb"] for file in usage) / 1_024),
        "raw_mib": size_mib(folder / "raw"),
        "dataset_mib": size_mib(out),
        "engine_threads": resources["threads"],
        "engine_memory_mb": resources["memory_mb"],
    }
    return found, out


def session_cpu_s(config: Path, folder: Path, threads: int, env: Mapping[str, str]) -> float:
    """CPU seconds of opening and closing a session without any job."""
    usage = folder / "session.json"
    used = process_tree.run([[sys.executable, "-c", SESSION, str(usage), str(config), str(threads)]], env)
    return used.cpu_s - float(json.loads(usage.read_text())["imports_cpu_s"])


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
    parser.add_argument("--engine", choices=["local", "spark", "catalog"], nargs="+", default=["local"])
    parser.add_argument("--processes", type=int, nargs="+", default=[1], help="that share a local build; one for each")
    parser.add_argument("--folder", type=Path, help="directory of the log and the output, which are removed")
    parser.add_argument("--threads", type=int, default=2, help="threads of each process, or cores of Spark")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--add", action="store_true", help="keep the runs that the file of --out has")
    args = parser.parse_args()
    ways = [("local", count) for count in args.processes if "local" in args.engine]
    ways += [(engine, 1) for engine in args.engine if engine != "local"]
    runs = json.loads(args.out.read_text())["runs"] if args.add else []
    for impressions in args.impressions:
        folder = Path(tempfile.mkdtemp(prefix="easq-build-", dir=args.folder))
        try:
            write_log(folder / "raw", impressions)
            first = None
            for engine, processes in ways:
                run, out = measure(folder, args.threads, engine=engine, processes=processes)
                print(json.dumps(run), file=sys.stderr, flush=True)
                runs.append(run)
                if first is None:
                    first = out
                else:
                    assert_same(first, out)
                    shutil.rmtree(out)
        finally:
            shutil.rmtree(folder)
    names = ["duckdb", "pyarrow", "numpy"] + (["pyspark", "pandas"] if args.engine != ["local"] else [])
    versions = {name: importlib.metadata.version(name) for name in names}
    publish({"benchmark": "build", "runs": runs, **versions, **hardware()}, args.out)


if __name__ == "__main__":
    main()
