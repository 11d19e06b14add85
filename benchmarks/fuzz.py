"""Does `easq-rec data build` read random raw tables rightly, and damaged ones at least not wrongly?

    python -m benchmarks.fuzz [--trials 200] [--seed 0] [--seconds 600] [--folder DIR] [--out FILE]

Every trial builds a random table (`benchmarks.spellings`) and compares it with a reader in plain Python
(`benchmarks.plain_reader`): rows, bad rows, bad cells that took a default, and files. Then bytes of one of its files
are changed, and it is built again: it must be refused with a readable error, or give what the plain reader gives.
Prints JSON. Exit code 1 if a build differed, hung or ended with a traceback; `failures` names the seeds.
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
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.plain_reader import Read, Values, read_table, visible
from benchmarks.report import hardware, publish
from benchmarks.spellings import write_table
from easq_rec.errors import UserError
from easq_rec.tools.builder.parse import parse
from easq_rec.tools.builder.publish import run

LIMIT_S = 120
"""A build of a few rows that takes longer hangs."""


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


def trial(seed: int, folder: Path) -> dict[str, list[str]]:
    """Outcomes of the two builds of a seed: `right` or `refused`, else what is wrong."""
    rng = random.Random(seed)
    values = write_table(rng, folder)
    found: dict[str, list[str]] = {"valid": _valid(folder, values)}
    file = rng.choice([file for file in visible(folder / "imp") if file.stat().st_size])
    damage(rng, file)
    try:
        built = build(folder, values, "damaged")
    except UserError as error:
        found["damaged"] = ["refused"] if str(error) else ["an error without words"]
    except Exception:
        found["damaged"] = [f"{file.name}: {traceback.format_exc()}"]
    else:
        try:
            problems = differences(*built, expected_of(folder, values), values["ids"]["user"])
        except Exception as error:
            # The plain reader refuses what the builder reads: a value in a footer that it does not need, for instance.
            found["damaged"] = [f"{file.name}: read, but the plain reader says {type(error).__name__}: {error}"]
            if file.read_bytes()[:4] == b"PAR1":
                found["damaged"] = ["unknown"]
        else:
            found["damaged"] = [f"{file.name}: {problem}" for problem in problems] or ["right"]
    return found


def _valid(folder: Path, values: Values) -> list[str]:
    try:
        return differences(*build(folder, values, "valid"), expected_of(folder, values), values["ids"]["user"]) or [
            "right"
        ]
    except Exception:
        return [traceback.format_exc()]


def _worker(seed: int, folder: Path, results: Any) -> None:
    results.put(trial(seed, folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the first trial; the others follow")
    parser.add_argument("--seconds", type=float, help="start no trial after this time")
    parser.add_argument("--folder", type=Path, help="directory of the tables, which are removed")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    outcomes: dict[str, Counter[str]] = {"valid": Counter(), "damaged": Counter()}
    failures: dict[str, Any] = {}
    begin, trials = time.perf_counter(), 0
    context = multiprocessing.get_context("fork")
    for seed in range(args.seed, args.seed + args.trials):
        if args.seconds is not None and time.perf_counter() - begin > args.seconds:
            break
        trials += 1
        folder = Path(tempfile.mkdtemp(prefix="easq-fuzz-", dir=args.folder))
        results = context.SimpleQueue()
        process = context.Process(target=_worker, args=(seed, folder, results))
        process.start()
        process.join(LIMIT_S)
        if process.is_alive():
            process.kill()
            found = {"valid": ["hung"], "damaged": ["hung"]}
        elif process.exitcode:
            found = {"valid": [f"exit code {process.exitcode}"], "damaged": []}
        else:
            found = results.get()
        for kind, lines in found.items():
            for line in lines:
                word = line if line in ("right", "refused", "unknown", "hung") else "wrong"
                outcomes[kind][word] += 1
                if word in ("wrong", "hung"):
                    failures.setdefault(str(seed), []).append(f"{kind}: {line}")
        shutil.rmtree(folder, ignore_errors=True)
    result = {"benchmark": "fuzz", "trials": trials, "first_seed": args.seed, "outcomes": outcomes}
    result |= {"failures": failures, "wall_s": round(time.perf_counter() - begin, 1), **hardware()}
    publish(result, args.out)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
