"""Micro-batches of the mixture: the same every time, with few negatives, and none that would teach nonsense."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from model.config import FinetuneConfig
from model.data.files import load_tensors
from model.recommender.backbone import add_codes, build_backbone
from model.recommender.batches import NEGATIVE_SHARE, Batches, negatives_of, tasks_of
from model.recommender.cases import Windows
from model.recommender.examples import Examples
from model.recommender.queries import KeyTerms
from model.recommender.rows import Batch
from model.recommender.tasks import TASKS
from model.recommender.vocabulary import read_codes
from model.task_names import TaskName, default_mixture
from tests.model.recommender.conftest import CONFIG, ITEMS, LEVELS, WINDOWS

WOODS, KINDS = ("oak", "ash", "elm", "yew", "fir", "box"), ("lamp", "desk", "bed", "chair", "door")
TEXTS = [f"{WOODS[item % 6]} {KINDS[item % 5]}" for item in range(ITEMS)]
"""Each its own, of words that a few share."""


class Made:
    """Batches of the circle, of items with those titles and texts."""

    def __init__(self, inputs: dict[str, str], titles: list[str], texts: list[str] = TEXTS) -> None:
        self.inputs, self.titles = inputs, titles
        model, self.tokenizer = build_backbone(CONFIG.backbone, titles + texts, seed=0)
        centroids_LKD = load_tensors(f"{inputs['codebook']}/codebook.safetensors")["centroids_LKP"]
        vocabulary = add_codes(model, self.tokenizer, centroids_LKD, seed=0)
        codes_NL, terms = read_codes([inputs["codebook"]], LEVELS), KeyTerms.of(texts)
        self.tokens_NL = vocabulary.encode(codes_NL)
        self.examples = Examples(self.tokenizer, vocabulary, codes_NL, titles, texts, terms)
        self.negatives = negatives_of(inputs["training_set"], codes_NL, self.examples)

    def batches(self, **recipe: object) -> Batches:
        config = replace(CONFIG, finetune=replace(CONFIG.finetune, **recipe))  # type: ignore[arg-type]
        return Batches(self.inputs["training_set"], self.examples, self.negatives, config)


@pytest.fixture(scope="module")
def made(inputs: dict[str, str]) -> Made:
    return Made(inputs, [f"The {text}" for text in TEXTS])


def same(one: Batch, two: Batch) -> bool:
    return all(np.array_equal(value, getattr(two, name)) for name, value in vars(one).items())


def texts_of(batch: Batch, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    blocks = range(1, int(batch.block_RP.max()) + 1)
    return [str(tokenizer.decode(batch.ids_RP[batch.block_RP == block])) for block in blocks]


def test_a_batch_follows_from_its_number(made: Made) -> None:
    batches = made.batches()
    passes = {key: list(batches.read(*key)) for key in ((0, 0, 2), (1, 0, 2), (0, 1, 2))}
    assert {len(each) for each in passes.values()} == {batches.per_shard(2)} == {WINDOWS // 2 // 16}
    again = made.batches()
    for key, whole in passes.items():
        for skip in range(len(whole) + 1):
            rest = list(again.read(*key, skip=skip))
            assert len(rest) == len(whole) - skip
            assert all(map(same, rest, whole[skip:]))
    every = [batch for each in passes.values() for batch in each]
    assert not any(same(one, two) for number, one in enumerate(every) for two in every[:number])


def test_seeds_make_other_batches(made: Made) -> None:
    one, two = (next(made.batches(seed=seed).read(0, 0, 1)) for seed in (0, 1))
    assert not same(one, two)


def test_every_task_is_trained(made: Made) -> None:
    batches = made.batches()
    epoch = list(batches.read(0, 0, 1))
    assert [task.name for task in batches.tasks] == list(default_mixture())
    assert (np.sum([batch.task_tokens for batch in epoch], axis=0) > 0).all()
    assert np.unique(np.concatenate([batch.task_M for batch in epoch])).tolist() == [*range(len(batches.tasks))]


def test_every_wording_is_read(made: Made) -> None:
    mixture = {"next_item": 1.0}
    texts = [text for batch in made.batches(mixture=mixture).read(0, 0, 1) for text in texts_of(batch, made.tokenizer)]
    assert len(texts) == WINDOWS
    starts = {text.partition("<")[0] for text in texts}
    assert starts == {template.prompt[0] for template in TASKS["next_item"].templates}


@pytest.mark.parametrize("share", [0.05, 1.0, 5.0])
def test_negatives_have_at_most_a_third_of_the_tokens(made: Made, share: float) -> None:
    mixture: dict[TaskName, float] = {"next_item": 0.5, "title_to_item": 0.5}
    batches = made.batches(mixture=mixture | {name: share for name, task in TASKS.items() if task.others})
    negative = np.array([task.others > 0 for task in batches.tasks])
    epoch = list(batches.read(0, 0, 1))
    shares = [batch.task_tokens[negative].sum() / batch.tokens for batch in epoch]
    assert 0 < max(shares) <= NEGATIVE_SHARE
    # As much as fits is kept, of every task.
    assert share < 1 or min(shares) > NEGATIVE_SHARE / 2
    assert (np.sum([batch.task_tokens for batch in epoch], axis=0) > 0).all()


def test_a_mixture_of_negatives_alone_is_read(made: Made) -> None:
    batch = next(made.batches(mixture={"next_item_fits": 1.0}).read(0, 0, 1))
    assert batch.block_RP.max() > 8


def test_items_of_one_title_are_never_told_apart(inputs: dict[str, str]) -> None:
    made = Made(inputs, [f"The {WOODS[item % 3]}" for item in range(ITEMS)])
    batches = made.batches(mixture={"title_fits": 6.0})
    item_of = {str(made.tokenizer.decode(tokens)): item for item, tokens in enumerate(made.tokens_NL)}
    answers = []
    for batch in batches.read(0, 0, 1):
        for text in texts_of(batch, made.tokenizer):
            codes = re.findall(r"(?:<\w_\d+>)+", text)
            title = re.findall(r"The \w{3}", text)
            assert len(codes) == len(title) == 1
            right = made.titles[item_of[codes[0]]] == title[0]
            assert text.endswith(" yes" if right else " no")
            answers.append(right)
    assert 0.4 < np.mean(answers) < 0.6


def test_an_item_without_key_terms_is_not_asked_for(inputs: dict[str, str]) -> None:
    texts = [text if item % 2 else "" for item, text in enumerate(TEXTS)]
    made = Made(inputs, TEXTS, texts)
    mixture = {"query_to_item": 2.0, "query_fits": 1.0, "history_and_query_to_item": 1.0}
    found = []
    for batch in made.batches(mixture=mixture).read(0, 0, 1):
        found += texts_of(batch, made.tokenizer)
    queries = [re.search(r"(?:Looking for|Query):((?: [a-z]+)*)\n", text) for text in found]
    assert len(found) > 100
    assert all(query is not None and query[1] for query in queries)


@pytest.mark.parametrize("text", [TEXTS, [""] * ITEMS], ids=["terms", "no terms"])
def test_a_batch_may_be_too_small_for_every_task(inputs: dict[str, str], text: list[str]) -> None:
    made = Made(inputs, TEXTS, text)
    found = list(made.batches(batch_size=1).read(0, 0, 1))
    assert len(found) == WINDOWS
    assert all(batch.task_tokens[0] > 0 for batch in found)
    assert any((batch.task_tokens == 0).any() for batch in found)


def test_shares_are_met_on_average(made: Made) -> None:
    batches = made.batches(batch_size=1, mixture={"title_to_item": 1.3})
    examples = sum(int(batch.block_RP.max(initial=0)) for epoch in range(5) for batch in batches.read(epoch, 0, 1))
    assert examples == pytest.approx(1.3 * 5 * WINDOWS, rel=0.05)


def test_a_micro_batch_without_any_example_is_refused(made: Made) -> None:
    with pytest.raises(ValueError, match=r"Raise finetune\.batch_size"):
        list(made.batches(batch_size=1, mixture={"title_to_item": 0.1}).read(0, 0, 1))


def test_windows_that_name_nothing_later_have_no_negatives(made: Made) -> None:
    window = np.arange(8)[None].repeat(6, axis=0)
    crowded = np.full((6, 3), -1)
    crowded[:, 0] = -2
    batches = made.batches(mixture={"next_item": 1.0, "choose_next_item": 2.0})
    batch = batches.batch(Windows(window, np.ones_like(window), crowded, np.arange(6)), np.random.default_rng(0))
    assert (batch.task_tokens > 0).tolist() == [True, False]


@pytest.mark.parametrize("mixture", [{}, {"next_item": 0.0}])
def test_a_mixture_without_tasks_is_refused(made: Made, mixture: dict[TaskName, float]) -> None:
    with pytest.raises(ValueError, match=r"finetune\.mixture has no task"):
        tasks_of(FinetuneConfig(mixture=mixture))
    with pytest.raises(ValueError, match=r"finetune\.mixture has no task"):
        made.batches(mixture=mixture)


def test_a_row_too_short_for_an_example_is_named(made: Made) -> None:
    with pytest.raises(ValueError, match=r"Raise finetune\.row_tokens"):
        next(made.batches(row_tokens=16).read(0, 0, 1))
