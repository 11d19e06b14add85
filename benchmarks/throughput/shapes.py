"""Which launches a measurement is made of, and what they say of one another."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from easq_rec.config import Config

Scaling = Literal["per_rank", "global", "apart"]
"""What stays as it is with more ranks: the requests of each, those of all together; `apart`: those of each, and every
rank is a run of its own, which waits for nobody."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """So many ranks, with so many requests each."""

    ranks: int
    scaling: Scaling
    requests: int
    """Per step and rank."""

    @property
    def name(self) -> str:
        """For instance `2 ranks x 128, apart`."""
        text = f"{self.ranks} rank{'s' if self.ranks > 1 else ''} x {self.requests}"
        return f"{text}, apart" if self.scaling == "apart" else text

    def of(self, config: Config) -> Config:
        return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, batch_size=self.requests))


def shapes(ranks: Sequence[int], requests: int, scalings: Sequence[Scaling]) -> list[Shape]:
    """One rank first, then each number of ranks in each way.

    Raises:
        ValueError: as many ranks cannot share a batch evenly.
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
    """Of each shape beside one rank: the ratios of their rates, launch by launch in turn, and their median."""
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
    """What more ranks lose, and where: to the machine, whose cores share caches and memory, or to one another."""
    apart = {one["ranks"]: one["speed_up"] for one in found if one["scaling"] == "apart"}
    for one in found:
        if one["scaling"] == "per_rank" and one["ranks"] in apart:
            ranks, machine = one["ranks"], apart[one["ranks"]]
            yield (
                f"{one['name']}: {one['speed_up']:.2f} of {ranks}. Runs that wait for nobody come to {machine:.2f} on "
                f"this machine ({machine / ranks:.0%}), and ranks that train together to "
                f"{one['speed_up'] / machine:.0%} of that"
            )
