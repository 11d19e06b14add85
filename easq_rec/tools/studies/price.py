"""Gains in satisfaction at an equal price in engagement.

A method of alignment has a weight that trades engagement for satisfaction, so a single point of it says little: a
method that gains 20% and pays 4% is not better than one that gains 10% and pays 1%. Here a method is a *family*, the
points of several weights, and what counts is how much satisfaction it gains at a given price.

- The price of a point is its loss of engagement against `main_only` of the same world, in percent; 0 where it loses
  none.
- A team may serve `main_only` to some users and a point to the others, or two points. So the envelope of a family is
  the upper hull of its points and of `main_only`, which has price 0 and gain 0, and it never falls as the price rises.
- Envelopes are those of a world. Means and t intervals are over worlds, and two families are compared within each.
- On a data set the place of a world is taken by a training seed. All seeds rank the same held-out users, so their
  spread does not say how much depends on these users. The envelopes are also computed for resampled users, and the
  squares of the half-widths of both intervals are added.

The best of several points is better by chance, too, so families are compared that have equally many points.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from easq_rec.evaluation.mean_interval import NORMAL, Estimate, t_interval
from easq_rec.tools.studies.comparison import METRICS, StudyComparison
from easq_rec.tools.studies.grid import BASE
from easq_rec.tools.studies.user_metrics import Floats

PRICES = (1.0, 2.0)
"""Prices at which gains are reported, in percent of engagement; verdicts are about the first."""
POINTS = "points"
"""Unit of a difference of two gains: percentage points."""


Change = tuple[float, float]
"""Change of engagement and change of satisfaction of one point, in percent."""


def envelope(changes: Sequence[Change]) -> list[tuple[float, float]]:
    """The corners (price, gain) of a family's envelope, by rising price and gain; the first has price 0."""
    corners: list[tuple[float, float]] = []
    for price, gain in sorted([(0.0, 0.0), *((max(-paid, 0.0), gained) for paid, gained in changes)]):
        if corners and gain <= corners[-1][1]:
            continue
        if corners and price == corners[-1][0]:
            corners.pop()
        # A corner below the line from the one before it to the new point is not on the hull.
        while len(corners) > 1 and _slope(corners[-2], (price, gain)) >= _slope(corners[-2], corners[-1]):
            corners.pop()
        corners.append((price, gain))
    return corners


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])


def gain_at(changes: Sequence[Change], price: float) -> float:
    """The height of a family's envelope at a price, in percent of satisfaction."""
    assert price >= 0, price
    corners = envelope(changes)
    for one, other in itertools.pairwise(corners):
        if price < other[0]:
            return one[1] + _slope(one, other) * (price - one[0])
    # More is not worth paying.
    return corners[-1][1]


@dataclass(frozen=True, kw_only=True)
class Priced:
    """The points of a family in each world."""

    by_world: Mapping[str, Sequence[Change]]
    """Changes of its points, in the order of its labels, by pairing key; only worlds that have all of them."""
    resampled: Mapping[str, Floats] = field(default_factory=dict)
    """The same changes for resampled users, (B, points, 2); none, if the cells do not keep the sums of users."""

    @classmethod
    def of(
        cls, found: StudyComparison, labels: Sequence[str], satisfaction: str = "satisfaction", *, base: str = BASE
    ) -> Priced:
        """The points with these labels.

        Args:
            satisfaction: the gained metric, a key of `METRICS`.
            base: variant with price 0 and gain 0.
        """
        keys = [METRICS[name] for name in ("engagement", satisfaction)]
        changes = [tuple(found.change_by_pair(label, key, base) for key in keys) for label in labels]
        known = [
            {
                pair: (paid[pair], gained[pair])
                for pair in paid
                if math.isfinite(paid[pair]) and math.isfinite(gained.get(pair, math.nan))
            }
            for paid, gained in changes
        ]
        # A family without one of its points would have a smaller budget than the others.
        everywhere = [pair for pair in known[0] if all(pair in of_label for of_label in known)] if known else []
        by_user = [found.resampled_by_pair(label, keys, base) for label in labels]
        resampled = {
            pair: np.stack([of_label[pair] for of_label in by_user], axis=1)
            for pair in everywhere
            if all(pair in of_label for of_label in by_user)
        }
        return cls(by_world={pair: [of_label[pair] for of_label in known] for pair in everywhere}, resampled=resampled)

    def gains(self, price: float) -> dict[str, float]:
        """The gain at a price in each world."""
        return {pair: gain_at(changes, price) for pair, changes in self.by_world.items()}

    def resampled_gains(self, price: float) -> dict[str, Floats]:
        """The gain at a price for resampled users, (B,), in each world; NaN where a change is undefined."""
        found = {}
        for pair, changes_BP2 in self.resampled.items():
            known_B = np.isfinite(changes_BP2).all(axis=(1, 2))
            found[pair] = np.full(len(changes_BP2), np.nan)
            found[pair][known_B] = [gain_at(changes, price) for changes in changes_BP2[known_B].tolist()]
        return found

    def gain(self, price: float) -> Estimate:
        """The gain at a price in percent: mean over worlds, with its interval."""
        return over_users(t_interval(self.gains(price).values()), list(self.resampled_gains(price).values()))

    def lead(self, other: Priced, price: float) -> Estimate:
        """Gain at a price less that of another family, in percentage points, paired by world."""
        mine, theirs = self.gains(price), other.gains(price)
        drawn, others = self.resampled_gains(price), other.resampled_gains(price)
        return over_users(
            t_interval(mine[pair] - theirs[pair] for pair in mine if pair in theirs),
            [drawn[pair] - others[pair] for pair in drawn if pair in others],
        )

    def points(self) -> list[tuple[Estimate, Estimate]]:
        """(change of engagement, change of satisfaction) of each point, over worlds."""
        columns = list(zip(*self.by_world.values(), strict=True))
        return [
            (t_interval(one for one, _ in of_point), t_interval(two for _, two in of_point)) for of_point in columns
        ]

    def curve(self, most: float, steps: int = 40) -> list[tuple[float, float]]:
        """(price, mean gain over worlds) at prices from 0 to `most`; empty without worlds."""
        prices = [most * step / steps for step in range(steps + 1)]
        return [(price, t_interval(self.gains(price).values()).value) for price in prices] if self.by_world else []


def over_users(over_seeds: Estimate, drawn: Sequence[Floats]) -> Estimate:
    """An interval over training seeds and held-out users, from one over seeds.

    The spread of the mean over the seeds between draws of users is independent of that between seeds, so the squares of
    the half-widths are added. With one seed, whose spread is unknown, the interval is over users only. It is unknown if
    the value is undefined in a tenth of the draws: then it depends on very few users.

    Args:
        drawn: the value of each seed for resampled users, (B,); empty: the cells do not keep the sums of users.
    """
    if not drawn:
        return over_seeds
    mean_B = np.mean(drawn, axis=0)
    known_B = mean_B[np.isfinite(mean_B)]
    half = NORMAL * float(np.std(known_B, ddof=1)) if len(known_B) > 0.9 * len(mean_B) else math.inf
    if over_seeds.count > 1:
        half = math.hypot(half, over_seeds.high - over_seeds.value)
    return dataclasses.replace(over_seeds, low=over_seeds.value - half, high=over_seeds.value + half)


def best(families: Mapping[str, Priced], price: float = PRICES[0]) -> list[str]:
    """Names of the families that were measured, by falling mean gain at a price."""
    gains = {name: family.gain(price).value for name, family in families.items() if family.by_world}
    return sorted(gains, key=lambda name: -gains[name])
