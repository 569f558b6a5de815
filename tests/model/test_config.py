"""Settings survive the way through JSON to another process."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from model.config import BackboneConfig, FinetuneConfig, FusionConfig, ModelConfig, TokenizerConfig, model_config


def test_settings_come_back_from_json() -> None:
    config = ModelConfig(tokenizer=TokenizerConfig(levels=3), backbone=BackboneConfig(layers=1), history_items=7)
    assert model_config(json.loads(json.dumps(dataclasses.asdict(config)))) == config
    assert model_config({"tokenizer": {"levels": 3}}).tokenizer == TokenizerConfig(levels=3)


def test_unknown_keys_are_named() -> None:
    with pytest.raises(ValueError, match=r"model.tokenizer have unknown key\(s\) level; known are kind, levels"):
        model_config({"tokenizer": {"level": 3}})


@pytest.mark.parametrize(
    ("part", "wrong", "said"),
    [
        (FinetuneConfig, {"epochs": 0, "row_tokens": 0}, "epochs = 0, row_tokens = 0: must be at least 1"),
        (FinetuneConfig, {"patience": -1}, "patience = -1: must be at least 0"),
        (FinetuneConfig, {"mixture": {"title_fits": -0.1}}, r"title_fits = -0\.1"),
        (BackboneConfig, {"lora_rank": -4}, "lora_rank = -4"),
        (TokenizerConfig, {"check_every": 0}, "check_every = 0"),
    ],
)
def test_numbers_out_of_bounds_are_named(part: Any, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        part(**wrong)


def test_a_fusion_needs_a_signal_that_chooses_the_shortlist() -> None:
    with pytest.raises(ValueError, match=r"none can choose a shortlist\. Add teacher"):
        FusionConfig(signals=["language_model"])
    assert FusionConfig(signals=[]).signals == []
