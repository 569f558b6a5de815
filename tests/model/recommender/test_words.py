from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.recommender import words
from model.recommender.words import Words

TEXTS = ["OPI nail lacquer", "OPI Nail lacquer, red", "Red hair brush", "Hair brush (travel)"]


def test_terms_are_what_two_texts_share() -> None:
    found = Words.of(TEXTS)
    assert found.terms == ["brush", "hair", "hair brush", "lacquer", "nail", "nail lacquer", "opi", "opi nail", "red"]
    assert found.weights == pytest.approx([np.log(2)] * 9)


def test_vectors_are_of_unit_length_and_alike_where_words_are() -> None:
    rows = Words.of(TEXTS).vectors([*TEXTS, "nothing known", ""]).toarray()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 1, 1, 0, 0], atol=1e-6)
    cosine = rows @ rows.T
    assert cosine[0, 1] == pytest.approx(np.sqrt(5 / 6))
    assert cosine[0, 3] == 0


def test_a_vocabulary_is_bounded_to_the_most_frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MOST_TERMS", 2)
    assert Words.of([*TEXTS, "hair", "hair red", "red"]).terms == ["hair", "red"]


@given(st.lists(st.text(max_size=20), min_size=1, max_size=8))
def test_any_texts_will_do(texts: list[str]) -> None:
    rows = Words.of(texts).vectors(texts)
    assert rows.shape[0] == len(texts)
    assert np.isfinite(rows.toarray()).all()
