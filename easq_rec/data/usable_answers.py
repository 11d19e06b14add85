"""Whether the answers suffice for a recipe that learns from them.

Legend: N candidates of the answers dataset.
"""

from __future__ import annotations

import numpy as np

from easq_rec.config import Config
from easq_rec.data.columns import Array, Rows
from easq_rec.data.encode import EncodedRequests


def answers_warning(config: Config, answers: EncodedRequests | None, until_ms: int) -> str | None:
    """A sentence about answers that a run cannot learn from, and what follows; None: it can, or it reads none.

    Args:
        answers: the whole answers dataset; None: it is empty.
        until_ms: end of the training period.
    """
    if not config.reads_answers:
        return None
    if answers is None:
        empty = np.zeros(0, np.int64)
        problem = describe(config, empty, empty, until_ms)
    else:
        columns = answers.candidates
        problem = describe(config, columns.column("answer"), columns.column("answered_at_ms"), until_ms)
    if problem is None:
        return None
    if config.losses.warmup_per_class and config.model.satisfaction_weight:
        follows = (
            "the satisfaction score does not enter the policy score, which stays that of the main tower, as with the "
            "variant main_only"
        )
    else:
        follows = "losses on pairs of a satisfied and a dissatisfied answer stay 0, so that behaviour alone is learned"
    return f"{problem}. Recipe {config.recipe!r} learns from answers of both classes: {follows}"


def describe(config: Config, answer_N: Array, answered_at_N: Rows, until_ms: int) -> str | None:
    """What is wrong with the answers; None: nothing.

    Args:
        answer_N: codes; those of no answer are not among the codes of the scale.
        answered_at_N: in milliseconds since 1970.
        until_ms: as of `answers_warning`.
    """
    scale, least = config.schema.answers, config.losses.warmup_per_class
    given_N = np.isin(answer_N, [*scale.codes.values()])
    usable_A = answer_N[given_N & (answered_at_N < until_ms)]
    count = int(given_N.sum())
    if not count:
        return "the data hold no answers"
    if not len(usable_A):
        return (
            f"none of the {count:,} answers arrives before the end of the training period (answered_at_ms below "
            f"{until_ms}): all are held out, or later than the log"
        )
    satisfied, dissatisfied = (
        int(np.isin(usable_A, codes).sum()) for codes in (scale.satisfied_codes, scale.dissatisfied_codes)
    )
    if satisfied and dissatisfied and min(satisfied, dissatisfied) >= least:
        return None
    few = f", fewer than losses.warmup_per_class={least} of one class" if satisfied and dissatisfied else ""
    return (
        f"the training period has {satisfied:,} satisfied and {dissatisfied:,} dissatisfied answers (of "
        f"{len(usable_A):,}){few}"
    )
