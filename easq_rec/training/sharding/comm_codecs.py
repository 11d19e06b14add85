"""What embeddings and their gradients are rounded to on their way between ranks."""

from __future__ import annotations

from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs
from torchrec.distributed.types import CommOp, QuantizedCommCodecs


def codecs(precision: str) -> dict[str, QuantizedCommCodecs] | None:
    """By TorchRec's name of each collective; None for fp32, as they are.

    TorchRec's own choice for the CPU would quietly put FP16 in BF16's place.

    Args:
        precision: fp32, fp16, bf16 or int8. INT8 packs 32 columns and wants whole packs of what a rank sends.
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
