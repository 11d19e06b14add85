"""Rankers that only count: the popularity of the video, and naive Bayes.

Both are built on the smoothed rate of a key, (positives + strength * base) / (impressions + strength), where base is
the rate over all training impressions.

Shape suffixes:
    N  impressions
    K  distinct keys of the training impressions, ascending
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.rankers.impressions import USER_COUNTS, Floats, Impressions, Ints

Settings = dict[str, Any]
Scorer = Callable[[Impressions], Floats]

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Impressions that the base rate counts as, of which one is chosen."""
WEIGHTS = (0.05, 0.1, 0.2, 0.4)
"""Weights of the counts of a file, of which one is chosen, or none of the counts at all."""
BUCKETS = 20
"""Duration buckets of equal numbers of training impressions, and one more for an unknown duration."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Counts:
    """Impressions and positives of every key."""

    key_K: Ints
    positives_K: Floats
    impressions_K: Floats
    base: float
    """Rate over all impressions."""

    @staticmethod
    def of(key_N: Ints, label_N: NDArray[np.bool_]) -> Counts:
        key_K, place_N = np.unique(key_N, return_inverse=True)
        return Counts(
            key_K=key_K,
            positives_K=np.bincount(place_N, label_N, minlength=len(key_K)).astype(np.float64),
            impressions_K=np.bincount(place_N, minlength=len(key_K)).astype(np.float64),
            base=float(label_N.mean()),
        )

    def look_up(self, key_N: Ints) -> tuple[Floats, Floats]:
        """(positives, impressions) of keys; zeros for a key that training does not know."""
        place_N = np.minimum(np.searchsorted(self.key_K, key_N), len(self.key_K) - 1)
        known_N = self.key_K[place_N] == key_N
        return np.where(known_N, self.positives_K[place_N], 0.0), np.where(known_N, self.impressions_K[place_N], 0.0)

    def rate(self, key_N: Ints, strength: float) -> Floats:
        """Smoothed rate of keys; the base rate for a key that training does not know."""
        positives_N, impressions_N = self.look_up(key_N)
        rate_N: Floats = (positives_N + strength * self.base) / (impressions_N + strength)
        return rate_N


@dataclass(frozen=True, kw_only=True, eq=False)
class DurationBuckets:
    """Buckets of the duration of a video."""

    edges: Floats

    @staticmethod
    def of(rows: Impressions) -> DurationBuckets:
        duration_N = rows.numbers["duration_ms"]
        known_N = duration_N[np.isfinite(duration_N)]
        inner = np.linspace(0, 1, BUCKETS + 1)[1:-1]
        return DurationBuckets(edges=np.unique(np.quantile(known_N, inner)) if len(known_N) else np.zeros(0))

    def bucket(self, rows: Impressions) -> Ints:
        """0: unknown; else 1 + the number of edges at or below the duration."""
        duration_N = rows.numbers["duration_ms"]
        place_N = 1 + np.searchsorted(self.edges, np.nan_to_num(duration_N), side="right")
        return np.where(np.isfinite(duration_N), place_N, 0)


class Popularity:
    """The smoothed rate of the video."""

    probability = True

    def tries(self, train: Impressions, valid: Impressions) -> Iterator[tuple[Settings, Floats]]:
        for strength in STRENGTHS:
            settings = {"strength": strength}
            yield settings, self.fit(train, settings, seed=0)(valid)

    def fit(self, train: Impressions, settings: Settings, seed: int) -> Scorer:
        counts = Counts.of(train.ids["video_id"], train.labels)
        return lambda rows: counts.rate(rows.ids["video_id"], settings["strength"])


class NaiveBayes:
    """Log odds of the base rate, plus the evidence of video, user, tab and duration bucket.

    The evidence of a key is the log odds of its smoothed rate minus those of the base rate. With one strength for all
    keys of a kind this is naive Bayes with a beta prior.

    Each count of the file (`easq-rec data counts`) adds its evidence in the same way, with its own prior as the base
    rate: the log odds of (happened + strength * prior) / (shown + strength) minus those of the prior. A count by user
    has the strength of the user, any other count that of the video. Counts share evidence with each other and with the
    four keys, since an impression is in those by video, by author and by tag. So the sum over the counts has one weight
    below 1.
    """

    probability = True

    def tries(self, train: Impressions, valid: Impressions) -> Iterator[tuple[Settings, Floats]]:
        for video, user in itertools.product(STRENGTHS, STRENGTHS):
            settings = {"video": video, "user": user, "tab": 10.0, "duration": 10.0}
            yield settings, self.fit(train, settings, seed=0)(valid)
            for weight in WEIGHTS if valid.counts else ():
                counted = settings | {"counts": weight}
                yield counted, self.fit(train, counted, seed=0)(valid)

    def fit(self, train: Impressions, settings: Settings, seed: int) -> Scorer:
        weight = settings.get("counts", 0.0)
        buckets = DurationBuckets.of(train)

        def keys(rows: Impressions) -> dict[str, Ints]:
            ids = rows.ids
            return {
                "video": ids["video_id"],
                "user": ids["user_id"],
                "tab": ids["tab"],
                "duration": buckets.bucket(rows),
            }

        counts = {name: Counts.of(key_N, train.labels) for name, key_N in keys(train).items()}
        base = log_odds(float(train.labels.mean()))

        def score(rows: Impressions) -> Floats:
            evidence = (log_odds(counts[name].rate(key_N, settings[name])) - base for name, key_N in keys(rows).items())
            odds_N = base + sum(evidence)
            if weight:
                odds_N = odds_N + weight * counted_evidence(rows, settings)
            result_N: Floats = 1 / (1 + np.exp(-odds_N))
            return result_N

        return score


def counted_evidence(rows: Impressions, settings: Settings) -> Floats:
    """(N,): sum over the counts of the file of the log odds of the smoothed rate minus those of the prior.

    Args:
        settings: `user`, the strength of counts by user, and `video`, that of all others.
    """
    total_N: Floats = np.zeros(len(rows))
    for name, count in rows.counts.items():
        shown_N, happened_N, prior_N = (part_N.astype(np.float64) for part_N in count)
        strength = settings["user" if name in USER_COUNTS else "video"]
        total_N += log_odds((happened_N + strength * prior_N) / (shown_N + strength)) - log_odds(prior_N)
    return total_N


def log_odds(rate: Any) -> Any:
    return np.log(rate) - np.log1p(-rate)
