"""All user features can share one token: a linear function of their embeddings and numbers side by side."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from easq_rec.config import Config
from easq_rec.model.lora import Stream
from easq_rec.model.ranker import Ranker
from easq_rec.model.tokens import Tokenizer
from tests.builders import excite, random_batch, small_config, with_every_kind


def config_with(tokens: str) -> Config:
    config = small_config()
    return dataclasses.replace(
        config,
        schema=with_every_kind(config.schema),
        model=dataclasses.replace(config.model, user_tokens=tokens),  # type: ignore[arg-type]
    )


@pytest.fixture
def tokens() -> Tokenizer:
    ranker = Ranker(config_with("one"), torch.device("cpu"))
    excite(ranker)
    return ranker.network.tokens


def test_the_token_is_a_linear_function_of_all_features(tokens: Tokenizer) -> None:
    embedded_RM = torch.randn(5, tokens.user_width + tokens.user_numbers.width)
    found_RUD = tokens.users(embedded_RM, Stream.MAIN)
    merged = tokens.user.merged()
    assert found_RUD.shape[1] == 1 and tokens.user_numbers.width == 4 and merged is not None
    expected_RD = F.linear(embedded_RM, merged, tokens.user.bias) + tokens.user_feature_UD[0]
    torch.testing.assert_close(found_RUD[:, 0], expected_RD)
    torch.testing.assert_close(tokens.users(embedded_RM, Stream.SATISFACTION), found_RUD)


def test_every_user_feature_changes_the_token(tokens: Tokenizer) -> None:
    embedded_RM = torch.randn(1, tokens.user_width + tokens.user_numbers.width)
    before = tokens.users(embedded_RM, Stream.MAIN)
    for column in range(embedded_RM.shape[1]):
        changed_RM = embedded_RM.clone()
        changed_RM[0, column] += 1.0
        assert not torch.equal(tokens.users(changed_RM, Stream.MAIN), before), column


def test_a_request_has_fewer_tokens_and_a_score_for_every_candidate() -> None:
    scores = {}
    for kind in ("each", "one"):
        config = config_with(kind)
        ranker = Ranker(config, torch.device("cpu")).eval()
        batch = random_batch(config)
        scores[kind] = ranker.score(batch).main_N
        assert scores[kind].shape == (batch.total.candidates,) and scores[kind].isfinite().all()
    assert not torch.equal(scores["each"], scores["one"])
