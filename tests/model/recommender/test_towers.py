"""Towers take in new states without losing what codes mean; where the states only lie elsewhere, nothing changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.config import TokenizerConfig
from model.recommender.dynamic_index import moved, renewal_steps
from model.recommender.methods.base import Ints
from model.recommender.towers import Tower
from model.recommender.users import Views
from model.tokenizer.codebook import Codebook
from model.tokenizer.quantizer import reconstruct

ITEMS, E, D = 120, 12, 6
CONFIG = TokenizerConfig(
    kind="dual_autoencoder", levels=3, codes_per_level=8, epochs=12, batch_size=32, latent_dim=8, hidden_dim=16
)
HYSTERESIS = 0.1


@pytest.fixture
def views() -> Views:
    rng = np.random.default_rng(0)
    text_NE, behaviour_ND = (rng.normal(size=(ITEMS, width)).astype(np.float32) for width in (E, D))
    return Views(text_NE, behaviour_ND, np.arange(ITEMS) % 5 > 0)


def codes_of(codebook: Codebook, views: Views) -> Ints:
    none = np.empty((0, CONFIG.levels), np.int64)
    return codebook.assign([f"{item:03}" for item in range(ITEMS)], codebook.inputs(*views), none)


@pytest.fixture
def tower(views: Views) -> Tower:
    return Tower(Codebook.train(CONFIG, [f"{item:03}" for item in range(ITEMS)], *views), views, 0.1)


def test_states_that_are_turned_shifted_and_scaled_are_the_same_states(tower: Tower, views: Views) -> None:
    codes_NL, before_NP = codes_of(tower.frozen(), views), tower.x_NP
    for _ in range(4):  # codes and what they stand for settle together, sooner or later by the processor's rounding
        tower.read(views, codes_NL)
        codes_NL = moved(tower.frozen(), before_NP, codes_NL, HYSTERESIS)
    tower.read(views, codes_NL)
    expected_NL = moved(tower.frozen(), before_NP, codes_NL, HYSTERESIS)
    turn_EE = np.linalg.qr(np.random.default_rng(1).normal(size=(E, E)))[0]
    elsewhere = views._replace(text_NE=(3 * views.text_NE @ turn_EE + 20).astype(np.float32))
    frozen = tower.frozen()
    unread_NL = moved(frozen, frozen.inputs(*elsewhere), codes_NL, HYSTERESIS)
    assert (unread_NL != codes_NL).any(1).mean() > 0.5
    tower.read(elsewhere, codes_NL)
    np.testing.assert_allclose(tower.x_NP, before_NP, atol=1e-4)
    assert np.array_equal(moved(tower.frozen(), tower.x_NP, codes_NL, HYSTERESIS), expected_NL)
    assert (expected_NL == codes_NL).all(1).mean() > 0.9


def test_codes_follow_the_rows_that_have_them(tower: Tower, views: Views) -> None:
    """Of states that have changed in earnest: what the codes stand for goes along."""
    codes_NL = codes_of(tower.frozen(), views)
    rng = np.random.default_rng(2)
    changed = views._replace(text_NE=(views.text_NE + rng.normal(size=views.text_NE.shape)).astype(np.float32))
    frozen = tower.frozen()
    tower.read(changed, codes_NL)
    now = tower.frozen()
    assert np.array_equal(now.transform.text_mean_E, changed.text_NE.mean(0, dtype=np.float64))
    latent_NZ = now.quantised(tower.x_NP)
    errors = [((latent_NZ - reconstruct(codes_NL, each.centroids_LKZ)) ** 2).sum() for each in (now, frozen)]
    assert errors[0] < 0.9 * errors[1]


def test_a_tower_comes_back_from_its_tensors(tower: Tower, views: Views) -> None:
    codes_NL = codes_of(tower.frozen(), views)
    now = views._replace(text_NE=views.text_NE[:, ::-1].copy())
    tower.read(now, codes_NL)
    rows = np.arange(32)
    tower.step(rows)
    again = Tower(Codebook.train(CONFIG, [f"{item:03}" for item in range(ITEMS)], *views), views, 0.1)
    again.load({name: each.clone() for name, each in tower.tensors().items()}, 1, now)
    for each in (tower, again):
        torch.manual_seed(0)
        each.step(rows)
    for name, tensor in tower.tensors().items():
        assert torch.equal(tensor, again.tensors()[name]), name


@pytest.mark.parametrize(
    ("renewals", "steps", "expected"),
    [(4, 130, [26, 52, 78, 104]), (1, 9, [4]), (0, 9, []), (5, 3, [1, 2]), (9, 1, [])],
)
def test_codes_rest_in_the_last_part_of_the_stage(renewals: int, steps: int, expected: list[int]) -> None:
    assert renewal_steps(renewals, steps) == expected
