"""The wide path: scores from single features and from pairs of features, beside the backbone.

It is the wide part of DeepFM (Guo et al. 2017): a linear function and a factorization machine (Rendle 2010) that read
the embeddings of the backbone. Ids that co-occur in few requests reach the score by a product of two rows, which needs
fewer examples than layers of the backbone.

Legend: R requests, N candidates, F fields, M and C widths of what the network reads of the user and of the candidate,
E width of a field, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from easq_rec.config.schema import FeatureSchema
from easq_rec.kernels.jagged import Lists
from easq_rec.model.initial import Constant, Law


class WidePath(nn.Module):
    """(R, M) users and (N, C) candidates to (N, O).

    output_o = linear_o([user, candidate]) + sum over e of weight_oe * (sum over pairs of fields i < j of v_ie * v_je)

    Each id feature is a field, all floats of the user are one, and all floats of the candidate are one. A field that is
    not E wide is projected. The history is no field.

    Args:
        numbers: widths of the floats of user and candidate.
        outputs: O.
    """

    def __init__(self, schema: FeatureSchema, *, numbers: tuple[int, int], outputs: int) -> None:
        super().__init__()
        dims = {table.name: table.dim for table in schema.tables}
        user_ids, candidate_ids = (
            [dims[str(feature.table)] for feature in features if feature.table is not None]
            for features in (schema.user, schema.candidate)
        )
        self.width = user_ids[0]
        self.user = _Fields([*user_ids, numbers[0]], self.width)
        self.candidate = _Fields([*candidate_ids, numbers[1]], self.width)
        self.linear = nn.Linear(self.user.inputs + self.candidate.inputs, outputs, bias=False)
        self.pair_OE = nn.Parameter(torch.empty(outputs, self.width))

    def laws(self) -> Mapping[str, Law]:
        return {"pair_OE": Constant(1.0)}

    def forward(self, user_RM: Tensor, candidate_NC: Tensor, candidates: Lists) -> Tensor:
        # What depends on the user is computed once per request. 2 * sum over i < j of v_i v_j is (sum of v)^2 - sum of
        # v^2, so that the cost is linear in the number of fields.
        user_OM, candidate_OC = self.linear.weight.split([self.user.inputs, self.candidate.inputs], dim=1)
        sum_RE, square_RE = self.user(user_RM)
        sum_NE, square_NE = self.candidate(candidate_NC)
        of_user_RK = torch.cat([sum_RE, square_RE, user_RM @ user_OM.T], dim=1)
        of_user_NK = candidates.spread(of_user_RK)
        sum_of_user_NE, square_of_user_NE, linear_NO = of_user_NK.split([self.width, self.width, len(user_OM)], dim=1)
        pairs_NE = 0.5 * ((sum_of_user_NE + sum_NE).square() - square_of_user_NE - square_NE)
        return linear_NO + candidate_NC @ candidate_OC.T + pairs_NE @ self.pair_OE.T

    def reference(self, user_RM: Tensor, candidate_NC: Tensor, candidates: Lists) -> Tensor:
        """The same, pair by pair: the slow reference of `forward`."""
        user_NM = candidates.spread(user_RM)
        fields = [*self.user.fields(user_NM), *self.candidate.fields(candidate_NC)]
        output_NO = self.linear(torch.cat([user_NM, candidate_NC], dim=1))
        for second, v_NE in enumerate(fields):
            for u_NE in fields[:second]:
                output_NO = output_NO + (u_NE * v_NE) @ self.pair_OE.T
        return output_NO


class _Fields(nn.Module):
    """Parts of a vector as fields of the same width.

    Args:
        parts: widths of the parts, 0 for one that is missing.
    """

    def __init__(self, parts: Sequence[int], width: int) -> None:
        super().__init__()
        self.parts = [part for part in parts if part]
        self.inputs = sum(self.parts)
        self.width = width
        self.projections = nn.ModuleDict(
            {str(place): nn.Linear(part, width, bias=False) for place, part in enumerate(self.parts) if part != width}
        )

    def fields(self, x_NC: Tensor) -> list[Tensor]:
        """(N, E) of each field."""
        parts = x_NC.split(self.parts, dim=1)
        projections = self.projections
        return [projections[str(k)](part) if str(k) in projections else part for k, part in enumerate(parts)]

    def forward(self, x_NC: Tensor) -> tuple[Tensor, Tensor]:
        """(sum of the fields, sum of their squares), both (N, E)."""
        field_NFE = torch.stack(self.fields(x_NC), dim=1)
        return field_NFE.sum(1), field_NFE.square().sum(1)
