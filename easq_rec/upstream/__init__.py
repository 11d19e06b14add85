"""The only place that uses private or fragile names of other libraries, one module per library.

Every name has a test in `tests/upstream` that fails with a sentence when the name is gone or means something else.
"""
