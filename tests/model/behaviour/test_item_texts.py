from __future__ import annotations

import numpy as np

from model.behaviour.item_texts import TextComponents


def test_components_have_unit_scale_and_keep_their_order() -> None:
    rng = np.random.default_rng(0)
    text_NE = (rng.normal(size=(500, 6)) * [9, 4, 1, 1, 1, 1] + 3).astype(np.float32)
    components_NX = TextComponents.fit(text_NE, 2)(text_NE)
    assert components_NX.shape == (500, 2)
    assert np.isclose(np.square(components_NX).mean(), 1, atol=1e-5)
    spread_X = components_NX.std(axis=0)
    assert np.isclose(spread_X[0] / spread_X[1], np.sqrt(9 / 4), rtol=0.1)


def test_a_later_text_unlike_all_others_is_not_far_from_them() -> None:
    """Four texts span three directions; what a fifth has in others says nothing."""
    text_NE = np.eye(4, 10, dtype=np.float32)
    components = TextComponents.fit(text_NE, 8)
    later_NX = components(10 * np.eye(10, dtype=np.float32)[6:7])
    assert np.abs(later_NX).max() < 1e2 * np.abs(components(text_NE)).max()


def test_texts_that_are_all_equal_say_nothing() -> None:
    assert not TextComponents.fit(np.ones((5, 3), np.float32), 2)(np.ones((5, 3), np.float32)).any()


def test_a_vector_from_a_text_is_the_projection_of_its_components() -> None:
    rng = np.random.default_rng(0)
    text_NE, weight_DX = rng.normal(size=(20, 6)).astype(np.float32), rng.normal(size=(3, 4)).astype(np.float32)
    components = TextComponents.fit(text_NE, 4)
    parts = components.projected(weight_DX)
    mapped_ND = (text_NE - parts["text_mean_E"]) @ parts["text_map_ED"]
    np.testing.assert_allclose(mapped_ND, components(text_NE) @ weight_DX.T, atol=1e-5)
