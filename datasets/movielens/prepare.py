"""Turns MovieLens (100K, 1M, 20M, 25M or 32M) into the two datasets of easq-rec (`requests/` and `answers/`).

    python datasets/movielens/prepare.py --raw ml-100k --out movielens

A rating event has two meanings: the user watched the film (behaviour, always logged), and the user's opinion
(satisfaction, of which only a small seeded share is revealed, as by a questionnaire). The model never reads a rating
that is not revealed: it is stored as `true_satisfaction`, only for evaluation. Each candidate gets the counts of the
answers before its request, which only the satisfaction tower reads. `README.md` documents the mapping.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from movielens_clock import on_user_clock
from movielens_files import Films, People, Ratings, find_release, read
from movielens_requests import Requests, build, only_answered, to_table

from easq_rec.config.counts import with_usual_answer_counts
from easq_rec.config.recipes import movielens_schema
from easq_rec.data.writer import PartWriter, check_unused, published
from easq_rec.errors import UserError
from easq_rec.tools.counts.command import add_counts

SHA256 = {
    "u.data": (1_979_173, "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"),
    "u.item": (236_344, "553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701"),
    "u.user": (22_628, "f120e114da2e8cf314fd28f99417c94ae9ddf1cb6db8ce0e4b5995d40e90e62c"),
}
"""File of 100K: (bytes, sum) of the public release."""
FILE_ROW_GROUPS = 256


def checksum_warnings(raw: Path) -> list[str]:
    """One line per file that has the size of the public release but not its contents."""
    result = []
    for name, (size, expected) in SHA256.items():
        path = raw / name
        if path.stat().st_size == size:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            if found != expected:
                result.append(f"{path}: SHA-256 is {found}, not {expected} as in the public MovieLens-100K")
    return result


def prepare(
    raw: Path,
    out: Path,
    *,
    answer_rate: float,
    seed: int,
    candidates: int,
    watched: int,
    history: int,
    clock: Literal["log", "user"] = "log",
    answer_counts: bool = True,
) -> str:
    """Writes `out/requests` and `out/answers` atomically, and returns a summary.

    Args:
        answer_counts: add the counts of answers that recipe `movielens` reads, and write `out/counts`.
    """
    limits: tuple[tuple[str, float, bool, str], ...] = (
        ("answer-rate", answer_rate, 0 <= answer_rate <= 1, "between 0 and 1"),
        ("seed", seed, seed >= 0, "0 or more"),
        ("watched", watched, watched >= 1, "at least 1"),
        ("candidates", candidates, candidates > watched, f"more than --watched {watched}"),
        ("history", history, history >= 1, "at least 1"),
    )
    for name, value, allowed, expected in limits:
        if not allowed:
            raise UserError(f"--{name} {value}: expected {expected}")
    check_unused(out)
    release = find_release(raw)
    for warning in checksum_warnings(raw) if release.name == "100K" else ():
        print(f"warning: {warning}", file=sys.stderr)
    ratings, people, films = read(raw, release)
    if clock == "user":
        ratings = on_user_clock(ratings)
    parts = build(
        ratings, films, answer_rate=answer_rate, seed=seed, candidates=candidates, watched=watched, history=history
    )
    if not answer_counts:
        with published(out) as folder:
            return f"{out}: {write(folder, parts, ratings, people, films)}"
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as plain:
        summary = write(Path(plain), parts, ratings, people, films)
        counted = add_counts(plain, out, with_usual_answer_counts(movielens_schema()))
    return f"{out}: {summary}\n{counted}"


def write(folder: Path, parts: Iterable[Requests], ratings: Ratings, people: People, films: Films) -> str:
    """Writes both datasets to a folder, and returns their numbers in words."""
    requests, answered = (
        PartWriter(folder / name, part_row_groups=FILE_ROW_GROUPS) for name in ("requests", "answers")
    )
    offered = answers = 0
    for part in parts:
        requests.write(to_table(part, ratings, people, films, answers=False))
        answered.write(to_table(only_answered(part), ratings, people, films, answers=True))
        offered += len(part.film)
        answers += int((part.answered_at_ms > 0).sum())
    requests.close()
    answered.close()
    return (
        f"{requests.rows} requests with {offered} candidates, {len(ratings.user)} of them watched; "
        f"{answers} answers in {answered.rows} requests"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Turns MovieLens into the datasets requests/ and answers/ of easq-rec.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--raw", type=Path, required=True, help="directory with the unpacked files of one release")
    parser.add_argument("--out", type=Path, required=True, help="directory to write; must not exist or be empty")
    parser.add_argument("--answer-rate", type=float, default=0.05, help="share of ratings revealed as answers")
    parser.add_argument("--seed", type=int, default=0, help="seed of the answers, the unwatched films and their order")
    parser.add_argument("--candidates", type=int, default=12, help="films per request")
    parser.add_argument("--watched", type=int, default=4, help="maximum number of watched films per request")
    parser.add_argument("--history", type=int, default=50, help="maximum length of a written history, in films")
    parser.add_argument(
        "--clock",
        choices=("log", "user"),
        default="log",
        help="log: the times of the log. user: how far each user has come in their own history, so that training "
        "holds out the last part of every history",
    )
    parser.add_argument(
        "--answer-counts",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="add the counts of earlier answers that recipe movielens reads",
    )
    options = parser.parse_args(arguments)
    try:
        print(prepare(**vars(options)))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
