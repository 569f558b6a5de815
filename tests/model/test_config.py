"""Settings survive the way through JSON to another process."""

from __future__ import annotations

import dataclasses
import json

import pytest

from model.config import BackboneConfig, ModelConfig, TokenizerConfig, model_config


def test_settings_come_back_from_json() -> None:
    config = ModelConfig(tokenizer=TokenizerConfig(levels=3), backbone=BackboneConfig(layers=1), history_items=7)
    assert model_config(json.loads(json.dumps(dataclasses.asdict(config)))) == config
    assert model_config({"tokenizer": {"levels": 3}}).tokenizer == TokenizerConfig(levels=3)


def test_unknown_keys_are_named() -> None:
    with pytest.raises(ValueError, match=r"model.tokenizer have unknown key\(s\) level; known are kind, levels"):
        model_config({"tokenizer": {"level": 3}})
