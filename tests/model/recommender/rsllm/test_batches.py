"""What RSLLM learns from: a curriculum from words to vectors, and candidates that are no trap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import model_config
from model.method_config import RsllmConfig
from model.recommender.methods.base import PAD
from model.recommender.rsllm.batches import unified_share, with_others
from model.recommender.rsllm.prompts import CANDIDATES, IdBatch
from model.recommender.rsllm.train import prepare
from tests.model.recommender.conftest import ITEMS
from tests.model.recommender.rsllm.conftest import NEW


def share(done: float, **recipe: Any) -> float:
    return unified_share(RsllmConfig(**recipe), done)


def test_vectors_come_after_the_text_and_step_by_step() -> None:
    assert share(0.19, text_share=0.2, curriculum=0.4) == 0
    assert share(0.4, text_share=0.2, curriculum=0.4) == pytest.approx(0.5)
    assert share(0.61, text_share=0.2, curriculum=0.4) == 1
    assert share(0.2, text_share=0.2, curriculum=0) == 1
    assert share(0, text_share=0, curriculum=0) == 1
    assert share(0, prompts="ids", text_share=0.2, curriculum=0.4) == 1, "without titles such rows say nothing"


@given(st.integers(0, 2**32 - 1))
def test_candidates_are_different_items_that_the_user_never_takes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    item_B = rng.integers(60, size=8)
    never_BX = np.concatenate([item_B[:, None], rng.integers(-1, 60, size=(8, 5))], axis=1)
    candidates_BC, place_B = with_others(item_B, never_BX, np.arange(60), rng)
    assert (candidates_BC[np.arange(8), place_B] == item_B).all()
    for item, never_X, candidates_C in zip(item_B, never_BX, candidates_BC, strict=True):
        others = sorted(set(candidates_C.tolist()) - {int(item), PAD})
        assert len(others) == CANDIDATES - 1
        assert not set(others) & set(never_X.tolist())


def test_too_few_items_leave_gaps() -> None:
    candidates_BC, _ = with_others(np.array([0]), np.array([[0]]), np.arange(5), np.random.default_rng(0))
    assert sorted(candidates_BC[0][candidates_BC[0] != PAD].tolist()) == [0, 1, 2, 3, 4]


Request = Callable[..., dict[str, Any]]


def batches(request: dict[str, Any], epoch: int, shard: int = 0, shards: int = 1, skip: int = 0) -> list[IdBatch]:
    trainer = prepare(model_config(request["config"]), request["inputs"])
    return list(trainer.batches.read(epoch, shard, shards, skip))


def same(one: IdBatch, other: IdBatch) -> bool:
    return all(np.array_equal(value, vars(other)[name]) for name, value in vars(one).items())


def test_a_batch_is_a_function_of_its_place(ids_request: Request) -> None:
    request = ids_request(rsllm={"choice_share": 0.5, "negatives": 10})
    first, again, rest = batches(request, 2), batches(request, 2), batches(request, 2, skip=2)
    assert all(map(same, first, again))
    assert all(map(same, first[2:], rest))
    assert not same(first[0], first[1])
    # All shards compare with the same drawn items.
    left, right = batches(request, 2, 0, 2), batches(request, 2, 1, 2)
    for one, other in zip(left, right, strict=True):
        assert np.array_equal(one.drawn_S, other.drawn_S)
        assert np.array_equal(one.aligned_A, other.aligned_A)
        assert not same(one, other)


def test_items_that_nobody_took_are_not_drawn(ids_request: Request) -> None:
    for negatives in (10, ITEMS):
        drawn_S = batches(ids_request(rsllm={"negatives": negatives}), 0)[0].drawn_S
        assert len(drawn_S) <= min(negatives, ITEMS - 1)
        assert NEW not in drawn_S.tolist()


def test_the_first_stage_reads_words_alone(ids_request: Request) -> None:
    request = ids_request()
    assert all(not len(batch.id_item_I) for batch in batches(request, 0))
    for batch in batches(request, 3):
        assert len(batch.id_item_I) == (batch.ids_RP == batch.ids_RP.flat[batch.id_place_I[0]]).sum()
