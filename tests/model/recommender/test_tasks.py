"""What the model reads for each task, and which of it it learns to say."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import BackboneConfig
from model.recommender.backbone import END_TOKEN, build_backbone
from model.recommender.cases import Cases, Windows
from model.recommender.examples import MAX_TITLE_TOKENS, Examples
from model.recommender.queries import KeyTerms
from model.recommender.rows import Batch
from model.recommender.tasks import INSTRUCTION, TASKS, Slot, Task, Template
from model.recommender.vocabulary import LEVEL_LETTERS, CodeVocabulary
from model.task_names import TaskName
from tests.model.recommender.conftest import CODES, LEVELS, item_codes, user_coder

WOODS, KINDS = ("oak", "ash", "elm"), ("lamp", "desk", "bed")
TITLES = [f"A{' very' * (item % 4)} fine {WOODS[item % 3]}" for item in range(9)] + ["A <u_3> <end> spoof"]
TEXTS = [f"{WOODS[item % 3]} {KINDS[item // 3]}" for item in range(9)] + ["all of <v_1> it"]
SPOOF = 9
CODES_NL = item_codes(len(TITLES))
ROW = 512
USERS = user_coder(len(TITLES))


def build() -> tuple[Examples, CodeVocabulary]:
    tiny = BackboneConfig(hidden_size=8, layers=1, heads=2, intermediate_size=8, text_vocabulary=320)
    _, tokenizer = build_backbone(tiny, TITLES + TEXTS, seed=0)
    vocabulary = CodeVocabulary.extend(tokenizer, LEVELS, CODES, users=True)
    terms = KeyTerms.of(TEXTS + [""] * 10)  # or each word would be too common
    examples = Examples(tokenizer, vocabulary, CODES_NL, TITLES, TEXTS, terms)
    examples.recode(CODES_NL, USERS)
    return examples, vocabulary


EXAMPLES, VOCABULARY = build()
TOKENIZER = EXAMPLES._tokenizer
TEMPLATES = [(task, template) for task in TASKS.values() for template in task.templates]


def code(*items: int) -> str:
    letters = LEVEL_LETTERS[:LEVELS]
    return "".join(f"<{letter}_{CODES_NL[item, level]}>" for item in items for level, letter in enumerate(letters))


def user(*items: int) -> str:
    """Whoever has that history."""
    letters = LEVEL_LETTERS[:LEVELS]
    codes_L = USERS.codes(np.array([items]))[0]
    return "".join(f"<user_{letter}_{number}>" for letter, number in zip(letters, codes_L, strict=True))


def case(item: int, others: int, *, history: tuple[int, ...] = (4, 1, 7), right: bool = False, place: int = 1) -> Cases:
    """One case; its window is the history with its last item as a target, and the item, a target too."""
    row = [*history, item]
    targets = ([0] * len(row) + [1, 1])[-len(row) :]
    windows = Windows(np.array([row]), np.array([targets]), np.empty((1, 0), np.int64), np.zeros(1, np.int64))
    others_BO = np.array([[2, 5, 8][:others]], np.int64).reshape(1, others)
    buyers_BUH = np.array([[[0, 2], [-1, 5], [-1, -1]]])
    return Cases(
        windows,
        np.array([[-1, *history]]),
        np.array([item]),
        others_BO,
        np.array([right]),
        np.array([place]),
        buyers_BUH,
    )


def read(batch: Batch) -> tuple[str, str]:
    """All that the one example reads, and its labels in order; checks where labels stand and how they are sorted."""
    assert (batch.ids_RP.flat[batch.label_M + 1] == batch.target_M).all()
    assert (batch.block_RP.flat[batch.label_M] == batch.block_RP.flat[batch.label_M + 1]).all()
    level_of = {token: 1 + level for level, tokens in enumerate(VOCABULARY.all_ids.tolist()) for token in tokens}
    kinds = np.repeat(np.arange(1 + 2 * LEVELS), batch.kind_sizes).tolist()
    assert kinds == [level_of.get(token, 0) for token in batch.target_M.tolist()]
    order = np.argsort(batch.label_M)
    whole = batch.ids_RP[0][batch.block_RP[0] == 1]
    return str(TOKENIZER.decode(whole)), str(TOKENIZER.decode(batch.target_M[order]))


def example(template: Template, cases: Cases) -> Batch:
    return EXAMPLES.pack([[EXAMPLES.rows(template, cases)]], ROW)


FINE, ELM = "A very very very fine oak", "A very very fine elm"
GOLDEN: dict[TaskName, tuple[str, str]] = {
    "next_item": ("Items in order:" + code(4, 1), code(7, 3)),
    "next_item_fits": (f"Items in order:{code(4, 1, 7)}\nNext:{code(2)}\nLikely?", " no"),
    "choose_next_item": (f"Items in order:{code(4, 1, 7)}\nOne of:{code(2, 3, 5, 8)}\nNext:", code(3)),
    "title_to_item": (f"Title: {FINE}\nItem:", code(3)),
    "text_to_item": ("Description: oak desk\nItem:", code(3)),
    "item_to_title": (f"Item:{code(3)}\nTitle:", f" {FINE}<end>"),
    "titles_to_next_item": (
        "Titles in order: A fine ash; A very fine ash; A very very very fine ash;\nNext item:",
        code(3),
    ),
    "items_to_next_title": (f"Items in order:{code(4, 1, 7)}\nNext title:", f" {FINE}<end>"),
    "title_fits": (f"Item:{code(3)}\nTitle: {ELM}\nRight?", " no"),
    "choose_title": (
        f"Item:{code(3)}\nOne of: {ELM}; {FINE}; A very fine elm; A fine elm;\nTitle:",
        f" {FINE}<end>",
    ),
    "query_to_item": ("Looking for: oak desk\nItem:", code(3)),
    "history_and_query_to_item": (f"Items in order:{code(4, 1, 7)}\nLooking for: oak desk\nNext:", code(3)),
    "history_to_interests": (f"Items in order:{code(4, 1, 7)}\nInterests:", " ash bed desk lamp<end>"),
    "query_fits": (f"Looking for: oak desk\nItem:{code(2)}\nFits?", " no"),
    "next_item_of_user": (f"Items in order:{user(4, 1, 7)}{code(4, 1)}", code(7, 3)),
    "history_to_user": (f"Items in order:{code(4, 1, 7)}\nCustomer:", user(4, 1, 7)),
    "interests_to_user": ("Interests: ash bed desk lamp\nCustomer:", user(4, 1, 7)),
    "user_to_interests": (f"Customer:{user(4, 1, 7)}\nInterests:", " ash bed desk lamp<end>"),
    "buyers_to_user": (f"Item:{code(3)}\nTaken by:{user(0, 2)}{user(5)}\nAnd by:", user(4, 1, 7)),
}


def test_every_task_has_its_name_in_the_settings() -> None:
    assert tuple(TASKS) == get_args(TaskName) == tuple(GOLDEN)
    assert all(name == task.name for name, task in TASKS.items())


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_what_the_model_reads_and_says(task: Task) -> None:
    prompt, response = GOLDEN[task.name]
    batch = example(task.templates[0], case(3, task.others))
    assert read(batch) == (prompt + response, response)
    assert batch.tokens == batch.task_tokens.tolist()[0] == (batch.block_RP > 0).sum()


@pytest.mark.parametrize(("task", "template"), TEMPLATES, ids=lambda part: getattr(part, "name", ""))
def test_every_wording_is_whole(task: Task, template: Template) -> None:
    assert template.prompt
    assert template.response
    assert (task.others > 0) == any(slot.startswith("candidate") for slot in template.slots)
    fixed = [part for part in template.prompt + template.response if not isinstance(part, Slot)]
    assert not any(sign in part for part in fixed for sign in ("{", "}", "=>"))
    others = {Slot.CANDIDATES, Slot.CANDIDATE_TITLES} & template.slots
    assert not others or task.others > 1
    # A case's wordings ask for one thing, so a task needs one kind of case.
    assert template.slots == task.templates[0].slots
    whole, labels = read(example(template, case(3, task.others)))
    assert whole.endswith(labels)
    assert labels == GOLDEN[task.name][1]
    place = 0
    for part in fixed:
        place = whole.index(part, place) + len(part)


@pytest.mark.parametrize("name", ["next_item_fits", "title_fits", "query_fits"])
def test_the_answer_is_yes_for_the_item_itself(name: TaskName) -> None:
    whole, labels = read(example(TASKS[name].templates[0], case(3, 1, right=True)))
    assert (TITLES[3] if name == "title_fits" else code(3)) in whole.partition("\n")[2]
    assert labels == " yes"


windows = st.lists(st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=5), min_size=1, max_size=4)


@settings(deadline=None)
@given(windows)
def test_a_window_labels_the_codes_of_its_targets_and_nothing_else(rows: list[list[tuple[int, bool]]]) -> None:
    items_BT, targets_BT = np.full((len(rows), 5), -1), np.zeros((len(rows), 5), np.int64)
    for row, window in enumerate(rows):
        for place, (item, is_target) in enumerate(window):
            items_BT[row, place], targets_BT[row, place] = item, is_target
    nothing = np.empty((len(rows), 0), np.int64)
    zeros = np.zeros(len(rows), np.int64)
    cases = Cases(Windows(items_BT, targets_BT, nothing, zeros), nothing, zeros, nothing, zeros == 1, zeros, nothing)
    batch = example(TASKS["next_item"].templates[0], cases)
    level_M = np.repeat(np.arange(-1, 2 * LEVELS), batch.kind_sizes)
    assert (level_M >= 0).all()
    found = []
    for flat, token, level in zip(batch.label_M, batch.target_M, level_M, strict=True):
        position, block = batch.position_RP.flat[flat + 1], batch.block_RP.flat[flat + 1]
        assert batch.ids_RP.flat[flat + 1] == token
        found.append((int(block) - 1, int(position), int(token)))
        assert token in VOCABULARY.token_ids_LK[level]
    instruction = len(TOKENIZER(INSTRUCTION, add_special_tokens=False)["input_ids"])
    tokens_NL = VOCABULARY.encode(CODES_NL).tolist()
    expected = [
        (row, instruction + place * LEVELS + level, tokens_NL[item][level])
        for row, window in enumerate(rows)
        for place, (item, is_target) in enumerate(window)
        for level in range(LEVELS)
        if is_target
    ]
    assert sorted(found) == sorted(expected)


def test_inference_reads_what_training_reads() -> None:
    histories = [[3, 1, 4], [5], []]
    ids_BX, length_B = EXAMPLES.prompts(np.array([[3, 1, 4, -1], [-1, 5, -1, -1], [-1] * 4]))
    shared = EXAMPLES.shared_prompt.tolist()
    assert (length_B + len(shared)).tolist() == [EXAMPLES.window_tokens(len(history)) for history in histories]
    for ids_X, length, history in zip(ids_BX, length_B, histories, strict=True):
        read = [*shared, *ids_X[:length].tolist()]
        window = case(0, 0, history=(*history, 6))
        known = replace(window, history_BH=np.array([history]))
        template = TASKS["next_item_of_user" if history else "next_item"].templates[0]
        whole = example(template, known if history else window)
        # Of the window [history, 6, 0] all before the first label, the first code of 6.
        assert whole.ids_RP[0, : len(read)].tolist() == read
        assert whole.label_M.min() == len(read) - 1
        assert not ids_X[length:].any()


@pytest.mark.parametrize(("task", "template"), TEMPLATES, ids=lambda part: getattr(part, "name", ""))
def test_a_title_cannot_speak_in_code_tokens(task: Task, template: Template) -> None:
    batch = example(template, case(SPOOF, task.others, history=(SPOOF, 1, SPOOF), right=True))
    own = code(SPOOF, 1, SPOOF, SPOOF, 2, 5, 8)
    tokens = batch.ids_RP[0].tolist()
    spoken = [token for token in tokens if token in VOCABULARY.token_ids_LK]
    assert len(spoken) % LEVELS == 0
    for start in range(0, len(spoken), LEVELS):
        assert str(TOKENIZER.decode(spoken[start : start + LEVELS])) in own
    end = TOKENIZER.convert_tokens_to_ids(END_TOKEN)
    assert tokens.count(end) == (Slot.END in template.response)


def test_without_codes_of_users_prompts_begin_with_the_items() -> None:
    plain = Examples(TOKENIZER, VOCABULARY, CODES_NL)
    ids_BX, length_B = plain.prompts(np.array([[3, 1]]))
    read = [*plain.shared_prompt.tolist(), *ids_BX[0, : length_B[0]].tolist()]
    whole = example(TASKS["next_item"].templates[0], case(0, 0, history=(3, 1, 6)))
    assert whole.ids_RP[0, : len(read)].tolist() == read
    assert plain.user_codes(np.array([[3, 1]])) is None


def test_long_titles_are_cut() -> None:
    examples = Examples(TOKENIZER, VOCABULARY, CODES_NL[:1], ["word " * 99])
    batch = examples.pack([[examples.rows(TASKS["item_to_title"].templates[0], case(0, 0, history=()))]], ROW)
    assert batch.kind_sizes[0] == MAX_TITLE_TOKENS + 1


def test_tasks_are_packed_side_by_side_and_known_by_their_number() -> None:
    to_item, to_title = (TASKS[name].templates[0] for name in ("title_to_item", "item_to_title"))
    rows = [[EXAMPLES.rows(to_item, case(item, 0)) for item in (0, 3)], [EXAMPLES.rows(to_title, case(5, 0))]]
    batch = EXAMPLES.pack([*rows, []], ROW)
    assert batch.block_RP.max() == 3
    assert batch.task_tokens.tolist() == [sum(each.lengths.sum() for each in of_task) for of_task in rows] + [0]
    assert batch.tokens == (batch.block_RP > 0).sum()
    for flat, task in zip(batch.label_M, batch.task_M, strict=True):
        assert task == int(batch.block_RP.flat[flat] == 3)
    assert EXAMPLES.pack([[], []], ROW).tokens == 0
