"""The answers of a data directory as columns, in the order of the times of their requests.

Shape suffix: A answered impressions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from easq_rec.config.answer_scale import NO_ANSWER, AnswerScale
from easq_rec.data import files, kinds
from easq_rec.data.columns import Array, Ragged, Rows
from easq_rec.data.counts import Floats
from easq_rec.data.dataset import RequestDataset
from easq_rec.errors import UserError
from easq_rec.tools.studies.worth.columns import USER, Chosen, behaviour, ids_of, owners

SATISFIED, DISSATISFIED, OTHER = 1, 0, -1
"""Classes of answers. Only the first two are predicted."""
VALUES = {SATISFIED: 1.0, DISSATISFIED: 0.0, OTHER: 0.5}
"""What an answer counts in the means of earlier answers."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The answered impressions."""

    request_ms_A: Rows
    """Time of the request."""
    answered_ms_A: Rows
    class_A: NDArray[np.int8]
    """`SATISFIED`, `DISSATISFIED` or `OTHER`."""
    ids: Mapping[str, Array | Ragged]
    """By key."""
    behaviour: Mapping[str, Floats]
    """Outcomes of the impression, by name: see `easq_rec.tools.studies.worth.columns.behaviour`."""
    context: Mapping[str, Floats]
    """Numbers of the candidate that are known before it is shown, by name."""

    def __len__(self) -> int:
        return len(self.class_A)

    @property
    def user_A(self) -> Rows:
        users = self.ids[USER]
        assert not isinstance(users, Ragged)
        return users

    @property
    def value_A(self) -> Floats:
        """The answer as a number from 0 to 1."""
        return np.select([self.class_A == code for code in VALUES], list(VALUES.values()))

    @property
    def labelled_A(self) -> NDArray[np.bool_]:
        """Whether the answer is one of the two classes that are predicted."""
        return self.class_A != OTHER


def read_answers(chosen: Chosen, answers: RequestDataset, where: files.Location) -> Answered:
    """Reads all answers.

    Raises:
        UserError: there are no answers, or only answers of one class; a row is bad.
    """
    scale = chosen.schema.answers
    requests = answers.read_all()
    given_A = np.zeros(0, np.int64)
    if requests is not None:
        given_A = np.flatnonzero(requests.candidates.column("answer") != NO_ANSWER)
    if requests is None or not len(given_A):
        raise UserError(f"{files.display_name(where)}: answers/ has no answers: study worth needs some to measure")
    owner_A = owners(requests)[given_A]
    order = np.argsort(requests.timestamp_ms[owner_A], kind="stable")
    given_A, owner_A = given_A[order], owner_A[order]
    code_A = requests.candidates.column("answer")[given_A]
    _check_classes(code_A, scale, where)
    ids = ids_of(chosen, requests)
    floats = [feature for feature in chosen.schema.candidate if feature.kind == "float"]
    return Answered(
        request_ms_A=requests.timestamp_ms[owner_A],
        answered_ms_A=requests.candidates.column("answered_at_ms")[given_A],
        class_A=classes(code_A, scale),
        ids={
            key: column.take(given_A) if isinstance(column, Ragged) else column[given_A] for key, column in ids.items()
        },
        behaviour={name: column[given_A] for name, column in behaviour(chosen, requests).items()},
        context={
            feature.name: np.asarray(
                kinds.encode(feature, None, requests.candidates.column(feature.column)[given_A]), np.float64
            )
            for feature in floats
        },
    )


def classes(code_A: Array, scale: AnswerScale) -> NDArray[np.int8]:
    """The class of each answer."""
    conditions = [np.isin(code_A, scale.satisfied_codes), np.isin(code_A, scale.dissatisfied_codes)]
    return np.select(conditions, [SATISFIED, DISSATISFIED], OTHER).astype(np.int8)


def _check_classes(code_A: Array, scale: AnswerScale, where: files.Location) -> None:
    found = classes(code_A, scale)
    for code, role, names in (
        (SATISFIED, "satisfied", scale.satisfied or scale.names[-1:]),
        (DISSATISFIED, "dissatisfied", scale.dissatisfied or scale.names[:1]),
    ):
        if not (found == code).any():
            raise UserError(
                f"{files.display_name(where)}: none of the {len(code_A):,} answers counts as {role} "
                f"({', '.join(names)}): study worth compares satisfied with dissatisfied answers. If the questionnaire "
                "has another scale, declare it as [answers] of a schema file, and add --schema FILE.toml"
            )
