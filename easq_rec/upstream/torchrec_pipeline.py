"""The parts of a step in TorchRec's train pipelines."""

from __future__ import annotations

STAGES = {
    "_next_batch": "data",
    "copy_batch_to_gpu": "host_to_device",
    "_copy_batch_to_gpu": "host_to_device",
    "start_sparse_data_dist": "ids_exchange",
    "wait_sparse_data_dist": "ids_exchange",
    "_prefetch": "embeddings",
    "start_embedding_lookup": "embeddings",
}
"""What each method of a pipeline does: takes a batch from the iterator (`data`), copies it to the device, exchanges the
ids between the ranks, or looks embeddings up. A pipeline has some of these methods."""
