"""Users and videos of World 2: what they have in addition to `Latents`.

Shapes: U users, V videos, A authors, K topics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from easq_rec.config import World
from easq_rec.data import exact
from easq_rec.tools.simulation.latents import AGE_GROUPS, INTEREST_SHARE, TOPICS, Float, Int, Latents

OWN_ACTIONS = ("like", "follow", "comment", "forward", "hate", "returned")
"""Actions with a propensity of the user and an appeal of the video, in the order of the draws."""
APART = "hate"
"""The action that has nothing in common with the others: in KuaiRand-Pure hates and likes are not correlated."""
COMMON_USER, COMMON_ITEM = 0.45, 0.5
"""Correlations of a propensity, or an appeal, with what it has in common with the other actions. In KuaiRand-Pure likes
and follows correlate by 0.34 over users and 0.29 over videos, likes and forwards by 0.18 and 0.37."""
BY_AUTHOR, BY_AGE = 0.6, 0.4
"""Correlations of a video's appeal with that of its author, and of a user's level with that of the age group."""
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53)


@dataclass(frozen=True, kw_only=True, eq=False)
class Changing:
    """Effects of videos that change over time: a constant part and two parts that take turns."""

    constant: Float
    """[V] standard normal, as are the other two."""
    cosine: Float
    sine: Float


@dataclass(frozen=True, kw_only=True, eq=False)
class Traits:
    """Traits of users and videos, each standard normal."""

    level: Float
    """[U] how easily a user is satisfied."""
    activeness: Float
    """[U] how readily a user watches."""
    readiness: Float
    """[U] how readily a user answers."""
    propensity: dict[str, Float]
    """[U] how readily a user takes each of `OWN_ACTIONS`."""
    satisfaction: Changing
    """What a video gives to everybody."""
    attraction: Changing
    """How readily a video is watched."""
    appeal: dict[str, Float]
    """[V] how readily a video gets each of `OWN_ACTIONS`."""
    alternates: tuple[Int, Int]
    """[U] two other users, whose tastes a user takes in turns."""
    topic_share: Float
    """[K] share of each topic in what the logging policy shows to everybody."""
    interest_share: Float
    """[U, K] share of each topic in what the logging policy shows to a user."""


def draw_traits(config: World, latents: Latents) -> Traits:
    """Draws the traits. Deterministic in `seed`, `users`, `videos` and `clickbait_satisfaction`.

    Propensities of rare actions decide a log's rates by a few very active users, and appeals by a few popular videos.
    Independent draws would give every seed another rate and another share. So these traits are spread evenly over the
    normal distribution, in the order of activity and of popularity: the most active users have typical propensities.
    """
    rng = np.random.default_rng([config.seed, 7])
    # The first element of a sequence, the most active user or most popular video, gets a middle value.
    shifts = iter(0.25 + 0.5 * rng.random(64))
    user_primes, video_primes = iter(PRIMES), iter(PRIMES)

    by_activity = rank_of(-latents.activity)
    by_popularity = rank_of(-latents.popularity)
    authors = int(latents.author.max()) + 1
    fame = np.bincount(latents.author, weights=latents.popularity, minlength=authors)
    by_fame = rank_of(-fame)

    def users() -> Float:
        return even_normal(by_activity, next(user_primes), next(shifts))

    def videos() -> Float:
        prime = next(video_primes)
        author = even_normal(by_fame, prime, next(shifts))[latents.author]
        return _mixed(author, even_normal(by_popularity, prime, next(shifts)), BY_AUTHOR)

    def normal(*shape: int) -> Float:
        return exact.normal(rng, *shape).astype(np.float32)

    age = normal(AGE_GROUPS)
    age = (age - age.mean()) / max(float(age.std()), 1e-6)
    level = _mixed(age[latents.age_group], users(), BY_AGE)
    activeness, readiness, expressive = users(), users(), users()
    propensity = {name: _mixed(expressive, users(), COMMON_USER) for name in OWN_ACTIONS if name != APART}
    propensity[APART] = users()

    common = videos()
    appeal = {name: _mixed(common, videos(), COMMON_ITEM) for name in OWN_ACTIONS if name != APART}
    appeal[APART] = videos()
    attraction = Changing(constant=_mixed(common, videos(), COMMON_ITEM), cosine=videos(), sine=videos())
    quality = _mixed(latents.clickbait, latents.quality, config.clickbait_satisfaction)
    satisfaction = Changing(constant=quality, cosine=videos(), sine=videos())
    everybody = np.bincount(latents.primary, weights=latents.popularity, minlength=TOPICS)
    own = np.zeros((config.users, TOPICS))
    np.put_along_axis(own, latents.topics, np.diff(latents.topic_cdf, axis=1, prepend=0.0), axis=1)
    return Traits(
        level=level,
        activeness=activeness,
        readiness=readiness,
        propensity=propensity,
        satisfaction=satisfaction,
        attraction=attraction,
        appeal=appeal,
        alternates=(rng.permutation(config.users), rng.permutation(config.users)),
        topic_share=everybody.astype(np.float32),
        interest_share=(INTEREST_SHARE * own + (1 - INTEREST_SHARE) * everybody).astype(np.float32),
    )


def even_normal(rank: Int, prime: int, shift: float) -> Float:
    """Standard normal values that are evenly spread in every range of ranks: the quantiles of `even_uniform`."""
    uniform = even_uniform(rank, prime, shift)
    return exact.normal_quantile(np.clip(uniform, exact.SMALLEST_UNIFORM, 1 - 2**-53)).astype(np.float32)


def even_uniform(rank: Int, prime: int, shift: float) -> NDArray[np.float64]:
    """Values in [0, 1) that are evenly spread in every range of ranks.

    They are a Kronecker sequence: rank times the root of a prime, modulo 1.

    Args:
        rank: [X] the position of each element, 0 for the first.
        prime: sequences of different primes do not depend on each other.
        shift: in [0, 1), what distinguishes two seeds.
    """
    return np.asarray(np.mod(rank * np.sqrt(float(prime)) + shift, 1.0))


def rank_of(values: NDArray[Any]) -> Int:
    """[X] position of each value in ascending order."""
    rank = np.empty(len(values), dtype=np.int64)
    rank[np.argsort(values, kind="stable")] = np.arange(len(values))
    return rank


def _mixed(one: Float, other: Float, correlation: float) -> Float:
    """A mean of two standard normal arrays, of variance 1, that has this correlation with the first."""
    weight = np.float32(correlation)
    return weight * one + np.sqrt(1 - weight * weight) * other
