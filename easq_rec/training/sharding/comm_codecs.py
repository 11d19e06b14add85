"""Precision of embeddings and their gradients in the exchange between ranks."""

from __future__ import annotations

from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs
from torchrec.distributed.types import CommOp, QuantizedCommCodecs


def codecs(precision: str) -> dict[str, QuantizedCommCodecs] | None:
    """Codecs by TorchRec's name of the collective; None for fp32, which is exchanged without rounding.

    TorchRec's default on the CPU would silently replace BF16 by FP16.

    Args:
        precision: fp32, fp16, bf16 or int8. INT8 packs 32 columns, so the columns that a rank sends must be a multiple
            of 32.
    """
    if precision == "fp32":
        return None
    kind = CommType(precision)
    config = QCommsConfig(forward_precision=kind, backward_precision=kind)
    operations = (
        CommOp.POOLED_EMBEDDINGS_ALL_TO_ALL,
        CommOp.POOLED_EMBEDDINGS_REDUCE_SCATTER,
        CommOp.SEQUENCE_EMBEDDINGS_ALL_TO_ALL,
    )
    return {operation.name: get_qcomm_codecs(config) for operation in operations}
