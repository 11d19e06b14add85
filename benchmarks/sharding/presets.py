"""A table mix of a given size, as a feature schema: few giant hashed tables, tens of medium ones, many small ones.

The mix is synthetic, in the proportions of published ranking models: hundreds of tables, whose sizes span
many orders of magnitude, with most bytes in a handful of crosses and ids (Mudigere et al., arXiv 2104.05158, section 2
and table 3: up to thousands of tables, dims 4 to 384, 12 trillion parameters on 128 GPUs; theirs are not public). A
larger preset has larger giant and medium tables, because hashed id spaces grow with the log; small tables do not
change.
"""

from __future__ import annotations

from easq_rec.config.schema import Feature, FeatureSchema, Outcome, Table

TB = 10**12
PRESETS = {f"{size}TB": size * TB for size in (1, 5, 20, 100)}
"""Bytes of the FP32 weights and their row-wise optimizer state."""

DIM = 128
"""Dim of all tables: the model has one projection for all user features, and one for the history."""

SATISFACTION_DIM = 8

GIANT = {
    "user": 0.22,
    "video": 0.20,
    "user_x_author": 0.16,
    "video_x_region": 0.10,
    "user_x_tag": 0.07,
    "author": 0.03,
}
"""Share of the bytes; `video` and `author` serve history and candidates, `user` users, the rest candidates."""

MIDDLING, MIDDLING_RATIO = 36, 0.9
"""Hashed crosses and long-tailed ids: each has 0.9 times the size of the previous one; together they use the rest."""

SMALL = 150
"""Attributes with 100 to 1,000,000 values, evenly spaced on a logarithmic scale."""


def schema_of(size: int) -> FeatureSchema:
    """Tables of `size` bytes in total, weights and row-wise Adagrad's state in FP32.

    Raises:
        ValueError: the small tables are larger.
    """
    small = {f"attribute_{index}": round(10 ** (2 + 4 * index / (SMALL - 1))) for index in range(SMALL)}
    weights = [MIDDLING_RATIO**index for index in range(MIDDLING)]
    rest = 1 - sum(GIANT.values())
    shares = GIANT | {f"cross_{index}": rest * weight / sum(weights) for index, weight in enumerate(weights)}
    user, candidate = _readers(list(shares), list(small))
    # The satisfaction tower has a second table with narrow rows for each candidate feature.
    twice = {*candidate, "video", "author"}
    per_row = {
        name: row_bytes(DIM) + (row_bytes(SATISFACTION_DIM) if name in twice else 0) for name in (*shares, *small)
    }
    left = size - sum(rows * per_row[name] for name, rows in small.items())
    if left <= 0:
        raise ValueError(f"a preset of {size:,} bytes is not allowed: more than {size - left:,}, the small tables")
    sizes = {name: round(left * share / per_row[name]) for name, share in shares.items()} | small
    return FeatureSchema(
        tables=tuple(Table(name=name, rows=rows, dim=DIM) for name, rows in sizes.items()),
        user=tuple(Feature(name=name, table=name) for name in user),
        history=(Feature(name="video_id", table="video"), Feature(name="author_id", table="author")),
        candidate=(
            Feature(name="video_id", table="video"),
            Feature(name="author_id", table="author"),
            *(Feature(name=name, table=name, kind="id_list" if "_x_" in name else "id") for name in candidate),
        ),
        outcomes=(Outcome(name="long_view", weight=1.0),),
        satisfaction_dim=SATISFACTION_DIM,
    )


def row_bytes(dim: int) -> int:
    """Bytes of one FP32 row and its moment of row-wise Adagrad."""
    return 4 * dim + 4


def _readers(large: list[str], small: list[str]) -> tuple[list[str], list[str]]:
    """The tables of user features and those of candidate features: alternating in each size class."""
    user = ["user", *large[len(GIANT) :: 2], *small[::2]]
    candidate = [name for name in (*large, *small) if name not in (*user, "video", "author")]
    return user, candidate
