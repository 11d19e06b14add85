"""Does World 2 look like public logs, and what can a ranker gain in it?

Simulates the world of several seeds in memory and prints one JSON line: rates of actions, the shares of their variance
that belong to the video and to the user, behaviour by answer as in Figure 3 of the paper (arXiv 2601.20215), plays of
the same video or user by distance in time, and the NDCG@5 of rankers that know the truth. Raw logs of KuaiRand and
MovieLens are measured by the same functions.

    python -m benchmarks.world_shares [--version 2] [--seeds 5] [--out FILE.json]
        [--kuairand log_standard_4_22_to_5_08_pure.csv] [--movielens u.data]
    python -m benchmarks.world_shares --tables FILE.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as csv
import torch
from numpy.typing import NDArray

from benchmarks.report import hardware, publish
from easq_rec.config import World
from easq_rec.config.answer_scale import THREE_ANSWERS
from easq_rec.config.recipes import world_schema
from easq_rec.evaluation.metrics import graded_gain, ndcg
from easq_rec.evaluation.pair_shares import ImpressionPairs
from easq_rec.tools.simulation.models import Model, create_model
from easq_rec.tools.simulation.second_world import SecondWorld
from easq_rec.tools.simulation.time_line import DAY_MS, START_MS
from easq_rec.tools.simulation.truth import truth
from easq_rec.tools.simulation.world import simulate

SIZE = {"requests": 100_000, "users": 20_000}
"""Size of the measured worlds: with fewer users, a few of them decide the shares of rare actions."""
ACTIONS = ("valid_play", "long_view", "like", "follow", "comment", "forward", "hate")
AMONG = "like among valid plays"
AFTER, OTHERWISE = "like after a long view", "like otherwise"
BEHAVIOURS = ("like", "follow", "comment", "forward", "returned")
LAGS = (0, 1, 7, 10)
"""Distances in days."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a label should have, each with the tolerance of a test of one world of `SIZE`.

    Tolerances are about three standard deviations over seeds. They are wide for rare actions, whose shares a few users
    or videos decide.
    """

    rate: tuple[float, float] | None = None
    """Mean of the label."""
    item: tuple[float, float] | None = None
    """Share of its variance that belongs to the video."""
    user: tuple[float, float] | None = None
    """Share that belongs to the user."""


WANTED = {
    # MovieLens-100K.
    "satisfaction": Row(item=(0.16, 0.015), user=(0.20, 0.01)),
    # KuaiRand-Pure, standard exposures.
    "like": Row(rate=(0.017, 0.0015), item=(0.014, 0.004), user=(0.15, 0.05)),
    AMONG: Row(rate=(0.032, 0.003), item=(0.017, 0.006), user=(0.25, 0.08)),
    "hate": Row(rate=(0.0008, 0.0003), item=(0.0003, 0.0004), user=(0.11, 0.09)),
    "follow": Row(rate=(0.0013, 0.0002), item=(0.002, 0.002), user=(0.05, 0.04)),
    "comment": Row(rate=(0.0025, 0.0003), item=(0.005, 0.006), user=(0.02, 0.018)),
    "forward": Row(rate=(0.00086, 0.0002), item=(0.0009, 0.0012), user=(0.009, 0.006)),
    "long_view": Row(rate=(0.31, 0.005), item=(0.107, 0.015), user=(0.131, 0.012)),
    "valid_play": Row(rate=(0.44, 0.005), item=(0.116, 0.02), user=(0.160, 0.012)),
    AFTER: Row(rate=(0.035, 0.003)),
    OTHERWISE: Row(rate=(0.009, 0.0015)),
}
LIFTS = {"satisfied": (0.46, 0.80), "dissatisfied": (-0.83, -0.25)}
"""Figure 3 of the paper: by how much a behaviour is more frequent after an answer than among triggered impressions."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Impressions:
    """A log, flat: all arrays have one element per impression."""

    item: NDArray[Any]
    user: NDArray[Any]
    day: NDArray[np.int64]
    label: dict[str, NDArray[Any]]


Log = dict[str, NDArray[Any]]
"""Fields of all rounds of a world, [R] or [R, C]."""


def simulated(config: World) -> tuple[Model, Log]:
    """The model of a world, and its log without histories."""
    model = create_model(config)
    rounds = list(simulate(model))
    names = [field.name for field in dataclasses.fields(model.round_type) if not field.name.startswith("history")]
    return model, {name: np.concatenate([getattr(part, name) for part in rounds]) for name in names}


