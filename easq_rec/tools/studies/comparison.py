"""Metrics of a study's cells relative to a base on the same worlds."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from easq_rec.evaluation.mean_interval import Estimate, t_interval
from easq_rec.tools.studies.grid import ANCHORS, BASE
from easq_rec.tools.studies.partner import Addition
from easq_rec.tools.studies.store import Run
from easq_rec.tools.studies.user_metrics import NAMES, Floats, UserMetrics

METRICS = {
    "satisfaction": "satisfaction_ndcg5",
    "engagement": "engagement_ndcg5",
    "pair_accuracy": "pair_accuracy",
    "gauc": "gauc",
}
"""Compared metrics: name, and key of the final metrics. Satisfaction and engagement are always shown together, because
a gain in one may cost the other."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """All cells of one label."""

    label: str
    variant: str
    series: str
    x: float | None
    mean: dict[str, float]
    """Mean of each metric over the worlds."""
    change: dict[str, Estimate]
    """Change of each metric against the base, in percent, paired by world."""

    def values(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "label": self.label,
            "variant": self.variant,
            "series": self.series,
            "x": self.x,
            "worlds": self.change["satisfaction"].count,
            "mean": {name: _finite(mean) for name, mean in self.mean.items()},
            "change_percent": {name: estimate_values(change) for name, change in self.change.items()},
        }


def estimate_values(estimate: Estimate) -> dict[str, Any]:
    """An estimate as JSON values: unknown ends are null."""
    return {
        "value": _finite(estimate.value),
        "low": _finite(estimate.low),
        "high": _finite(estimate.high),
        "count": estimate.count,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def fused_series(variant: str) -> str:
    """Name of the curve over the weight of the reference score in the served score."""
    return f"{variant}, fused"


def added_series(variant: str, partner: str) -> str:
    """Name of the curve over the weight of a partner's score."""
    return f"{variant} + {partner}"


def fused_variant(variant: str, weight: float) -> str:
    """Name of a point of that curve."""
    return f"{fused_series(variant)} {weight:g}"


def added_variant(variant: str, partner: str, weight: float) -> str:
    """Name of a point of that curve."""
    return f"{added_series(variant, partner)} {weight:g}"


class StudyComparison:
    """The finished cells of a study, label by label."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs: defaultdict[str, list[Run]] = defaultdict(list)
        self._draws: dict[Path, dict[str, Floats]] = {}
        for run in runs:
            self._runs[run.cell.label].append(run)
            for served, metrics in run.fused.items():
                # Each other serving of a model is a separate variant, and a point of a curve.
                name, addition = run.cell.variant, Addition.read(served)
                if addition is None:
                    series, x = fused_series(name), float(served)
                    variant = fused_variant(name, x)
                else:
                    series, x = added_series(name, addition.partner), addition.weight
                    variant = added_variant(name, addition.partner, x)
                cell = dataclasses.replace(run.cell, variant=variant, series=series, x=x)
                self._runs[cell.label].append(
                    dataclasses.replace(run, cell=cell, metrics=metrics, fused={}, served=served)
                )

    def runs(self, label: str) -> list[Run]:
        """The cells of a label, one per world and seed."""
        return self._runs.get(label, [])

    @property
    def labels(self) -> list[str]:
        """The labels of trained cells: all but those of `ANCHORS`."""
        return [label for label, runs in self._runs.items() if runs[0].cell.variant not in ANCHORS]

    def rows(self, base: str = BASE) -> list[Row]:
        """A row per label, relative to the variant `base`."""
        rows = []
        for label, runs in self._runs.items():
            cell = runs[0].cell
            means = {name: self.mean(label, key) for name, key in METRICS.items()}
            changes = {name: self.change(label, name, base) for name in METRICS}
            rows.append(
                Row(label=label, variant=cell.variant, series=cell.series, x=cell.x, mean=means, change=changes)
            )
        return rows

    def change(self, label: str, metric: str, base: str = BASE) -> Estimate:
        """Difference of a metric from that of the variant `base`, in percent: mean over the worlds of both, with a t
        interval. Runs that differ only in their training seed are averaged first."""
        return self.relative(label, METRICS[metric], base)

    def relative(self, label: str, key: str, base: str = BASE) -> Estimate:
        """`change` of any metric that the cells have, by its key."""
        return t_interval(self.change_by_pair(label, key, base).values())

    def change_by_pair(self, label: str, key: str, base: str = BASE) -> dict[str, float]:
        """`relative` in each world, by the pairing key of the cells; NaN where a metric is undefined."""
        mine = self._by_pair(self._runs.get(label, []), key)
        theirs = self._by_pair([run for runs in self._runs.values() for run in runs if run.cell.variant == base], key)
        return {pair: 100 * (mine[pair] / theirs[pair] - 1) for pair in mine if theirs.get(pair)}

    def resampled_by_pair(self, label: str, keys: Sequence[str], base: str = BASE) -> dict[str, Floats]:
        """`change_by_pair` of several metrics for resampled users, (B, keys), by pairing key.

        Only pairs whose runs, of the label and of the base, all keep the sums of users.
        """
        columns = [NAMES.index(key) for key in keys]
        mine = self._resampled(self._runs.get(label, []))
        theirs = self._resampled([run for runs in self._runs.values() for run in runs if run.cell.variant == base])
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                pair: 100 * (mine[pair][:, columns] / theirs[pair][:, columns] - 1) for pair in mine if pair in theirs
            }

    def _resampled(self, runs: Sequence[Run]) -> dict[str, Floats]:
        """Metrics of resampled users, (B, M), by pairing key: the mean of runs that differ in their training seed."""
        values: defaultdict[str, list[Floats]] = defaultdict(list)
        for run in runs:
            if run.user_metrics is None:
                return {}
            if run.user_metrics not in self._draws:
                self._draws[run.user_metrics] = UserMetrics.load(run.user_metrics).resampled()
            values[run.cell.pair].append(self._draws[run.user_metrics][run.served])
        return {pair: np.mean(several, axis=0) for pair, several in values.items()}

    def mean(self, label: str, key: str) -> float:
        """Mean of a metric over the worlds of a label; NaN if no world has it."""
        return _mean(self.by_world(label, key))

    def by_world(self, label: str, key: str) -> list[float]:
        """A metric in each world of a label."""
        return list(self._by_pair(self.runs(label), key).values())

    @staticmethod
    def _by_pair(runs: Sequence[Run], key: str) -> dict[str, float]:
        """Mean of a metric by the pairing key of the cells."""
        values: defaultdict[str, list[float]] = defaultdict(list)
        for run in runs:
            values[run.cell.pair].append(run.metrics.get(key, math.nan))
        return {pair: _mean(several) for pair, several in values.items()}


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan
