"""The answers of a questionnaire: their codes, their order, and their meaning for satisfaction.

It is part of the configuration because the feature schema and the builder's questionnaire declare it. All other code
uses its methods instead of comparing codes with numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from easq_rec.errors import UserError

NO_ANSWER = -1
"""Code of a candidate without an answer, in memory. Files store a null."""
HIGHEST = 127
"""Answers are stored as int8."""


@dataclass(frozen=True, kw_only=True)
class AnswerScale:
    """Answers from the worst to the best. Codes are successive integers, so a higher code is a better answer."""

    names: tuple[str, ...]
    """Names of the answers, from the worst to the best."""
    first: int = 0
    """Code of the worst answer."""
    uncertain: tuple[str, ...] = ()
    """Answers that form no pairs unless losses.uncertain='between'."""
    dissatisfied: tuple[str, ...] = ()
    """Answers that count as dissatisfied in evidence and metrics; empty: the worst one."""
    satisfied: tuple[str, ...] = ()
    """Answers that count as satisfied in evidence and metrics; empty: the best one."""

    def __post_init__(self) -> None:
        problems = [f"answers.{name}={value!r} is not allowed: {allowed}" for name, value, allowed in self._problems()]
        if problems:
            raise UserError("\n".join(problems))

    def _problems(self) -> Iterator[tuple[str, object, str]]:
        """(field, value, what is allowed)."""
        if len(self.names) < 2 or len(set(self.names)) != len(self.names):
            yield "names", self.names, "at least two different names, the worst answer first"
            return
        if self.first < 0 or self.first + len(self.names) - 1 > HIGHEST:
            yield "first", self.first, f"0 or more, with codes up to {HIGHEST}"
        unknown = False
        for role in ("uncertain", "dissatisfied", "satisfied"):
            strange = [name for name in getattr(self, role) if name not in self.names]
            unknown |= bool(strange)
            if strange:
                yield role, strange, f"answers of the scale, {self.names}"
        if not unknown and max(self.dissatisfied_codes) >= min(self.satisfied_codes):
            yield "satisfied", self.satisfied, "answers better than all dissatisfied answers"
        both = {*self.uncertain_codes} & {*self.dissatisfied_codes, *self.satisfied_codes} if not unknown else set()
        if both:
            yield "uncertain", self.uncertain, "answers that are neither satisfied nor dissatisfied"

    @property
    def codes(self) -> dict[str, int]:
        """Code of each answer by name, from the worst to the best."""
        return {name: self.first + index for index, name in enumerate(self.names)}

    @property
    def last(self) -> int:
        """Code of the best answer."""
        return self.first + len(self.names) - 1

    @property
    def uncertain_codes(self) -> tuple[int, ...]:
        return self._codes_of(self.uncertain)

    @property
    def dissatisfied_codes(self) -> tuple[int, ...]:
        return self._codes_of(self.dissatisfied or self.names[:1])

    @property
    def satisfied_codes(self) -> tuple[int, ...]:
        return self._codes_of(self.satisfied or self.names[-1:])

    @property
    def satisfaction(self) -> dict[int, float]:
        """How satisfied each answer is, by code: 1 if it counts as satisfied, 0 if as dissatisfied, 1/2 if neither."""
        return {
            code: (1.0 + (code in self.satisfied_codes) - (code in self.dissatisfied_codes)) / 2
            for code in self.codes.values()
        }

    @property
    def expected(self) -> str:
        """Text that lists the codes, for error messages."""
        *front, back = map(str, self.codes.values())
        return f"{', '.join(front)} or {back}"

    def ranked(self, *, between: bool) -> tuple[int, ...]:
        """Codes of the answers that form pairs; `between` includes uncertain answers."""
        return tuple(code for code in self.codes.values() if between or code not in self.uncertain_codes)

    def _codes_of(self, names: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(self.codes[name] for name in names)


THREE_ANSWERS = AnswerScale(names=("dissatisfied", "uncertain", "satisfied"), uncertain=("uncertain",))
"""The paper's questionnaire (arXiv 2601.20215), codes 0, 1, 2."""
FIVE_STARS = AnswerScale(names=("1", "2", "3", "4", "5"), first=1, dissatisfied=("1", "2"), satisfied=("4", "5"))
"""One to five stars; the code is the number of stars. All answers form pairs."""
NO_OR_YES = AnswerScale(names=("no", "yes"))
"""Codes 0 and 1."""