def impressions(model: Model, log: Log) -> Impressions:
    """The impressions of a world, with the latent satisfaction as a label."""
    width = log["video"].shape[1]
    satisfaction = model.scores(log["user_id"], log["video"], log["timestamp_ms"]).satisfy
    label = {"satisfaction": satisfaction, "grade": log["true_satisfaction"]}
    label |= {name: log[name] for name in (*ACTIONS, "returned") if name in log}
    return Impressions(
        item=log["video"].ravel(),
        user=np.repeat(log["user_id"], width),
        day=np.repeat((log["timestamp_ms"] - START_MS) // DAY_MS, width),
        label={name: values.ravel() for name, values in label.items()},
    )


def kuairand(file: Path) -> Impressions:
    """The impressions of a log of KuaiRand."""
    table = csv.read_csv(file)
    column = {name: table[name].to_numpy() for name in table.column_names}
    label = {"valid_play": column["is_click"], "long_view": column["long_view"]}
    label |= {name: column[f"is_{name}"] for name in ACTIONS if f"is_{name}" in column}
    return Impressions(item=column["video_id"], user=column["user_id"], day=column["time_ms"] // DAY_MS, label=label)


def movielens(file: Path) -> Impressions:
    """The ratings of MovieLens-100K."""
    user, item, rating, seconds = np.loadtxt(file, dtype=np.int64, unpack=True)
    return Impressions(item=item, user=user, day=seconds * 1_000 // DAY_MS, label={"satisfaction": rating})


def rows(log: Impressions) -> dict[str, dict[str, float]]:
    """Rate and shares of every label."""
    pairs = ImpressionPairs(log.item, log.user)
    found = {name: {"rate": float(value.mean())} | _shares(pairs, value) for name, value in log.label.items()}
    if "valid_play" in log.label:
        like, valid, long = log.label["like"], log.label["valid_play"] == 1, log.label["long_view"] == 1
        among = ImpressionPairs(log.item[valid], log.user[valid])
        found[AMONG] = {"rate": float(like[valid].mean())} | _shares(among, like[valid])
        found[AFTER], found[OTHERWISE] = ({"rate": float(like[which].mean())} for which in (long, ~long))
    return found


def _shares(pairs: ImpressionPairs, label: NDArray[Any]) -> dict[str, float]:
    found = pairs.shares(label)
    return {"item": found.item, "user": found.user}


def by_distance(log: Impressions, name: str) -> dict[str, dict[str, float]]:
    """Correlation of a label of two impressions of the same video, or of the same user, by their distance in days.

    At distance 0 an impression is not paired with itself. Repeated impressions of a video by a user count.
    """
    label = log.label[name].astype(np.float64) - log.label[name].mean()
    day = log.day - log.day.min()
    days = int(day.max()) + 1
    found = {}
    for key, values in (("item", log.item), ("user", log.user)):
        index = np.unique(values, return_inverse=True)[1]
        size = (int(index.max()) + 1, days)
        cell = index * days + day
        total, count = (
            np.bincount(cell, weights=weights, minlength=size[0] * days).reshape(size)
            for weights in (label, np.ones(len(label)))
        )
        itself = {"product": float((label * label).sum()), "count": float(len(label))}
        shares = {}
        for lag in LAGS:
            later, earlier = slice(lag, None), slice(None, days - lag)
            product = (total[:, later] * total[:, earlier]).sum() - (itself["product"] if lag == 0 else 0)
            pairs = (count[:, later] * count[:, earlier]).sum() - (itself["count"] if lag == 0 else 0)
            shares[str(lag)] = float(product / pairs / (label * label).mean())
        found[key] = shares
    return found


def lifts(log: Log) -> dict[str, dict[str, float]]:
    """How much more frequent each behaviour is after an answer than among triggered impressions, minus 1.

    The log must have an answer to every triggered impression.
    """
    codes = {"satisfied": THREE_ANSWERS.satisfied_codes, "dissatisfied": THREE_ANSWERS.dissatisfied_codes}
    answered = log["answer"] >= THREE_ANSWERS.first
    return {
        name: {
            answer: float(log[name][np.isin(log["answer"], code)].mean() / log[name][answered].mean() - 1)
            for answer, code in codes.items()
        }
        for name in BEHAVIOURS
    }


def rankers(model: Model, log: Log) -> dict[str, dict[str, float]]:
    """NDCG@5, on satisfaction and on expected utility, of rankers that know the truth and of a random one."""
    users, videos, timestamp_ms = log["user_id"], log["video"], log["timestamp_ms"]
    schema = world_schema(users=1, videos=1, dim=4, version=model.config.version)
    known = truth(model, users, videos, timestamp_ms, {one.name: one.weight for one in schema.outcomes})
    scores = {"oracle, satisfaction": known.satisfaction, "oracle, utility": known.utility}
    if isinstance(model, SecondWorld):
        parts = model.effects.parts(model.taste_scale, users, videos, timestamp_ms)
        predictable = dataclasses.replace(model.weights, pair=0.0)
        scores["satisfaction without the pair's effect"] = predictable.satisfaction(parts)
        scores["the video's part of satisfaction"] = parts.item
        scores["taste"] = parts.taste
    scores["random"] = np.random.default_rng(0).random(videos.shape)
    lengths_R = torch.full((len(users),), videos.shape[1])
    gains = {
        "satisfaction": graded_gain(torch.from_numpy(log["true_satisfaction"].ravel())),
        "utility": torch.from_numpy(known.utility.ravel()).double(),
    }
    return {
        name: {
            what: float(ndcg(torch.from_numpy(score.ravel()), gain_N, lengths_R, 5).nanmean())
            for what, gain_N in gains.items()
        }
        for name, score in scores.items()
    }


def measured(config: World) -> dict[str, Any]:
    """All figures of a world."""
    model, log = simulated(config)
    flat = impressions(model, log)
    parts = dataclasses.asdict(model.weights) if isinstance(model, SecondWorld) else {}
    engagement = np.corrcoef(flat.label["satisfaction"], log["true_engagement"].ravel())[0, 1]
    return {
        "rows": rows(flat),
        "by_distance": by_distance(flat, "valid_play" if "valid_play" in flat.label else "long_view"),
        "lifts": lifts(log),
        "rankers_ndcg5": rankers(model, log),
        "satisfaction_weights": parts,
        "correlation_of_satisfaction_and_long_view_probability": float(engagement),
    }


def summary(values: list[Any]) -> Any:
    """Nested figures of several worlds as [mean, standard deviation]."""
    if isinstance(values[0], dict):
        return {name: summary([value[name] for value in values]) for name in values[0]}
    return [float(f"{figure(values):.4g}") for figure in (np.mean, np.std)]


def tables(result: dict[str, Any]) -> dict[str, str]:
    """The Markdown tables of `datasets/world/README.md`, from the published result."""
    wanted, found, logs = result["wanted"], result["measured"], result["logs"]
    kinds = ("rate", "item", "user")
    calibration, real = [], []
    for name, row in wanted.items():
        log = logs["movielens" if name == "satisfaction" else "kuairand"]["rows"][name]
        calibrated = [name]
        for kind in kinds:
            mean, deviation = found["rows"][name].get(kind, (0.0, 0.0))
            there = row[kind] is not None
            measured = f"{_number(mean, 3)} ± {_number(deviation, 1)}"
            calibrated += [_number(row[kind][0], 3), measured] if there else ["", ""]
        calibration.append(calibrated)
        real.append([name, *(_number(log[kind][0], 3) if row[kind] is not None else "" for kind in kinds)])
    heads = [f"{what}, {which}" for what in ("rate", "video", "user") for which in ("wanted", "World 2")]
    return {
        "calibration": _markdown(["label", *heads], calibration),
        "logs": _markdown(["label", "rate", "share of the video", "share of the user"], real),
        "lifts": _markdown(
            ["action", *LIFTS],
            [
                [name, *(f"{100 * found['lifts'][name][answer][0]:+.0f}%" for answer in LIFTS)]
                for name in found["lifts"]
            ],
        ),
        "rankers": _markdown(
            ["ranked by", "satisfaction NDCG@5", "utility NDCG@5"],
            [
                [name, *(f"{values[what][0]:.3f}" for what in ("satisfaction", "utility"))]
                for name, values in found["rankers_ndcg5"].items()
            ],
        ),
    }


def _number(value: float, digits: int) -> str:
    """A number with this many significant digits, without an exponent."""
    return np.format_float_positional(value, precision=digits, fractional=False, trim="-")


def _markdown(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--kuairand", type=Path)
    parser.add_argument("--movielens", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tables", type=Path, metavar="FILE.json", help="only print the tables of a published result")
    args = parser.parse_args()
    if args.tables is not None:
        print("\n\n".join(tables(json.loads(args.tables.read_text())).values()))
        return
    worlds = [World(version=args.version, density=10_000.0, seed=seed, **SIZE) for seed in range(args.seeds)]
    logs = {}
    if args.kuairand is not None:
        log = kuairand(args.kuairand)
        logs["kuairand"] = {"rows": rows(log), "by_distance": by_distance(log, "valid_play")}
    if args.movielens is not None:
        logs["movielens"] = {"rows": rows(movielens(args.movielens))}
    publish(
        {
            "benchmark": "world_shares",
            "version": args.version,
            **SIZE,
            "seeds": args.seeds,
            "wanted": {name: dataclasses.asdict(row) for name, row in WANTED.items()},
            "measured": summary([measured(config) for config in worlds]),
            "logs": {name: summary([log]) for name, log in logs.items()},
            **hardware(),
        },
        args.out,
    )


if __name__ == "__main__":
    main()
