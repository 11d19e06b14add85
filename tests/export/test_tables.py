"""Tables in the precisions of a package."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from easq_rec.export.tables import MOST_CODE, Precision, StoredTable
from tests.builders import ragged_requests

ROWS = torch.tensor(
    [[0.0, 0.0, 0.0, 0.0], [0.1, -0.2, 0.05, 0.0], [1e-30, 2e-30, 0.0, -3e-30], [1e30, -5e29, 1.0, 0.0]]
)


def test_float32_rows_are_the_tables_own() -> None:
    table = StoredTable(ROWS, "fp32")
    assert table.row.data_ptr() == ROWS.data_ptr() and table.scale is None
    assert torch.equal(table(torch.tensor([3, 1, 1])), ROWS[[3, 1, 1]])


def test_a_row_in_eight_bits_is_within_half_a_step() -> None:
    """The step is that of the row, so that a large row does not make the others coarse."""
    table = StoredTable(ROWS, "int8")
    assert table.row.dtype == torch.int8
    found = table(torch.arange(4))
    step = ROWS.abs().amax(1, keepdim=True) / MOST_CODE
    assert ((found - ROWS).abs() <= 0.5001 * step).all()
    assert torch.equal(found[0], ROWS[0])


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_scores_hardly_change(precision: Precision) -> None:

    from tests.export.test_program import HISTORY, ServedProgram, ranker_of, small_config, tensors_of

    config = small_config()
    ranker = ranker_of(config)
    requests = ragged_requests(config.schema, np.random.default_rng(0), 20)
    exact, stored = ServedProgram(ranker, config), ServedProgram(ranker, config, precision=precision)
    columns = tensors_of(exact.inputs, requests, max_history=HISTORY)
    difference = (stored(*columns) - exact(*columns)).abs().max()
    assert 0 < difference < 0.02
