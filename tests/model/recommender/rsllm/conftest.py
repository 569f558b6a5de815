"""The circle with what RSLLM reads beside it: a teacher that knows the circle, and texts that know it too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from model.data.files import save_tensors
from model.recommender.methods.base import Floats
from tests.model.recommender.conftest import ITEMS

FINETUNE = {"epochs": 4, "batch_size": 16, "learning_rate": 1e-2, "row_tokens": 512, "patience": 0}
BACKBONE = {
    "hidden_size": 32,
    "layers": 2,
    "heads": 2,
    "intermediate_size": 64,
    "text_vocabulary": 300,
    "max_positions": 512,
}
RECIPE = {"title_tokens": 4, "text_share": 0.25, "curriculum": 0.25, "user_item_weight": 1.0}
NEW = 1
"""Item that nobody took, though its text says where on the circle it is."""


def on_circle(place: np.ndarray, dim: int) -> Floats:
    angle_N = place / ITEMS * 2 * np.pi
    waves = [wave(k * angle_N) for k in range(1, dim // 2 + 1) for wave in (np.cos, np.sin)]
    vectors_ND: Floats = np.stack(waves, axis=1).astype(np.float32)
    return vectors_ND


@pytest.fixture(scope="session")
def known(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Inputs of a training."""
    folder = tmp_path_factory.mktemp("teacher")
    count_N = np.where(np.arange(ITEMS) == NEW, 0, 5)
    vectors = {"vectors": on_circle(np.arange(ITEMS), 8), "count": count_N.astype(np.int64)}
    save_tensors(f"{folder}/behaviour/vectors.safetensors", vectors)
    save_tensors(f"{folder}/text.safetensors", {"vectors": on_circle(np.arange(ITEMS), 6)})
    return inputs | {"behaviour": f"{folder}/behaviour", "text_vectors": f"{folder}/text.safetensors"}


@pytest.fixture
def ids_request(request_of: Callable[..., dict[str, Any]], known: dict[str, str]) -> Callable[..., dict[str, Any]]:
    """ids_request(name, rsllm={…}, finetune={…}, …): as request_of, of this method."""

    def make(name: str = "model", **changes: dict[str, Any]) -> dict[str, Any]:
        settings = {"finetune": FINETUNE, "backbone": BACKBONE, "rsllm": RECIPE}
        parts = {part: settings.get(part, {}) | changes.get(part, {}) for part in {*settings, *changes}}
        return request_of(name, **parts) | {"inputs": known}

    return make
