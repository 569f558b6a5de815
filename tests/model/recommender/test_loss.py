from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from model.config import BackboneConfig, Normalisation
from model.recommender import loss as loss_module
from model.recommender.backbone import add_codes, build_backbone
from model.recommender.batches import Batches, negatives_of
from model.recommender.examples import Examples
from model.recommender.loss import AlignmentLoss, TensorBatch, within_blocks
from model.recommender.queries import KeyTerms
from model.recommender.rows import Batch
from model.recommender.vocabulary import CodeVocabulary
from model.task_names import default_mixture
from tests.model.recommender.conftest import CODES, COLOURS, CONFIG, ITEMS, LEVELS, THINGS, item_codes

TITLES = [f"{COLOURS[i % 5]} {THINGS[i % 6]}" for i in range(ITEMS)]
TINY = BackboneConfig(hidden_size=32, layers=2, heads=2, intermediate_size=64, text_vocabulary=300)


def qwen(vocabulary_size: int) -> Any:
    """Another family, with a head of its own and fewer heads for keys than for queries."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=vocabulary_size, tie_word_embeddings=False, **shape))


@pytest.fixture(scope="module", params=["llama", "qwen"])
def subject(request: pytest.FixtureRequest) -> tuple[Any, CodeVocabulary, Examples]:
    model, tokenizer = build_backbone(TINY, TITLES, seed=0)
    model = model if request.param == "llama" else qwen(len(tokenizer))
    vocabulary = add_codes(model, tokenizer, np.random.default_rng(0).normal(size=(LEVELS, CODES, 6)), seed=0)
    return model, vocabulary, Examples(tokenizer, vocabulary, item_codes(ITEMS), TITLES, TITLES, KeyTerms.of(TITLES))


def micro_batch(inputs: dict[str, str], examples: Examples) -> Batch:
    negatives = negatives_of(inputs["training_set"], item_codes(ITEMS), examples)
    return next(Batches(inputs["training_set"], examples, negatives, CONFIG).read(0, 0, 1))


@pytest.mark.parametrize("normalisation", ["level", "vocabulary"])
def test_the_loss_is_the_plain_softmax_of_each_example_alone(
    inputs: dict[str, str], subject: tuple[Any, CodeVocabulary, Examples], normalisation: Normalisation
) -> None:
    """Against the full logits of unpacked examples, one by one, label by label."""
    model, vocabulary, examples = subject
    batch = micro_batch(inputs, examples)
    tensors = TensorBatch.of(batch, torch.device("cpu"))
    tasks = len(default_mixture())
    found_Y = AlignmentLoss(model, vocabulary, normalisation, tasks)(tensors)
    rows_of = {token: row for row in vocabulary.token_ids_LK.tolist() for token in row}
    expected_Y = torch.zeros(tasks)
    block_F, position_F, ids_F = (each.flatten() for each in (tensors.block_RP, tensors.position_RP, tensors.ids_RP))
    alone = {block: model(ids_F[block_F == block][None]).logits[0] for block in block_F.unique().tolist() if block}
    for label, token, task in zip(tensors.label_M, tensors.target_M.tolist(), tensors.task_M, strict=True):
        logits_V = alone[int(block_F[label])][position_F[label]]
        inside = rows_of.get(token) if normalisation == "level" else None
        expected_Y[task] += (logits_V if inside is None else logits_V[inside]).logsumexp(0) - logits_V[token]
    torch.testing.assert_close(found_Y, expected_Y, atol=1e-3, rtol=1e-4)


def test_many_labels_go_in_pieces_to_the_same_gradient(
    inputs: dict[str, str], subject: tuple[Any, CodeVocabulary, Examples], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, vocabulary, examples = subject
    tensors = TensorBatch.of(micro_batch(inputs, examples), torch.device("cpu"))
    gradients = []
    for most in (10_000, 7):
        monkeypatch.setattr(loss_module, "LABELS_AT_A_TIME", most)
        model.zero_grad()
        AlignmentLoss(model, vocabulary, "vocabulary", len(default_mixture()))(tensors).sum().backward()
        gradients.append({name: each.grad.clone() for name, each in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-4, rtol=1e-4)


def test_attention_stays_within_an_example() -> None:
    read_RPP = within_blocks(torch.tensor([[1, 1, 2, 0]]))[:, 0].tolist()
    assert read_RPP == [
        [
            [True, False, False, False],
            [True, True, False, False],
            [False, False, True, False],
            [False, False, False, True],
        ]
    ]
