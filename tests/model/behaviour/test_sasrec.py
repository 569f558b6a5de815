"""Causality, padding and the loss's definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model.behaviour.sasrec import SasRec
from model.config import BehaviourConfig

TEXT_NX = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
CONFIG = BehaviourConfig(dim=16, layers=2, heads=2, dropout=0.3)


@pytest.fixture
def model() -> SasRec:
    torch.manual_seed(0)
    return SasRec(items=30, positions=8, config=CONFIG).eval()


def test_a_state_depends_on_earlier_items_alone(model: SasRec) -> None:
    items_BT = torch.randint(0, 30, (4, 8))
    changed_BT = items_BT.clone()
    changed_BT[:, 5:] = torch.tensor([7, -1, -1])
    torch.testing.assert_close(model.encode(items_BT)[:, :5], model.encode(changed_BT)[:, :5])
    assert not torch.allclose(model.encode(items_BT)[:, 5], model.encode(changed_BT)[:, 5])


def test_the_loss_is_the_mean_over_targets_that_have_something_before_them(model: SasRec) -> None:
    items_BT = torch.tensor([[3, 4, 5, -1], [6, 7, -1, -1]])
    targets_BT = torch.tensor([[1, 0, 1, 1], [1, 1, 0, 0]])  # a first item and a padded position are no targets
    loss, count = model(items_BT, targets_BT)
    logits_BTN = model.encode(items_BT) @ model.item_embedding.weight.T
    expected = (
        F.cross_entropy(logits_BTN[0, 1], torch.tensor(5)) + F.cross_entropy(logits_BTN[1, 0], torch.tensor(7))
    ) / 2
    assert count == 2
    torch.testing.assert_close(loss, expected)


def test_a_batch_without_targets_costs_nothing(model: SasRec) -> None:
    loss, count = model(torch.tensor([[3, -1]]), torch.tensor([[1, 0]]))
    loss.backward()
    assert (loss.item(), count) == (0.0, 0)
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.blocks.parameters())


def test_texts_are_folded_into_the_weights() -> None:
    """The encoder without texts that has these weights computes the same."""
    torch.manual_seed(0)
    reads = SasRec(30, 8, CONFIG, TEXT_NX).eval()
    plain = SasRec(30, 8, CONFIG).eval()
    plain.load_state_dict(reads.weights())
    items_BT = torch.randint(0, 30, (4, 8))
    torch.testing.assert_close(plain.encode(items_BT), reads.encode(items_BT))
    assert not torch.equal(plain.item_embedding.weight, reads.item_embedding.weight)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"behaviour.dim = 15 is no multiple of behaviour.heads = 2"):
        SasRec(5, 4, BehaviourConfig(dim=15, heads=2))


@pytest.mark.parametrize("text_NX", [None, TEXT_NX], ids=["ids", "texts"])
def test_a_large_catalogue_is_trained_against_drawn_items(text_NX: np.ndarray | None) -> None:
    """Against all items many times over, the drawn loss is the full one; own targets never count as others."""
    torch.manual_seed(0)
    full = SasRec(30, 8, CONFIG, text_NX).eval()
    drawn = SasRec(30, 8, replace(CONFIG, sampled_softmax_above=29, negatives=200_000), text_NX).eval()
    drawn.load_state_dict(full.state_dict())
    items_BT, targets_BT = torch.randint(0, 30, (4, 8)), torch.ones(4, 8, dtype=torch.long)
    exact, sampled = (model(items_BT, targets_BT)[0].item() for model in (full, drawn))
    assert sampled == pytest.approx(exact, rel=0.01)
