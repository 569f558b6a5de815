"""A codebook is a function of the items, not of their order; it is frozen, and knows what to do with new items."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import TokenizerConfig
from model.data.files import load_tensors
from model.tokenizer.codebook import Codebook
from model.tokenizer.health import health

CONFIG = TokenizerConfig(levels=4, codes_per_level=16, input_dim=8, kmeans_iterations=5, candidates=4)
NONE = np.empty((0, 4), np.int64)


def catalogue(items: int, seed: int = 0) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Ids, text [N,12], behaviour [N,10] that follows from text, and which items have behaviour. Ten equal texts."""
    rng = np.random.default_rng(seed)
    text_NE = rng.normal(size=(items, 12)).astype(np.float32)
    text_NE[:10] = text_NE[0]
    behaviour_ND = (text_NE @ rng.normal(size=(12, 10)) + 0.1 * rng.normal(size=(items, 10))).astype(np.float32)
    return [f"item {i}" for i in range(items)], text_NE, behaviour_ND, rng.random(items) < 0.8


def train(config: TokenizerConfig, items: int, seed: int = 0) -> tuple[Codebook, np.ndarray, np.ndarray]:
    ids, *vectors = catalogue(items, seed)
    codebook = Codebook.train(config, ids, *vectors)
    x_NP = codebook.inputs(*vectors)
    return codebook, x_NP, codebook.assign(ids, x_NP, NONE)


@given(st.integers(1, 2000), st.integers(0, 1000))
@settings(max_examples=12, deadline=None)
def test_items_and_codes_are_a_bijection(items: int, seed: int) -> None:
    _, _, codes_NL = train(CONFIG, items, seed)
    assert len(np.unique(codes_NL, axis=0)) == items


@given(st.permutations(range(120)))
@settings(max_examples=10, deadline=None)
def test_the_order_of_the_items_changes_nothing(order: list[int]) -> None:
    ids, *vectors = catalogue(120)
    codebook, _, codes_NL = train(CONFIG, 120)
    shuffled = [ids[i] for i in order]
    again = Codebook.train(CONFIG, shuffled, *(each[order] for each in vectors))
    np.testing.assert_array_equal(again.centroids_LKZ, codebook.centroids_LKZ)
    x_NP = again.inputs(*(each[order] for each in vectors))
    np.testing.assert_array_equal(again.assign(shuffled, x_NP, NONE), codes_NL[order])


@given(st.integers(1, 200), st.integers(1, 200), st.booleans())
@settings(max_examples=15, deadline=None)
def test_appending_never_collides(items: int, new: int, with_behaviour: bool) -> None:
    codebook, _, codes_NL = train(CONFIG, items)
    _, text_NE, behaviour_ND, _ = catalogue(new, seed=1)
    ids = [f"new {i}" for i in range(new)]
    added_NL = codebook.append(ids, text_NE, codes_NL, behaviour_ND if with_behaviour else None)
    assert len(np.unique(np.concatenate([codes_NL, added_NL]), axis=0)) == items + new


def test_an_item_that_comes_back_with_the_same_vectors_lands_beside_itself() -> None:
    codebook, _, codes_NL = train(CONFIG, 300)
    _, text_NE, behaviour_ND, has_behaviour_N = catalogue(300)
    for kept, behaviour in ((has_behaviour_N, behaviour_ND), (~has_behaviour_N, None)):
        twins = np.flatnonzero(kept)[20:60]
        seen = None if behaviour is None else behaviour[twins]
        added_NL = codebook.append([f"twin {i}" for i in twins], text_NE[twins], codes_NL, seen)
        assert (added_NL[:, :2] == codes_NL[twins, :2]).all(1).mean() > 0.9


def test_a_cold_item_lands_where_its_behaviour_would_have_put_it() -> None:
    codebook, _, _ = train(CONFIG, 1000)
    _, text_NE, behaviour_ND, _ = catalogue(1000)
    everyone, nobody = np.ones(1000, bool), np.zeros(1000, bool)
    # Half of a squared distance is behaviour: twice the product of the two halves is their cosine.
    known_NP, predicted_NP = (codebook.inputs(text_NE, behaviour_ND, has)[:, :8] for has in (everyone, nobody))
    assert 2 * (known_NP * predicted_NP).sum(1).mean() > 0.7
    assert 2 * (known_NP * np.roll(predicted_NP, 1, axis=0)).sum(1).mean() < 0.2


