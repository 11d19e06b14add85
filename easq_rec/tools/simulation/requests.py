"""Requests of simulated users in the form that a ranker reads, without files."""

from __future__ import annotations

import numpy as np

from easq_rec.data.columns import Ragged, RequestColumns, offsets_of
from easq_rec.tools.simulation.latents import Latents
from easq_rec.tools.simulation.rounds import Round


def as_columns(part: Round, latents: Latents, *, max_history: int) -> RequestColumns:
    """The columns that the reader would return for these requests, without outcomes."""
    user, video = part.user_id, part.video.ravel()
    valid = np.arange(part.history_video.shape[1]) < part.history_length[:, None]
    watched = part.history_video[valid].astype(np.int64)
    history = Ragged(
        offsets=offsets_of(part.history_length),
        children={
            "video_id": watched,
            "author_id": latents.author[watched],
            "timestamp_ms": part.history_timestamp_ms[valid],
            "watch_ratio": part.history_ratio[valid],
        },
    )
    tag_count = latents.tag_count[video]
    has_tag = np.arange(latents.tags.shape[1]) < tag_count[:, None]
    tags = Ragged(offsets=offsets_of(tag_count), children={"values": latents.tags[video][has_tag]})
    return RequestColumns(
        scalars={
            "request_id": part.request_id,
            "user_id": user,
            "timestamp_ms": part.timestamp_ms,
            "user.age_group": latents.age_group[user],
            "user.region": latents.region[user],
            "user.device": latents.device[user],
        },
        lists={},
        history=history.last(max_history),
        candidates=Ragged(
            offsets=offsets_of(np.full(len(user), part.video.shape[1])),
            children={
                "video_id": video,
                "author_id": latents.author[video],
                "tags": tags,
                "duration_ms": latents.duration_ms[video].astype(np.float32),
            },
        ),
    )
