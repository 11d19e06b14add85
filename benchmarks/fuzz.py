"""Does `easq-rec data build` read random raw tables rightly, and damaged ones at least not wrongly?

    python -m benchmarks.fuzz [--trials 200] [--damaged 20] [--seed 0] [--seconds 600] [--jobs 2] [--add] [--out FILE]

Every trial builds a random table (`benchmarks.spellings`) and compares it with a reader in plain Python
(`benchmarks.plain_reader`): rows, bad rows, bad cells that took a default, and files. Then bytes of one of its files
are changed, `--damaged` times anew, and it is built again: it must be refused with a readable error, or give what the
plain reader gives. Prints JSON. Exit code 1 if a build differed, hung or ended with a traceback; `failures` names the
seeds. `--add` goes on after the trials in the file, and adds to their counts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.plain_reader import Read, Values, read_table, visible
from benchmarks.report import hardware, publish
from benchmarks.spellings import write_table
from easq_rec.errors import UserError
from easq_rec.tools.builder.parse import parse
from easq_rec.tools.builder.publish import run

LIMIT_S = 300
"""A trial of builds of a few rows that takes longer hangs."""
WORDS = ("right", "refused", "unknown", "hung")
"""Outcomes of a build; every other text says what is wrong."""


def build(folder: Path, values: Values, out: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(counts, requests) of a build."""
    target = folder / out
    run(parse(values, "fuzz"), base=folder, out=target, progress=lambda line: None)
    rows = [row for file in sorted((target / "requests").rglob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    return json.loads((target / "build.json").read_text())["counts"], rows


def differences(counts: dict[str, Any], requests: list[dict[str, Any]], expected: Read, ids: str) -> list[str]:
    """How a build differs from what the plain reader read."""
    found: Counter[tuple[Any, ...]] = Counter()
    users: dict[Any, set[Any]] = {}
    wanted = {row[1]: row[0] for row in expected.kept}
    for row in requests:
        for one in row["candidates"]:
            user = row["user_id"]
            if ids == "text":
                # The hash of a text: one for each text.
                text = wanted.get(one["video_id"])
                users.setdefault(user, set()).add(text)
                user = text
            values = (user, one["video_id"], row["timestamp_ms"], one["watch_ms"], one["like"], one["kind"])
            found[(*values, tuple(one["tags"]))] += 1
    duplicates = counts.get("impressions.quarantined.duplicate", 0)
    lost = counts["impressions.read"] - counts["impressions.kept"] - duplicates
    defaulted = sum(count for name, count in counts.items() if name.startswith("impressions.defaulted."))
    problems = []
    if found != (Counter(expected.kept.keys()) if duplicates else expected.kept):
        problems.append(f"rows: {found - expected.kept} instead of {expected.kept - found}")
    if any(len(texts) > 1 for texts in users.values()) or len(users) != len({t for one in users.values() for t in one}):
        problems.append(f"users of texts: {users}")
    for what, mine, theirs in (
        ("bad rows", lost, expected.lost),
        ("defaults", defaulted, expected.defaulted),
        ("files", counts["impressions.files"], expected.files),
    ):
        if mine != theirs:
            problems.append(f"{what}: {mine} instead of {theirs}")
    return problems


def expected_of(folder: Path, values: Values) -> Read:
    return read_table(folder / "imp", values["impressions"], values["ids"]["user"], values["time_zone"])


def damage(rng: random.Random, file: Path) -> None:
    """Changes, inserts or deletes some bytes of a file."""
    content = bytearray(file.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 3, 20))):
        at = rng.randrange(len(content) + 1)
        letter = rng.choice((rng.randrange(256), *b'",;\n\r\x00 0'))
        match rng.choice(("change", "insert", "delete", "cut")):
            case "change" if at < len(content):
                content[at] = letter
            case "insert":
                content.insert(at, letter)
            case "delete":
                del content[at : at + rng.randrange(1, 9)]
            case "cut" if rng.random() < 0.2:
                del content[at:]
    file.write_bytes(bytes(content))


def trial(seed: int, folder: Path, damages: int = 1) -> dict[str, list[str]]:
    """Outcomes of the builds of a seed's table, valid and damaged: `right` or `refused`, else what is wrong."""
    rng = random.Random(seed)
    values = write_table(rng, folder)
    found: dict[str, list[str]] = {"valid": _valid(folder, values), "damaged": []}
    candidates = [file for file in visible(folder / "imp") if file.stat().st_size]
    for number in range(damages):
        file = rng.choice(candidates)
        healthy = file.read_bytes()
        damage(rng, file)
        found["damaged"] += [
            line if line in WORDS else f"damage {number}, {file.name}: {line}"
            for line in _damaged(folder, values, file)
        ]
        file.write_bytes(healthy)
        shutil.rmtree(folder / "damaged", ignore_errors=True)
    return found


