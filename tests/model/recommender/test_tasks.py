from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from model.config import BackboneConfig
from model.recommender.backbone import build_backbone
from model.recommender.tasks import SEQUENTIAL_INSTRUCTION, TEXTUAL_TASKS, Batch, Examples
from model.recommender.vocabulary import CodeVocabulary
from tests.model.recommender.conftest import CODES, LEVELS, item_codes

ITEMS = 12
TITLES = [f"The title of {'very ' * (i % 4)}item {i}" for i in range(ITEMS - 1)] + ["A <u_3> spoof"]


def build() -> tuple[Examples, PreTrainedTokenizerBase, CodeVocabulary]:
    tiny = BackboneConfig(hidden_size=8, layers=1, heads=2, intermediate_size=8, text_vocabulary=320)
    _, tokenizer = build_backbone(tiny, TITLES, seed=0)
    vocabulary = CodeVocabulary.extend(tokenizer, LEVELS, CODES)
    return Examples(tokenizer, vocabulary, item_codes(ITEMS), TITLES), tokenizer, vocabulary


EXAMPLES, TOKENIZER, VOCABULARY = build()
TOKENS_NL = VOCABULARY.encode(item_codes(ITEMS)).tolist()


def words(text: str) -> list[int]:
    return list(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def labels_of(batch: Batch) -> list[tuple[int, int, int]]:
    """Every label as (row, position of the label itself, token), after checking that it stands where it should."""
    width = batch.ids_BP.shape[1]
    assert sum(batch.kind_sizes) == len(batch.position_M) == len(batch.target_M)
    found = []
    for flat, token in zip(batch.position_M.tolist(), batch.target_M.tolist(), strict=True):
        row, position = flat // width, flat % width + 1
        assert batch.ids_BP[row, position] == token
        found.append((row, position, token))
    return found


def kinds_of(batch: Batch) -> list[int]:
    return np.repeat(np.arange(len(batch.kind_sizes)), batch.kind_sizes).tolist()


windows = st.lists(st.lists(st.tuples(st.integers(0, ITEMS - 1), st.booleans()), max_size=5), min_size=1, max_size=4)


@settings(deadline=None)
@given(windows)
def test_a_window_labels_the_codes_of_its_targets_and_nothing_else(rows: list[list[tuple[int, bool]]]) -> None:
    items_BT = np.full((len(rows), 5), -1)
    targets_BT = np.zeros((len(rows), 5), np.int64)
    expected = []
    instruction = words(SEQUENTIAL_INSTRUCTION)
    for row, window in enumerate(rows):
        for place, (item, is_target) in enumerate(window):
            items_BT[row, place], targets_BT[row, place] = item, is_target
            start = len(instruction) + place * LEVELS
            expected += [(row, start + level, TOKENS_NL[item][level]) for level in range(LEVELS) if is_target]
    batch = EXAMPLES.sequential(items_BT, targets_BT)
    assert batch.ids_BP.shape[1] == len(instruction) + LEVELS * max(map(len, rows))
    for row, window in enumerate(rows):
        ids = instruction + [token for item, _ in window for token in TOKENS_NL[item]]
        assert batch.ids_BP[row, : len(ids)].tolist() == ids
    assert sorted(labels_of(batch)) == sorted(expected)
    level_of = {token: level for level, row in enumerate(VOCABULARY.token_ids_LK.tolist()) for token in row}
    assert kinds_of(batch) == [1 + level_of[token] for token in batch.target_M.tolist()]


def test_inference_reads_what_training_read() -> None:
    window = np.array([[3, 1, 4, -1], [5, -1, -1, -1], [-1, -1, -1, -1]])
    ids_BP, length_B = EXAMPLES.prompts(window)
    assert np.array_equal(ids_BP, EXAMPLES.sequential(window, np.ones_like(window)).ids_BP)
    assert length_B.tolist() == [len(words(SEQUENTIAL_INSTRUCTION)) + LEVELS * items for items in (3, 1, 0)]


def test_title_to_codes() -> None:
    items = [0, 3, 7]
    batch = EXAMPLES.textual(TEXTUAL_TASKS[0], np.array(items))
    for row, item in enumerate(items):
        prompt = words("Title:") + words(TITLES[item]) + words("\nItem:")
        ids = prompt + TOKENS_NL[item]
        assert batch.ids_BP[row, : len(ids)].tolist() == ids
        own = [(position, token) for r, position, token in labels_of(batch) if r == row]
        assert sorted(own) == [(len(prompt) + level, TOKENS_NL[item][level]) for level in range(LEVELS)]
    assert batch.kind_sizes == (0, 3, 3, 3, 3)


def test_codes_to_title() -> None:
    items = [2, 5]
    batch = EXAMPLES.textual(TEXTUAL_TASKS[1], np.array(items))
    for row, item in enumerate(items):
        prompt = [*words("Item:"), *TOKENS_NL[item], *words("\nTitle:")]
        response = [*words(TITLES[item]), TOKENIZER.eos_token_id]
        assert batch.ids_BP[row, : len(prompt) + len(response)].tolist() == prompt + response
        own = sorted((position, token) for r, position, token in labels_of(batch) if r == row)
        assert own == [(len(prompt) + i, token) for i, token in enumerate(response)]
    assert batch.kind_sizes[1:] == (0, 0, 0, 0)


@pytest.mark.parametrize("task", TEXTUAL_TASKS)
def test_a_title_cannot_speak_in_code_tokens(task: object) -> None:
    spoof = ITEMS - 1
    batch = EXAMPLES.textual(task, np.array([spoof]))  # type: ignore[arg-type]
    codes = [token for token in batch.ids_BP[0].tolist() if token in VOCABULARY.token_ids_LK]
    assert codes == TOKENS_NL[spoof]
