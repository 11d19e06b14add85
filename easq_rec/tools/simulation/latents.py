"""What all synthetic worlds share: latent users and videos, and the logging policy.

Shapes: U users, V videos, A authors, K topics, R requests, C candidates per request. The formulas are in
`datasets/world/README.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from easq_rec.config import World
from easq_rec.data import exact

TOPICS = 16
TAGS_PER_TOPIC = 16
"""256 tags in total, each of one topic."""
MAX_TAGS = 3
USER_TOPICS = 3
"""Number of topics of interest per user; the other topics have small weights."""
INTEREST_SHARE = 0.6
"""Share of candidates that the logging policy draws from the user's topics; the others are globally popular."""
AGE_GROUPS, REGIONS, DEVICES = 8, 32, 8

Float = NDArray[np.float32]
Int = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Latents:
    """A sampled world. Arrays are indexed by user id, video id, or position in a sampling table."""

    seed: int
    activity: Float
    """[U] relative request rate."""
    age_group: Int
    region: Int
    device: Int
    interest: Float
    """[U, K] taste for each topic."""
    topics: Int
    """[U, USER_TOPICS] the topics of interest, strongest first."""
    topic_cdf: Float
    """[U, USER_TOPICS] cumulated weights of `topics`; the last is 1."""
    susceptibility: Float
    """[U] effect of clickbait on this user, about 1 on average."""
    author: Int
    """[V]"""
    primary: Int
    """[V] the video's main topic."""
    secondary: Int
    """[V] a second topic."""
    blend: Float
    """[V] share of the second topic in the video, often 0; the main topic has the rest."""
    tags: Int
    """[V, MAX_TAGS]; the first `tag_count` belong to the video."""
    tag_count: Int
    quality: Float
    """[V] standard normal."""
    clickbait: Float
    """[V] standard normal."""
    duration_ms: NDArray[np.int32]
    duration_z: Float
    """[V] standardised log duration."""
    popularity: NDArray[np.float64]
    """[V] popularity; sums to 1."""
    draw_cdf: NDArray[np.float64]
    """[2V] sampling table: segment t < K is in (t, t + 1] and has the videos of topic t; segment K has all videos."""
    draw_video: Int
    """[2V] the video at each position of `draw_cdf`."""
    segment: Int
    """[K] segment of each topic: the topic, or K if no video has it."""

    def requesters(self, rng: np.random.Generator, count: int) -> Int:
        """[R] distinct users who make the next `count` requests, in random order."""
        # Exponential races: the first `count` of all users, each with the rate of its activity.
        race = exact.exponential(rng, len(self.activity)) / self.activity
        return rng.permutation(np.argsort(race, kind="stable")[:count])

    def candidates(self, rng: np.random.Generator, users: Int, count: int) -> Int:
        """[R, C] distinct videos per request by the logging policy: popularity, or popularity within a topic of
        interest.

        Draws with replacement and keeps the first `count` distinct ones, which is successive sampling without
        replacement; the rare request with too many repeats is redrawn from its exact weights.
        """
        shape = (len(users), count + max(4, count // 2))
        which = rng.random(shape, dtype=np.float32)
        cdf = self.topic_cdf[users]
        # The same uniform picks the component and, rescaled, the topic within it.
        within = which / np.float32(INTEREST_SHARE)
        slot = (within > cdf[:, :1]).astype(np.int64) + (within > cdf[:, 1:2])
        topic = self.segment[np.take_along_axis(self.topics[users], slot, axis=1)]
        topic[which >= INTEREST_SHARE] = TOPICS
        drawn = self.draw_video[np.searchsorted(self.draw_cdf, topic + rng.random(shape))]

        order = np.argsort(drawn, axis=1, kind="stable")
        ordered = np.take_along_axis(drawn, order, axis=1)
        repeated = np.zeros(shape, dtype=bool)
        np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
        kept = ~repeated & (np.cumsum(~repeated, axis=1) <= count)
        enough = kept.sum(axis=1) == count
        result = np.empty((len(users), count), dtype=np.int64)
        result[enough] = drawn[enough][kept[enough]].reshape(-1, count)
        short = np.flatnonzero(~enough)
        block = max(1, 2_000_000 // len(self.popularity))
        for start in range(0, len(short), block):
            rows = short[start : start + block]
            result[rows] = self._candidates_exact(rng, users[rows], count)
        return result

    def _candidates_exact(self, rng: np.random.Generator, users: Int, count: int) -> Int:
        """[R, C] as `candidates`, by exponential races over all V videos (memory R x V)."""
        rank = np.full((len(users), TOPICS), -1)
        np.put_along_axis(rank, self.topics[users], np.arange(USER_TOPICS)[None, :], axis=1)
        share = np.diff(self.topic_cdf[users], axis=1, prepend=0.0)
        mass = np.bincount(self.primary, weights=self.popularity, minlength=TOPICS)
        # A topic without videos is drawn from all videos, as in `segment`.
        absent = (share * (mass[self.topics[users]] == 0)).sum(axis=1, keepdims=True)
        video_rank = rank[:, self.primary]
        within = np.take_along_axis(share, np.maximum(video_rank, 0), axis=1) / mass[self.primary]
        interest = np.where(video_rank >= 0, within, 0.0) + absent
        weight = self.popularity * ((1 - INTEREST_SHARE) + INTEREST_SHARE * interest)
        race = exact.exponential(rng, *weight.shape) / weight
        return np.argsort(race, axis=1, kind="stable")[:, :count]

    def affinity(self, users: Int, videos: Int) -> Float:
        """[R, C] taste of each user for each of its videos, not standardised."""
        return self.affinity_of(self.interest[users], videos)

    def affinity_of(self, interest_RK: Float, videos: Int) -> Float:
        """[R, C] taste of users with these tastes for topics, not standardised."""
        # Two products and a sum, because the order of summation of a matrix product depends on the CPU.
        row, blend = np.arange(len(videos))[:, None], self.blend[videos]
        main, other = (interest_RK[row, topic[videos]] for topic in (self.primary, self.secondary))
        result: Float = (1 - blend) * main + blend * other
        return result

    def own(self, users: Int, videos: Int) -> tuple[Float, Float]:
        """Two [R, C] arrays of standard deviation 1: effects of the pair of user and video.

        They are a hash, not a draw: a pair always gets the same values.
        """
        key = users.astype(np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15)
        key = key + videos.astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
        key += np.uint64((self.seed * 0xD6E8FEB86659FD93) % 2**64)
        key ^= key >> np.uint64(30)
        key *= np.uint64(0xBF58476D1CE4E5B9)
        key ^= key >> np.uint64(27)
        key *= np.uint64(0x94D049BB133111EB)
        key ^= key >> np.uint64(31)
        # Four 16-bit uniforms; the sum of two is triangular with variance 1/6.
        parts = key.view(np.uint16).reshape(*key.shape, 4).astype(np.float32) / np.float32(65_536)
        scale = np.sqrt(np.float32(6))
        return (parts[..., 0] + parts[..., 1] - 1) * scale, (parts[..., 2] + parts[..., 3] - 1) * scale


def draw_latents(config: World) -> Latents:
    """Draws users, authors and videos. Deterministic in `config.seed`, `users` and `videos`."""
    rng = np.random.default_rng([config.seed, 0])
    topic_logit = 0.5 * exact.normal(rng, TOPICS)

    def normal(*shape: int) -> Float:
        return exact.normal(rng, *shape).astype(np.float32)

    # Users: demographics shift tastes a little, so that they are informative for a user without history.
    age_group = rng.choice(AGE_GROUPS, config.users, p=_normalised(np.array([3, 6, 6, 5, 4, 3, 2, 1.0])))
    region = rng.choice(REGIONS, config.users, p=_normalised(1 / np.arange(1, REGIONS + 1)))
    device = rng.integers(0, DEVICES, config.users)
    age_taste, region_taste = normal(AGE_GROUPS, TOPICS), normal(REGIONS, TOPICS)
    taste = topic_logit + 0.6 * age_taste[age_group] + 0.4 * region_taste[region]
    # Three topics without replacement, each by the softmax of taste: Gumbel noise, the highest win.
    noise = -exact.log(np.maximum(exact.exponential(rng, *taste.shape), exact.SMALLEST_UNIFORM))
    topics = np.argsort(-(taste + noise), axis=1, kind="stable")[:, :USER_TOPICS]
    # The sum of two exponential draws has the gamma distribution of shape 2.
    gamma = exact.exponential(rng, *topics.shape) + exact.exponential(rng, *topics.shape)
    weights = -np.sort(-gamma, axis=1) + 0.1
    weights /= weights.sum(axis=1, keepdims=True)
    interest = 0.08 * normal(config.users, TOPICS)
    np.put_along_axis(interest, topics, (0.4 + weights).astype(np.float32), axis=1)
    susceptibility = exact.exp(0.4 * normal(config.users) + 0.3 * normal(AGE_GROUPS)[age_group] - 0.12)

    # Authors have a tendency to a topic, a quality and an amount of clickbait; tags only to an amount of clickbait.
    authors = max(config.videos // 8, 1)
    topic_share = _normalised(exact.exp(topic_logit))
    focus = rng.choice(TOPICS, authors, p=topic_share)
    author_quality, author_clickbait, author_fame = normal(authors), normal(authors), normal(authors)
    tag_clickbait = normal(TOPICS, TAGS_PER_TOPIC)

    author = rng.integers(0, authors, config.videos)
    stray = rng.choice(TOPICS, config.videos, p=topic_share)
    primary = np.where(rng.random(config.videos) < 0.75, focus[author], stray)
    secondary = (primary + rng.integers(1, TOPICS, config.videos)) % TOPICS
    blend = np.where(rng.random(config.videos) < 0.6, 0.2 + 0.3 * rng.random(config.videos), 0.0)
    every = np.arange(config.videos)
    tag_topic = np.stack([primary, np.where(blend > 0, secondary, primary), primary], axis=1)
    within = np.argsort(rng.random((config.videos, TAGS_PER_TOPIC)), axis=1, kind="stable")[:, :MAX_TAGS]
    # As often as that many coins show heads.
    tag_count = 1 + rng.integers(0, 2, (config.videos, MAX_TAGS - 1)).sum(axis=1)
    has_tag = np.arange(MAX_TAGS) < tag_count[:, None]
    lean = (tag_clickbait[tag_topic, within] * has_tag).sum(axis=1) / np.sqrt(tag_count)
    quality = 0.75 * author_quality[author] + 0.66 * normal(config.videos)
    clickbait = 0.7 * author_clickbait[author] + 0.5 * lean + 0.5 * normal(config.videos)
    duration_z = normal(config.videos)
    duration_ms = np.clip(20_000 * exact.exp(0.8 * duration_z), 3_000, 300_000).astype(np.int32)
    popularity = _normalised(
        exact.exp(0.7 * author_fame[author] + 0.7 * normal(config.videos) + 0.3 * quality + 0.2 * clickbait)
    )

    by_topic = np.argsort(primary, kind="stable")
    held = np.bincount(primary, minlength=TOPICS)
    segments = [*np.split(by_topic, np.cumsum(held)[:-1]), every]
    cdfs = []
    for position, videos in enumerate(segments):
        cumulated = np.cumsum(popularity[videos])
        cdfs.append(position + cumulated / cumulated[-1] if len(videos) else cumulated)
    return Latents(
        seed=config.seed,
        activity=exact.exp(normal(config.users)).astype(np.float32),
        age_group=age_group,
        region=region,
        device=device,
        interest=interest,
        topics=topics,
        topic_cdf=np.cumsum(weights, axis=1).astype(np.float32),
        susceptibility=susceptibility.astype(np.float32),
        author=author,
        primary=primary,
        secondary=secondary,
        blend=blend.astype(np.float32),
        tags=tag_topic * TAGS_PER_TOPIC + within,
        tag_count=tag_count,
        quality=quality.astype(np.float32),
        clickbait=clickbait.astype(np.float32),
        duration_ms=duration_ms,
        duration_z=duration_z,
        popularity=popularity,
        draw_cdf=np.concatenate(cdfs),
        draw_video=np.concatenate(segments),
        segment=np.where(held > 0, np.arange(TOPICS), TOPICS),
    )


def _normalised(weights: NDArray[np.floating]) -> NDArray[np.float64]:
    result = weights.astype(np.float64)
    result /= result.sum()
    return result
