"""The only place that uses private or fragile names of other libraries: one module per library and concept.

The first word of a module's name is the library. Every name has a test in `tests/upstream` that fails with a sentence
when the name is gone or means something else. `tests/test_architecture.py` finds private names in other places.

The modules in `TORCH_FREE` load without torch.
"""

TORCH_FREE = ("pyarrow_parquet", "torch_checkpoint_names", "tyro_errors")