def test_it_is_the_same_after_saving(tmp_path: Path) -> None:
    codebook, _, codes_NL = train(CONFIG, 100)
    codebook.save(f"file://{tmp_path}/codebook")
    loaded = Codebook.load(f"{tmp_path}/codebook")
    assert loaded.config == CONFIG
    _, text_NE, _, _ = catalogue(50, seed=2)
    ids = [f"new {i}" for i in range(50)]
    np.testing.assert_array_equal(loaded.append(ids, text_NE, codes_NL), codebook.append(ids, text_NE, codes_NL))


@pytest.mark.parametrize("text_weight", [0.0, 1.0])
def test_either_input_alone_will_do(text_weight: float, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, text_weight=text_weight)
    ids, text_NE, behaviour_ND, _ = catalogue(50)
    nobody = np.zeros(50, bool)
    codebook = Codebook.train(config, ids, text_NE, behaviour_ND, nobody)
    codebook.save(str(tmp_path))
    codes_NL = codebook.assign(ids, Codebook.load(str(tmp_path)).inputs(text_NE, behaviour_ND, nobody), NONE)
    assert len(np.unique(codes_NL, axis=0)) == 50


def test_health_adds_up() -> None:
    codebook, x_NP, codes_NL = train(CONFIG, 400)
    figures = health(codebook, x_NP, codes_NL)
    assert figures["collisions_after"] == 0
    assert figures["collisions_before"] >= 8  # of the ten equal texts, those without behaviour
    assert 0 < figures["moved_share"] < 0.2
    assert 0 <= figures["added_squared_error"] < figures["reconstruction_error"] < figures["variance"]
    assert [level["codes_used"] <= 16 for level in figures["levels"]] == [True] * 4

    codes_NL[:, 0] = 3  # everything on one code of the first level, evenly over the second
    codes_NL[:, 1] = np.arange(400) % 16
    first, second, *_ = health(codebook, x_NP, codes_NL)["levels"]
    assert first == {"codes_used": 1, "perplexity": pytest.approx(1), "gini": pytest.approx(15 / 16)}
    assert second == {"codes_used": 16, "perplexity": pytest.approx(16), "gini": pytest.approx(0)}


def test_mistakes_are_named() -> None:
    ids, text_NE, behaviour_ND, has_behaviour_N = catalogue(20)
    with pytest.raises(ValueError, match=r"text_weight = 1.5 is no share"):
        Codebook.train(dataclasses.replace(CONFIG, text_weight=1.5), ids, text_NE, behaviour_ND, has_behaviour_N)
    with pytest.raises(ValueError, match="Item 'item 3' is there twice"):
        Codebook.train(CONFIG, [*ids[:19], "item 3"], text_NE, behaviour_ND, has_behaviour_N)
    codebook = Codebook.train(CONFIG, ids, text_NE, behaviour_ND, has_behaviour_N)
    with pytest.raises(ValueError, match="text vectors have 11 dimensions, the codebook was trained on 12"):
        codebook.append(ids, text_NE[:, :11], NONE)
    text_NE[7, 0] = np.nan
    with pytest.raises(ValueError, match="text vector of item 'item 7' is not finite"):
        Codebook.train(CONFIG, ids, text_NE, behaviour_ND, has_behaviour_N)


def test_the_file_keeps_the_names_that_live_codebooks_have(tmp_path: Path) -> None:
    codebook, _, _ = train(CONFIG, 50)
    codebook.save(str(tmp_path))
    names = {"centroids_LKP", "behaviour_mean_D", "behaviour_axes_DP", "text_mean_E", "text_axes_EQ"}
    assert set(load_tensors(f"{tmp_path}/codebook.safetensors")) == names | {"behaviour_from_text_XP"}
