"""Key terms of texts, and what a history says about interests."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.recommender.queries import INTERESTS, MOST_COMMON, QUERY_TERMS, KeyTerms

TEXTS = [
    "The Red Lamp: a red lamp of oak",  # "of" and "a" are too short to be words
    "the blue LAMP",
    "the blue lamp of oak, blue as the sea",
    "the red chair 2000",
    "the only_one",  # "only" and "one" stand in no other text
    "",
    *(["the"] * 14),
]
"""Of 20 texts, "the" stands in all but one: more than a fifth."""
TERMS = KeyTerms.of(TEXTS)


def words(terms: np.ndarray) -> list[list[str]]:
    return [[TERMS.terms[term] for term in row if term >= 0] for row in terms]


def test_terms_are_shared_by_a_few_texts() -> None:
    assert TERMS.terms == ["blue", "lamp", "oak", "red"]
    assert TERMS.weight_V == pytest.approx([math.log(20 / texts) for texts in (2, 3, 2, 2)])


def test_a_query_is_the_heaviest_terms_in_the_order_of_the_text() -> None:
    # Of the first: red and lamp stand twice, oak once.
    expected = [["red", "lamp", "oak"], ["blue", "lamp"], ["blue", "lamp", "oak"], ["red"], []]
    assert words(TERMS.query_NQ) == expected + [[]] * 15


def test_of_many_terms_the_heaviest_are_asked_for() -> None:
    texts = ["common ash elm fir", "common ash elm fir", "common"] + [""] * 17
    terms = KeyTerms.of(texts)
    assert [terms.terms[term] for term in terms.query_NQ[0]] == ["ash", "elm", "fir"]
    often = KeyTerms.of(["ash elm fir common common", *texts[1:]])
    assert [often.terms[term] for term in often.query_NQ[0]] == ["ash", "elm", "common"]


def test_interests_are_heaviest_first() -> None:
    history = np.array([[-1, 3, 1, 2], [-1, -1, -1, 3], [-1, -1, 4, 5], [-1, -1, -1, -1]])
    # blue and lamp twice each, but blue is the rarer one; oak and red once and as rare as each other.
    assert words(TERMS.interests(history)) == [["blue", "lamp", "oak", "red"], ["red"], [], []]
    assert TERMS.interests(history).shape == (4, INTERESTS)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_no_history_has_no_interests(shape: tuple[int, int]) -> None:
    found = TERMS.interests(np.full(shape, -1))
    assert found.shape == (shape[0], INTERESTS)
    assert (found == -1).all()


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["ash", "elm", "fir", "oak", "yew", "box", "ivy"])).map(" ".join), max_size=12)
)
def test_terms_are_of_the_item_and_neither_unique_nor_common(texts: list[str]) -> None:
    terms = KeyTerms.of(texts)
    assert terms.query_NQ.shape == (len(texts), QUERY_TERMS)
    for text, query in zip(texts, terms.query_NQ, strict=True):
        named = [terms.terms[term] for term in query if term >= 0]
        assert len(set(named)) == len(named)
        assert named == sorted(named, key=text.split().index)
        usable = {word for word in text.split() if sum(word in each for each in texts) >= 2}
        usable = {word for word in usable if sum(word in each for each in texts) <= max(2, MOST_COMMON * len(texts))}
        assert set(named) <= usable
        assert len(named) == min(QUERY_TERMS, len(usable))
