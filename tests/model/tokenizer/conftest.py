"""A small catalogue whose behaviour follows from its texts, and settings for the tokenizers that train on it."""

from __future__ import annotations

import numpy as np
import pytest

from model.config import TokenizerConfig

ITEMS = 200
IDS = [f"{i:03}" for i in range(ITEMS)]
NONE = np.empty((0, 3), np.int64)
TEXT_DIM, BEHAVIOUR_DIM = 10, 6
TRAINED = TokenizerConfig(
    levels=3,
    codes_per_level=8,
    hidden_dim=16,
    latent_dim=4,
    epochs=40,
    batch_size=64,
    learning_rate=5e-3,
    check_every=4,
)


@pytest.fixture(scope="session")
def grouped() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Text [N,10] in eight groups, behaviour [N,6] that follows from it, and which items have behaviour."""
    rng = np.random.default_rng(0)
    group_N = rng.integers(0, 8, ITEMS)
    text_NE = rng.normal(size=(8, TEXT_DIM))[group_N] + 0.2 * rng.normal(size=(ITEMS, TEXT_DIM))
    behaviour_ND = text_NE @ rng.normal(size=(TEXT_DIM, BEHAVIOUR_DIM)) + 0.1 * rng.normal(size=(ITEMS, BEHAVIOUR_DIM))
    return text_NE.astype(np.float32), behaviour_ND.astype(np.float32), rng.random(ITEMS) < 0.9
