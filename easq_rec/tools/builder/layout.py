"""Columns of the two datasets that a build writes."""

from __future__ import annotations

import pyarrow as pa

from easq_rec.tools.builder.config import Build, Field

TYPES = {
    "id": pa.int64(),
    "ids": pa.list_(pa.int64()),
    "weighted_ids": pa.list_(pa.struct({"id": pa.int64(), "weight": pa.float32()})),
    "text": pa.int64(),
    "texts": pa.list_(pa.int64()),
    "float": pa.float32(),
    "floats": pa.list_(pa.float32()),
    "flag": pa.int8(),
}


def dataset_schema(build: Build, *, answers: bool) -> pa.Schema:
    """The Arrow schema of `requests/`, or of `answers/`."""
    history = build.videos.history if build.videos is not None else ()
    entry = [
        pa.field("video_id", pa.int64()),
        *_fields({name: build.video_features[name] for name in history}),
        pa.field("timestamp_ms", pa.int64()),
        pa.field("watch_ratio", pa.float32()),
    ]
    candidate = [
        pa.field("video_id", pa.int64()),
        *_fields(build.video_features),
        pa.field("duration_ms", pa.int32()),
        *_fields(build.impressions.features),
        pa.field("watch_ms", pa.int32()),
        pa.field("known_ms", pa.int64()),
        *([] if "long_view" in build.impressions.outcomes else [pa.field("long_view", pa.int8())]),
        *_fields(build.impressions.outcomes),
    ]
    if answers:
        candidate += [pa.field("answer", pa.int8()), pa.field("answered_at_ms", pa.int64())]
    user = [pa.field("user", pa.struct(_fields(build.user_features)))] if build.user_features else []
    return pa.schema(
        [
            pa.field("request_id", pa.int64()),
            pa.field("user_id", pa.int64()),
            pa.field("timestamp_ms", pa.int64()),
            *user,
            pa.field("history", pa.list_(pa.struct(entry))),
            pa.field("candidates", pa.list_(pa.struct(candidate))),
        ]
    )


def _fields(fields: dict[str, Field]) -> list[pa.Field]:
    return [pa.field(name, TYPES[field.type]) for name, field in fields.items()]
