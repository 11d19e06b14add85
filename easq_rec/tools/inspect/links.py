"""How closely numbers of candidates correlate with outcomes. A number that correlates too closely may be a leak."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from easq_rec.tools.inspect.column import ColumnStats
from easq_rec.tools.inspect.sql_dataset import SqlDataset, struct


def strongest_links(dataset: SqlDataset, columns: Mapping[str, ColumnStats]) -> dict[str, tuple[str, float]]:
    """For each number of the candidates, (outcome, Pearson's correlation) with the largest absolute value.

    Numbers x have long tails, so it is the correlation of sign(x) log(1 + |x|), over the candidates where number and
    outcome are known and finite. Constant columns have none.
    """
    relation = dataset.relation("candidates")
    if relation is None:
        return {}
    stats = [columns[path] for path in relation.columns]
    outcomes = [column.path for column in stats if column.binary]
    numbers = [column.path for column in stats if not column.binary and (column.kind == "float" or column.quantity)]
    if not numbers or not outcomes:
        return {}
    wanted = {
        number: struct(
            {
                outcome: f"corr({_scaled(relation.columns[number])}, ({relation.columns[outcome]})::TINYINT)"
                for outcome in outcomes
            }
        )
        for number in numbers
    }
    strongest: dict[str, tuple[str, float]] = {}
    for number, correlations in dataset.select(wanted, relation.sql).items():
        known = [(outcome, value) for outcome, value in correlations.items() if value is not None and isfinite(value)]
        if known:
            strongest[number] = max(known, key=lambda link: abs(link[1]))
    return strongest


def _scaled(x: str) -> str:
    x = f"({x})::DOUBLE"
    return f"CASE WHEN isfinite({x}) THEN sign({x}) * ln(1 + abs({x})) END"
