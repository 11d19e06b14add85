"""Which package answers whom, while two are compared.

Legend: R requests.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from easq_rec.data.mixing import finalised

FIRST, SECOND = "first", "second"
"""The arms."""
POINTS = 2**32


@dataclass(frozen=True, kw_only=True)
class ServingExperiment:
    """A second package beside the one that serves.

    A user has one arm for as long as the experiment has its name: a hash of name and id says which. So another name is
    another split, in which the users of an arm are spread evenly over both.
    """

    share: float
    """Of the users that the second package answers. 0: it scores all requests, answers none, and is logged."""
    name: str = "experiment"

    @property
    def shadow(self) -> bool:
        """Whether the second package answers no one."""
        return self.share == 0

    def second_R(self, user_id_R: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the second package answers each user."""
        salt = np.frombuffer(hashlib.sha256(self.name.encode()).digest()[:8], np.uint64)[0]
        return (finalised(user_id_R.astype(np.uint64) ^ salt) >> np.uint64(32)) < np.uint64(round(self.share * POINTS))
