"""Numbers of a candidate that only the satisfaction tower reads, such as counts of answers.

Legend: N candidates, F numbers of the features, G numbers that the network reads, D token width.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from easq_rec.config.schema import Feature
from easq_rec.model.floats import FloatEncoder
from easq_rec.model.initial import Constant, Law


class OwnNumbers(nn.Module):
    """Encoded numbers, (N, G), to what is added to the representation of the candidate, (N, D).

    It has no bias, because the layers of the tower have one. Its weights start at 0, so that the tower starts as it
    does without these numbers.
    """

    def __init__(self, features: tuple[Feature, ...], dim: int, quantiles: int) -> None:
        super().__init__()
        self.encoder = FloatEncoder(features, quantiles)
        """(N, F) to (N, G)."""
        self.linear = nn.Linear(self.encoder.width, dim, bias=False)

    def laws(self) -> Mapping[str, Law]:
        return {"linear.weight": Constant(0.0)}

    def forward(self, number_NG: Tensor) -> Tensor:
        added_ND: Tensor = self.linear(number_NG)
        return added_ND
