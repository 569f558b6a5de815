"""Prompts of titles and ID tokens: what is read, what is predicted, and from where."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from model.config import BackboneConfig
from model.method_config import RsllmConfig
from model.recommender.backbone import build_backbone
from model.recommender.methods.base import PAD, Ints
from model.recommender.rsllm.prompts import CANDIDATES, ITEM_TOKEN, IdRows, ItemPrompts, packed
from tests.model.recommender.rsllm.conftest import BACKBONE

TITLES = [f"Blue anchor {number}" if number % 2 else "Drum" for number in range(30)] + [""]
TOKENS = 4


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    _, tokenizer = build_backbone(BackboneConfig(**BACKBONE), TITLES, seed=0)
    tokenizer.add_tokens([ITEM_TOKEN], special_tokens=True)
    return tokenizer


@pytest.fixture(scope="module")
def prompts(tokenizer: PreTrainedTokenizerBase) -> ItemPrompts:
    return ItemPrompts(tokenizer, TITLES, RsllmConfig(title_tokens=TOKENS))


def told(tokenizer: PreTrainedTokenizerBase, ids_X: Ints) -> str:
    return str(tokenizer.decode(ids_X[ids_X != PAD].tolist()))


def test_a_window_is_read_as_titles_with_an_id_token_each(
    prompts: ItemPrompts, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = prompts.windows(np.array([[0, 30, 2, PAD]]), np.array([[0, 1, 1, 0]]))
    assert told(tokenizer, rows.ids_BX[0]) == "Items in order: Drum<item> <item> Drum<item>"
    labels = rows.ids_BX[rows.is_label_BX]
    assert told(tokenizer, labels) == " <item> Drum<item>"
    (places,) = np.nonzero(rows.next_BX[0] != PAD)
    # The state after the first item predicts the second, that after the second the third.
    assert rows.next_BX[0, places].tolist() == [30, 2]
    assert rows.item_BX[0, places].tolist() == [0, 30]


def test_a_first_item_is_predicted_by_the_instruction(prompts: ItemPrompts) -> None:
    rows = prompts.windows(np.array([[5, PAD]]), np.array([[1, 0]]))
    (place,) = np.nonzero(rows.next_BX[0] != PAD)[0]
    assert rows.next_BX[0, place] == 5
    assert rows.item_BX[0, : place + 1].tolist() == [PAD] * (place + 1)
    assert rows.is_label_BX[0, place + 1 :].all()


def test_an_empty_history_is_the_instruction(prompts: ItemPrompts, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = prompts.histories(np.array([[PAD, PAD], [4, PAD]]))
    assert told(tokenizer, rows.ids_BX[0]) == "Items in order:"
    asked_B = (rows.next_BX != PAD).argmax(1)
    assert (rows.ids_BX[np.arange(2), asked_B] != PAD).all()
    assert rows.item_BX[1, asked_B[1]] == 4


def test_a_choice_is_answered_by_an_id_token(prompts: ItemPrompts, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = prompts.choices(np.array([[PAD, 20]]), np.array([3]))
    assert told(tokenizer, rows.ids_BX[0]) == "Items in order: Drum<item>\nNext:<item>"
    assert told(tokenizer, rows.ids_BX[rows.is_label_BX]) == "<item>"
    assert rows.next_BX[np.roll(rows.is_label_BX, -1, axis=1)].tolist() == [3]
    assert (rows.next_BX != PAD).sum() == 1
    windows = prompts.windows(np.array([[7, 8, PAD]]), np.array([[0, 1, 0]]))
    batch = packed([windows, rows], 256, np.arange(CANDIDATES)[None], np.arange(3), np.arange(2))
    assert batch.next_Q.tolist() == [8, 3]  # the choices' are the last
    assert batch.labels.tolist() == [(windows.is_label_BX & (windows.ids_BX != PAD)).sum(), 1, 1, 1]
    assert batch.tokens_of.tolist()[1] == (rows.ids_BX != PAD).sum()


def test_ids_alone_have_no_words(tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = ItemPrompts(tokenizer, TITLES, RsllmConfig(prompts="ids"))
    rows = prompts.windows(np.array([[7, 8]]), np.array([[0, 1]]))
    assert told(tokenizer, rows.ids_BX[0]) == "Items in order:<item><item>"
    assert prompts.item_tokens == 1


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6), min_size=1, max_size=5), st.integers(0, 99))
def test_packing_keeps_every_token_and_points_at_the_right_places(
    prompts: ItemPrompts, windows: list[list[int]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    items_BT = np.full((len(windows), 6), PAD)
    for row, items in zip(items_BT, windows, strict=True):
        row[: len(items)] = items
    targets_BT = ((items_BT != PAD) & (rng.random(items_BT.shape) < 0.5)).astype(np.int64)
    words_only_B = rng.random(len(windows)) < 0.5
    rows = prompts.windows(items_BT, targets_BT).as_words(words_only_B)
    batch = packed([rows], 64)
    assert batch.tokens == (rows.ids_BX != PAD).sum()
    assert batch.ids_RP.flat[batch.label_M + 1].tolist() == batch.target_M.tolist()
    there_BT = (items_BT != PAD) & ~words_only_B[:, None]
    assert sorted(batch.next_Q.tolist()) == sorted(items_BT[targets_BT == 1].tolist())
    assert (batch.ids_RP.flat[batch.id_place_I] == prompts.item_token).all()
    assert sorted(batch.id_item_I.tolist()) == sorted(items_BT[there_BT].tolist())
    assert prompts.longest(6, 0) >= (rows.ids_BX != PAD).sum(1).max()


def test_some_examples_can_be_taken(prompts: ItemPrompts) -> None:
    rows = prompts.histories(np.array([[1, 2], [3, PAD]]))
    some = rows.where(np.array([1]))
    assert isinstance(some, IdRows)
    for each in fields(IdRows):
        assert np.array_equal(getattr(some, each.name), getattr(rows, each.name)[[1]])
