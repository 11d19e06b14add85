"""The launches of a measurement, and comparisons between them."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from easq_rec.config import Config

Scaling = Literal["per_rank", "global", "independent"]
"""Quantity that stays constant with more ranks: requests per rank, or requests in total. `independent`: requests per
rank, where the ranks are separate runs that do not wait for each other."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A number of ranks with a number of requests each."""

    ranks: int
    scaling: Scaling
    requests: int
    """Requests per step and rank."""

    @property
    def name(self) -> str:
        """For example `2 ranks x 128, independent`."""
        text = f"{self.ranks} rank{'s' if self.ranks > 1 else ''} x {self.requests}"
        return f"{text}, independent" if self.scaling == "independent" else text

    def of(self, config: Config) -> Config:
        return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, batch_size=self.requests))


def shapes(ranks: Sequence[int], requests: int, scalings: Sequence[Scaling]) -> list[Shape]:
    """One rank first, then each number of ranks with each scaling.

    Raises:
        ValueError: a number of ranks cannot share a batch evenly.
    """
    found = [Shape(ranks=1, scaling="per_rank", requests=requests)]
    for count in ranks:
        for scaling in scalings if count > 1 else ():
            if scaling == "global" and requests % count:
                raise ValueError(f"{count} ranks cannot share a batch of {requests} requests evenly: choose another")
            share = requests // count if scaling == "global" else requests
            found.append(Shape(ranks=count, scaling=scaling, requests=share))
    return found


def rate(launch: dict[str, Any], pipeline: str, metric: str = "impressions_per_s") -> float:
    """A launch's median over its windows."""
    return statistics.median(window[metric] for window in launch["windows"][pipeline])


def speed_ups(runs: list[dict[str, Any]], pipeline: str) -> list[dict[str, Any]]:
    """Speed-up of each shape over one rank: ratios of the rates, launch by launch, and their median."""
    (one, *others) = runs
    found = []
    for run in others:
        ratios = [
            rate(launch, pipeline) / rate(alone, pipeline)
            for launch, alone in zip(run["launches"], one["launches"], strict=True)
        ]
        found.append(
            {
                "name": run["name"],
                "ranks": run["ranks"],
                "scaling": run["scaling"],
                "speed_up": round(statistics.median(ratios), 3),
                "of_each_round": [round(ratio, 3) for ratio in ratios],
            }
        )
    return found


def losses(found: list[dict[str, Any]]) -> Iterator[str]:
    """The efficiency lost with more ranks: to the machine, whose cores share caches and memory, or to waiting."""
    independent = {one["ranks"]: one["speed_up"] for one in found if one["scaling"] == "independent"}
    for one in found:
        if one["scaling"] == "per_rank" and one["ranks"] in independent:
            ranks, machine = one["ranks"], independent[one["ranks"]]
            yield (
                f"{one['name']}: {one['speed_up']:.2f} of {ranks}. Independent runs reach {machine:.2f} on "
                f"this machine ({machine / ranks:.0%}), and ranks that train together reach "
                f"{one['speed_up'] / machine:.0%} of that"
            )
