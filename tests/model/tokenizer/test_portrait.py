"""The tree, the examples and the picture of a codebook."""

from __future__ import annotations

import numpy as np

from model.tokenizer.portrait import examples, picture, tree


def test_the_tree_counts_prefixes_of_each_length() -> None:
    codes_NL = np.array([[0, 0], [0, 1], [3, 0]])
    assert tree(codes_NL) == [{"prefixes": 2, "largest": 2}, {"prefixes": 3, "largest": 1}]


def test_examples_are_the_items_in_the_middle_of_the_largest_codes() -> None:
    x_NP = np.array([[0.0], [1.0], [2.0], [50.0], [9.0], [9.5]])
    codes_NL = np.array([[1], [1], [1], [1], [4], [4]])
    first, second = examples(x_NP, codes_NL, ["a", "b", "c", "far", "d", "e"])
    assert (first["code"], first["items"], first["titles"][0], first["titles"][-1]) == (1, 4, "c", "far")
    assert (second["code"], second["items"], second["titles"]) == (4, 2, ["d", "e"])


def test_the_picture_shows_the_widest_spread_first() -> None:
    rng = np.random.default_rng(0)
    x_NP = rng.normal(size=(50, 4)) * [0.1, 5, 0.1, 1]
    place_N2 = picture(x_NP)
    assert abs(np.corrcoef(place_N2[:, 0], x_NP[:, 1])[0, 1]) > 0.99
    assert abs(np.corrcoef(place_N2[:, 1], x_NP[:, 3])[0, 1]) > 0.95
