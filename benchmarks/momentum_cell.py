"""The program of a cell of `benchmarks.rare_answers`: in aligned steps momentum moves what no loss moves.

That is what AdamW does with gradients of zero. Its arguments are those of `easq_rec.tools.studies.cell`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from torch import nn

from easq_rec.data.batch import RequestBatch
from easq_rec.model.network import RankingNetwork
from easq_rec.tools.studies import cell


def resting(network: RankingNetwork, batch: RequestBatch) -> list[nn.Parameter]:
    """Only what has no gradient at all."""
    return [] if batch.aligned else network.pathway()


def main(argv: Sequence[str]) -> int:
    RankingNetwork.resting = resting  # type: ignore[method-assign]
    return cell.main(argv[0], argv[1:])


if __name__ == "__main__":
    sys.exit(cell.call(main))
