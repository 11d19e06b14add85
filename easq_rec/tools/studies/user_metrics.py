"""What every held-out user adds to the metrics of a cell, and the metrics of resampled users. Loads without torch.

The cells of a data set rank the same held-out users. Several training seeds say how much depends on chance in training,
and nothing about how much depends on who these users are. So the cells of such a study keep the sums of each user, and
intervals contain both.

Legend: U users, M metrics, B resamples.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from easq_rec.errors import UserError
from easq_rec.evaluation.resampling import RESAMPLES, user_weights

Floats = NDArray[np.float64]
Sums = tuple[Floats, Floats]
"""Numerators and denominators, (U, M) each."""

POLICY = "policy"
"""Name of the policy score among the served scores of a cell."""
NAMES = ("satisfaction_ndcg5", "engagement_ndcg5", "pair_accuracy", "gauc")
"""The metrics, each a quotient of two sums over users."""
USERS, TOP, BOTTOM = "users", " top", " bottom"


@dataclass(frozen=True, kw_only=True)
class UserMetrics:
    """The sums of each user, by served score."""

    user_U: NDArray[np.int64]
    sums: Mapping[str, Sums]

    def save(self, path: Path) -> None:
        """Writes an npz file."""
        parts: dict[str, Any] = {USERS: self.user_U}
        for served, (top_UM, bottom_UM) in self.sums.items():
            parts |= {f"{served}{TOP}": top_UM, f"{served}{BOTTOM}": bottom_UM}
        np.savez_compressed(path, **parts)

    @classmethod
    def load(cls, path: Path) -> UserMetrics:
        """Reads the file of `save`.

        Raises:
            UserError: it is damaged.
        """
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                served = [name.removesuffix(TOP) for name in file.files if name.endswith(TOP)]
                sums = {name: (file[f"{name}{TOP}"], file[f"{name}{BOTTOM}"]) for name in served}
                return cls(user_U=file[USERS], sums=sums)
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path} does not have the sums of users ({error}): delete it and the result of its cell, to run the "
                "cell again"
            ) from error

    def resampled(self) -> dict[str, Floats]:
        """The metrics of `RESAMPLES` draws of users, (B, M), by served score; NaN where undefined.

        The draws depend only on the number of users, so cells with the same users are compared draw by draw.
        """
        parts: dict[str, list[Floats]] = {served: [] for served in self.sums}
        for weight_BU in user_weights(len(self.user_U), RESAMPLES, seed=0):
            for served, (top_UM, bottom_UM) in self.sums.items():
                with np.errstate(divide="ignore", invalid="ignore"):
                    parts[served].append((weight_BU @ top_UM) / (weight_BU @ bottom_UM))
        return {served: np.concatenate(of_served) for served, of_served in parts.items()}
