"""The aligned tokenizer: it learns, it is balanced, it is the same twice and for any order of the items."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from model.tokenizer.autoencoder import Autoencoder, train_autoencoder
from model.tokenizer.codebook import Codebook
from model.tokenizer.health import health
from model.tokenizer.residual import sinkhorn
from tests.model.tokenizer.conftest import IDS, ITEMS, NONE, TRAINED

CONFIG = dataclasses.replace(TRAINED, kind="autoencoder", input_dim=6, text_weight=0.0)


@pytest.fixture(scope="module")
def codebook(grouped: tuple[np.ndarray, ...]) -> Codebook:
    return Codebook.train(CONFIG, IDS, *grouped)


def test_codes_rebuild_the_inputs(codebook: Codebook, grouped: tuple[np.ndarray, ...]) -> None:
    x_NP = codebook.inputs(*grouped)
    codes_NL = codebook.assign(IDS, x_NP, NONE)
    figures = health(codebook, x_NP, codes_NL)
    assert figures["collisions_after"] == 0
    assert figures["reconstruction_error"] < 0.25 * figures["variance"]
    assert all(level["codes_used"] == 8 for level in figures["levels"])


def test_any_order_gives_the_same_codes(codebook: Codebook, grouped: tuple[np.ndarray, ...]) -> None:
    ids = np.array(IDS)
    order = np.random.default_rng(1).permutation(ITEMS)
    again = Codebook.train(CONFIG, list(ids[order]), *(each[order] for each in grouped))
    np.testing.assert_array_equal(again.centroids_LKZ, codebook.centroids_LKZ)
    shuffled_NL = again.assign(list(ids[order]), again.inputs(*(each[order] for each in grouped)), NONE)
    np.testing.assert_array_equal(shuffled_NL, codebook.assign(list(ids), codebook.inputs(*grouped), NONE)[order])


def test_a_saved_codebook_gives_the_same_codes(
    codebook: Codebook, grouped: tuple[np.ndarray, ...], tmp_path: Path
) -> None:
    codebook.save(str(tmp_path))
    loaded = Codebook.load(str(tmp_path))
    new = ["new 1", "new 2"]
    added = [each.append(new, grouped[0][:2], NONE) for each in (codebook, loaded)]
    np.testing.assert_array_equal(*added)


def test_a_codebook_is_made_exact_once(
    codebook: Codebook, grouped: tuple[np.ndarray, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codes of users are asked for batch by batch."""
    x_NP = codebook.inputs(*grouped)
    assert codebook.autoencoder is not None
    expected_NZ = codebook.autoencoder.encode(x_NP).round(9)
    copied: list[object] = []
    deepcopy = copy.deepcopy
    monkeypatch.setattr("copy.deepcopy", lambda each: copied.append(each) or deepcopy(each))
    fresh = dataclasses.replace(codebook)
    for _ in range(3):
        np.testing.assert_array_equal(fresh.quantised(x_NP), expected_NZ)
    assert len(copied) == 1


def test_alignment_brings_codes_and_texts_together(grouped: tuple[np.ndarray, ...]) -> None:
    text_NE, behaviour_ND, _ = grouped
    x_NP = behaviour_ND / np.linalg.norm(behaviour_ND, axis=1, keepdims=True)
    losses = []
    for weight in (0.0, 1.0):
        model = train_autoencoder(x_NP, text_NE, dataclasses.replace(CONFIG, alignment_weight=weight))
        batch = (torch.as_tensor(x_NP[:64], dtype=torch.float32), torch.as_tensor(text_NE[:64]))
        losses.append(model.losses(*batch, quantised=True)[0]["alignment"].item())
    assert losses[1] < 0.7 * losses[0]


def test_gradients_of_the_reconstruction_pass_through_the_codes() -> None:
    torch.manual_seed(0)
    model = Autoencoder(6, 10, CONFIG)
    torch.nn.init.normal_(model.codes_LKZ)
    losses, codes = model.losses(torch.randn(16, 6), torch.randn(16, 10), quantised=True)
    losses["reconstruction"].backward()
    assert model.encoder[0].weight.grad.abs().sum() > 0
    assert model.codes_LKZ.grad is None or model.codes_LKZ.grad.abs().sum() == 0
    assert [len(code_B) for code_B in codes] == [16] * 3


def test_sinkhorn_gives_each_code_as_many_items() -> None:
    torch.manual_seed(0)
    crowded_BK = torch.cdist(torch.randn(128, 2), torch.randn(8, 2) * 0.1 + 2).square()
    nearest = torch.bincount(crowded_BK.argmin(1), minlength=8)
    balanced = torch.bincount(sinkhorn(crowded_BK, CONFIG), minlength=8)
    assert nearest.max() > 3 * 16
    assert balanced.max() <= 2 * 16
    assert balanced.min() >= 4


def test_settings_that_cannot_work_are_named(grouped: tuple[np.ndarray, ...]) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.check_every"):
        train_autoencoder(grouped[1], grouped[0], dataclasses.replace(CONFIG, epochs=3))
    with pytest.raises(ValueError, match=r"tokenizer\.learning_rate"):
        train_autoencoder(grouped[1], grouped[0], dataclasses.replace(CONFIG, learning_rate=1e20))