def _valid(folder: Path, values: Values) -> list[str]:
    try:
        return differences(*build(folder, values, "valid"), expected_of(folder, values), values["ids"]["user"]) or [
            "right"
        ]
    except Exception:
        return [traceback.format_exc()]


def _damaged(folder: Path, values: Values, file: Path) -> list[str]:
    """Outcomes of a build of which one file is damaged."""
    try:
        built = build(folder, values, "damaged")
    except UserError as error:
        return ["refused"] if str(error) else ["an error without words"]
    except Exception:
        return [traceback.format_exc()]
    try:
        return differences(*built, expected_of(folder, values), values["ids"]["user"]) or ["right"]
    except Exception as error:
        # The plain reader refuses what the builder reads: a value in a footer that it does not need, for instance.
        if file.read_bytes()[:4] == b"PAR1":
            return ["unknown"]
        return [f"read, but the plain reader says {type(error).__name__}: {error}"]


def _worker(seed: int, folder: Path, damages: int, results: Any) -> None:
    results.put(trial(seed, folder, damages))


def _in_a_process(seed: int, damages: int, folder: Path | None) -> dict[str, list[str]]:
    """Outcomes of a trial in a process of its own, which may hang or die."""
    table = Path(tempfile.mkdtemp(prefix="easq-fuzz-", dir=folder))
    # A server that has the imports forks: a child of a thread of this process could not end its threads.
    context = multiprocessing.get_context("forkserver")
    results = context.SimpleQueue()
    process = context.Process(target=_worker, args=(seed, table, damages, results))
    process.start()
    process.join(LIMIT_S)
    try:
        if process.is_alive():
            process.kill()
            return {"valid": ["hung"], "damaged": ["hung"]}
        if process.exitcode:
            return {"valid": [f"exit code {process.exitcode}"], "damaged": []}
        return results.get()
    finally:
        shutil.rmtree(table, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, help="tables")
    parser.add_argument("--damaged", type=int, default=20, help="damaged files per table")
    parser.add_argument("--seed", type=int, default=0, help="of the first trial; the others follow")
    parser.add_argument("--seconds", type=float, help="start no trial after this time")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time")
    parser.add_argument("--folder", type=Path, help="directory of the tables, which are removed")
    parser.add_argument("--add", action="store_true", help="go on after the trials in FILE, and add to their counts")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    earlier = json.loads(args.out.read_text()) if args.add and args.out and args.out.exists() else {}
    if earlier and earlier["damaged_per_table"] != args.damaged:
        parser.error(f"--damaged {args.damaged}: {args.out} has {earlier['damaged_per_table']} per table")
    first = earlier.get("first_seed", args.seed)
    start = first + earlier.get("trials", 0)
    outcomes = {kind: Counter(earlier.get("outcomes", {}).get(kind, {})) for kind in ("valid", "damaged")}
    failures: dict[str, list[str]] = earlier.get("failures", {})
    begin, trials = time.perf_counter(), 0

    def run_trial(seed: int) -> dict[str, list[str]] | None:
        late = args.seconds is not None and time.perf_counter() - begin > args.seconds
        return None if late else _in_a_process(seed, args.damaged, args.folder)

    multiprocessing.set_forkserver_preload(["easq_rec.tools.builder.publish", "benchmarks.plain_reader"])
    with ThreadPoolExecutor(args.jobs) as pool:
        for seed, found in zip(
            range(start, start + args.trials), pool.map(run_trial, range(start, start + args.trials)), strict=True
        ):
            if found is None:
                break
            trials += 1
            for kind, lines in found.items():
                for line in lines:
                    word = line if line in WORDS else "wrong"
                    outcomes[kind][word] += 1
                    if word in ("wrong", "hung"):
                        failures.setdefault(str(seed), []).append(f"{kind}: {line}")
    wall = time.perf_counter() - begin + earlier.get("wall_s", 0.0)
    result = {"benchmark": "fuzz", "trials": trials + earlier.get("trials", 0), "first_seed": first}
    result |= {"damaged_per_table": args.damaged, "outcomes": outcomes, "failures": failures}
    publish(result | {"jobs": args.jobs, "wall_s": round(wall, 1), **hardware()}, args.out)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
