"""How features become inputs of the model: ids as table rows, numbers transformed, times as ages.

The reader calls this with numpy arrays, and the served program with tensors, so that both do the same arithmetic. Every
function returns what it is given: arrays for arrays, tensors for tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from easq_rec.config.schema import Feature, Table

if TYPE_CHECKING:
    # The reader is also loaded to check paths, which must not wait for torch.
    from torch import Tensor

Values = TypeVar("Values", NDArray[Any], "Tensor")

NO_ID = -(2**63)
"""Stands for no id in the map of an admitted table. It is the only id that cannot have a row of its own."""
LEAST_RATE = 1e-6
"""Rates nearer to 0 or 1 count as this far from them, so that their logits are finite."""


def table_rows(ids: Values, table: Table) -> Values:
    """Table rows of int64 ids; ids of an admitted table stay, since only its map knows their rows (`mapped_rows`).
    Python's modulo, so that a negative id has a row as well."""
    match table.id_space:
        case "dense" | "admitted":
            return ids
        case "hashed":
            return _modulo(ids, table.rows)


def id_sets(ids: Values, sets: int) -> Values:
    """The set of `WAYS` rows to which each int64 id belongs: a hash, 0 to `sets` - 1."""
    # Halves of 32 bits times constants below 2**30: no product overflows, so that compiled code may not differ.
    low, high = ids & 0xFFFFFFFF, (ids >> 32) & 0xFFFFFFFF
    mixed = (low * 0x2C1B3C6D) ^ (high * 0x297A2D39)
    mixed = mixed ^ (mixed >> 31)
    mixed = ((mixed & 0xFFFFFFFF) * 0x2545F491) ^ (mixed >> 32)
    return _modulo(mixed ^ (mixed >> 29), sets)


def mapped_rows(ids: Values, map_SW: Values) -> Values:
    """Rows of int64 ids in an admitted table. Ids without a row of their own share the row behind the sets.

    Args:
        map_SW: the id that has row `set * WAYS + way`; NO_ID: none has.
    """
    sets, ways = map_SW.shape
    set_V = id_sets(ids, sets)
    same_VW = (map_SW[set_V] == ids[:, None]) & (ids != NO_ID)[:, None]
    # A product, since torch's argmax takes no booleans.
    own_V = set_V * ways + (same_VW * 1).argmax(1)
    return _functions(ids).where(same_VW.any(1), own_V, sets * ways)


def age_seconds(request_ms: Values, entry_ms: Values) -> Values:
    """Seconds from an entry of the history to its request, float32; negative if the entry is later."""
    return _cast(_cast(request_ms - entry_ms, "float64") / 1_000, "float32")


def number(feature: Feature, values: Values) -> Values:
    """The numbers of a feature of kind `float` or `float_list`, float32."""
    values = _cast(values, "float32")
    if feature.transform == "identity":
        return values
    functions = _functions(values)
    return functions.log1p(functions.clip(values, 0, None))


def count_numbers(feature: Feature, count_N3: Values) -> Values:
    """(shown, happened, prior) to the logit of the rate with `smoothing` impressions at the overall rate,
    log(1 + shown), and the logit of the overall rate; (N, 3) float32."""
    functions = _functions(count_N3)
    shown, happened, prior = _cast(count_N3, "float64").T
    rate = (happened + feature.smoothing * prior) / (shown + feature.smoothing)
    numbers = [_logit(rate), functions.log1p(shown), _logit(prior)]
    return _cast(functions.stack(numbers, 1), "float32")


def shares(weight_V: Values, owner_V: Values, lists: int) -> Values:
    """Weights divided by their sum over their list, float32. Where the sum is 0, they stay 0.

    Args:
        owner_V: the list of each weight.
        lists: their number.
    """
    weight_V = _cast(weight_V, "float64")
    if isinstance(weight_V, np.ndarray):
        total = np.bincount(owner_V, weights=weight_V, minlength=lists)
    else:
        total = weight_V.new_zeros(lists).index_add(0, owner_V, weight_V)
    total_V = total[owner_V]
    return _cast(weight_V / _functions(weight_V).where(total_V > 0, total_V, 1.0), "float32")


def _modulo(values: Values, divisor: int) -> Values:
    # Not a remainder: numpy divides by a constant in vectors, and takes remainders one by one.
    return values - values // divisor * divisor


def _logit(rate: Values) -> Values:
    functions = _functions(rate)
    rate = functions.clip(rate, LEAST_RATE, 1 - LEAST_RATE)
    return functions.log(rate / (1 - rate))


def _functions(values: Values) -> Any:
    """The module with the functions of arrays or of tensors. Those that are used here have one name in both."""
    if isinstance(values, np.ndarray):
        return np
    import torch

    return torch


def _cast(values: Values, dtype: Literal["float32", "float64"]) -> Values:
    if isinstance(values, np.ndarray):
        return values.astype(dtype, copy=False)
    return values.to(getattr(_functions(values), dtype))
