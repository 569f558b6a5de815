"""Shapes: B users, K results, N items, L code levels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.config import Normalisation
from model.decoding.beam import BeamSearch
from model.decoding.trie import Allowed, Available, Trie
from model.recommender.methods.base import Ints
from tests.model.decoding.conftest import (
    CODES,
    LEVELS,
    TOKEN_IDS_LK,
    Prompts,
    language_model,
    random_codes,
    random_prompts,
)

NONE_SEEN = torch.empty(1, 0, dtype=torch.int64)


def search(
    model: Any,
    codes_NL: Ints,
    prompts: Prompts,
    *,
    k: int,
    beam_width: int,
    normalisation: Normalisation = "level",
    seen_BS: Tensor | None = None,
    available_N: Tensor | None = None,
    shared: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    trie = Trie(codes_NL, CODES)
    beam_search = BeamSearch(model, TOKEN_IDS_LK, trie, normalisation, shared)
    seen_BS = NONE_SEEN.expand(len(prompts.ids_BP), 0) if seen_BS is None else seen_BS
    available_N = torch.ones(len(codes_NL), dtype=torch.bool) if available_N is None else available_N
    allowed = Allowed(Available(trie, available_N), seen_BS)
    return beam_search(prompts.ids_BP, prompts.length_B, allowed, beam_width=beam_width, k=k)


@torch.inference_mode()
def all_scores(model: Any, codes_NL: Ints, prompt_P: Tensor, normalisation: Normalisation) -> Tensor:
    """Score of every item [N] by one plain forward pass over "prompt, codes" each: no cache, no tree, no beam."""
    tokens_NL = TOKEN_IDS_LK[torch.arange(LEVELS), torch.as_tensor(codes_NL)]
    rows = torch.cat([prompt_P.expand(len(codes_NL), -1), tokens_NL], dim=1)
    logits_NLV = model(input_ids=rows).logits[:, len(prompt_P) - 1 : -1]
    score_N = torch.zeros(len(codes_NL))
    for level in range(LEVELS):
        logits_NV = logits_NLV[:, level]
        if normalisation == "level":
            log_p_NK = logits_NV[:, TOKEN_IDS_LK[level]].log_softmax(1)
            score_N += log_p_NK.gather(1, torch.as_tensor(codes_NL)[:, level : level + 1])[:, 0]
        else:
            score_N += logits_NV.log_softmax(1).gather(1, tokens_NL[:, level : level + 1])[:, 0]
    return score_N


@pytest.mark.parametrize("normalisation", ["level", "vocabulary"])
@pytest.mark.parametrize("family", ["llama", "qwen"])
@settings(max_examples=25, deadline=None)
@given(items=st.integers(1, 50), k=st.integers(1, 60), seed=st.integers(0, 10_000), data=st.data())
def test_a_wide_beam_ranks_like_scoring_every_item(
    family: str, normalisation: Normalisation, items: int, k: int, seed: int, data: st.DataObject
) -> None:
    users = 3
    model, codes_NL, prompts = language_model(family), random_codes(items, seed), random_prompts(users, seed)
    available_N = torch.tensor(data.draw(st.lists(st.booleans(), min_size=items, max_size=items)))
    seen = st.lists(st.integers(-1, items - 1), min_size=5, max_size=5)
    seen_BS = torch.tensor(data.draw(st.lists(seen, min_size=users, max_size=users)))
    options: dict[str, Any] = {"seen_BS": seen_BS, "available_N": available_N, "normalisation": normalisation}
    items_BK, scores_BK = search(model, codes_NL, prompts, k=k, beam_width=max(k, items), **options)
    for user in range(users):
        score_N = all_scores(model, codes_NL, prompts.ids_BP[user, : prompts.length_B[user]], normalisation)
        allowed = sorted(set(available_N.nonzero().flatten().tolist()) - set(seen_BS[user].tolist()))
        expected = sorted(allowed, key=lambda item: -score_N[item].item())[:k]
        got = items_BK[user, : len(expected)]
        assert len(set(got.tolist())) == len(expected)
        assert set(got.tolist()) <= set(allowed)
        torch.testing.assert_close(scores_BK[user, : len(expected)], score_N[got], atol=1e-4, rtol=0)
        torch.testing.assert_close(score_N[got], score_N[expected], atol=1e-4, rtol=0)
        assert (items_BK[user, len(expected) :] == -1).all()
        assert (scores_BK[user, len(expected) :] == -torch.inf).all()


def generated(model: Any, codes_NL: Ints, allowed: Sequence[int], prompt_1P: Tensor, width: int) -> dict[int, float]:
    """Hugging Face's own constrained beam search: the items that it finds among the allowed, with their scores."""
    tokens_NL = TOKEN_IDS_LK[torch.arange(LEVELS), torch.as_tensor(codes_NL)].tolist()
    item_of = {tuple(tokens_NL[item]): item for item in allowed}

    def allowed_next(_: int, row: Tensor) -> list[int]:
        prefix = tuple(row[prompt_1P.shape[1] :].tolist())
        # Beams that there is no room for leave the tree; their scores say so.
        return sorted({tokens[len(prefix)] for tokens in item_of if tokens[: len(prefix)] == prefix}) or [0]

    reference = model.generate(
        prompt_1P,
        attention_mask=torch.ones_like(prompt_1P),
        num_beams=width,
        num_return_sequences=width,
        max_new_tokens=LEVELS,
        do_sample=False,
        length_penalty=0.0,
        prefix_allowed_tokens_fn=allowed_next,
        return_dict_in_generate=True,
        output_scores=True,
    )
    rows = zip(reference.sequences[:, prompt_1P.shape[1] :].tolist(), reference.sequences_scores.tolist(), strict=True)
    found = [(item_of[tuple(row)], score) for row, score in rows if score > NO_ROOM and tuple(row) in item_of]
    assert len(dict(found)) == len(found)
    return dict(found)


NO_ROOM = -1e8
"""generate starts all beams but one at -1e9."""


@pytest.mark.parametrize("family", ["llama", "qwen"])
@pytest.mark.parametrize("seed", range(4))
def test_vocabulary_scores_give_the_list_of_generate(family: str, seed: int) -> None:
    """Prompts side by side with us, one at a time and without padding there."""
    width = 7
    model, codes_NL, prompts = language_model(family, seed), random_codes(120, seed), random_prompts(4, seed)
    items_BK, scores_BK = search(model, codes_NL, prompts, k=width, beam_width=width, normalisation="vocabulary")
    for user in range(4):
        prompt_1P = prompts.ids_BP[user : user + 1, : prompts.length_B[user]]
        expected = generated(model, codes_NL, range(120), prompt_1P, width)
        assert items_BK[user].tolist() == list(expected)
        assert scores_BK[user].tolist() == pytest.approx(list(expected.values()), abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen"])
@settings(max_examples=25, deadline=None)
@given(data=st.data(), seed=st.integers(0, 10_000), width=st.integers(2, 14))
def test_vocabulary_scores_equal_generate(family: str, data: st.DataObject, seed: int, width: int) -> None:
    """Over few items and many, with prefixes in common, and masks that leave all, some or one of them."""
    model, prompts = language_model(family, seed % 5), random_prompts(1, seed)
    shared = data.draw(st.integers(0, LEVELS - 1), label="codes that all items share")
    tails = CODES ** (LEVELS - shared)
    items = data.draw(st.integers(1, min(tails, 90)), label="items")
    flat_N = np.random.default_rng(seed).choice(tails, items, replace=False)
    codes_NL = np.stack(np.unravel_index(flat_N, (CODES,) * LEVELS), axis=1).astype(np.int64)
    left = data.draw(st.sampled_from([items, (items + 1) // 2, 1]), label="items that are left")
    available_N = torch.tensor(np.random.default_rng(seed + 1).permutation(items) < left)
    items_1K, scores_1K = search(
        model, codes_NL, prompts, k=width, beam_width=width, normalisation="vocabulary", available_N=available_N
    )
    allowed = available_N.nonzero().flatten().tolist()
    expected = generated(model, codes_NL, allowed, prompts.ids_BP[:, : prompts.length_B[0]], width)
    found = {item: score for item, score in zip(items_1K[0].tolist(), scores_1K[0].tolist(), strict=True) if item >= 0}
    assert len(found) == min(width, left)
    assert sorted(found.values()) == pytest.approx(sorted(expected.values()), abs=1e-4)
    # Which of two items with nearly equal scores is the last is for the last digits to say.
    assert {item for item, score in expected.items() if score > min(expected.values()) + 1e-4} <= found.keys()
    assert all(score == pytest.approx(expected[item], abs=1e-4) for item, score in found.items() if item in expected)
    lowest = min(expected.values())
    assert all(expected.get(better, lowest) > expected.get(worse, lowest) - 1e-4 for better, worse in pairwise(found))


@pytest.mark.parametrize("beam_width", [5, 8])
def test_a_narrow_beam_still_fills_the_list_past_the_masks(beam_width: int) -> None:
    """Masks stand inside the beam: cutting a finished list afterwards would leave it short."""
    model, codes_NL, prompts = language_model(), random_codes(200, 5), random_prompts(1, 5)
    seen: list[int] = []
    while len(seen) < 200:
        items_BK, _ = search(model, codes_NL, prompts, k=5, beam_width=beam_width, seen_BS=torch.tensor([seen or [-1]]))
        new = items_BK[0].tolist()
        assert not set(new) & {*seen, -1}
        seen += new
    assert sorted(seen) == list(range(200))


def test_all_but_one_masked_gives_that_one() -> None:
    codes_NL = random_codes(64, 6)
    available_N = torch.zeros(64, dtype=torch.bool)
    available_N[17] = True
    items_BK, scores_BK = search(
        language_model(), codes_NL, random_prompts(2, 6), k=4, beam_width=4, available_N=available_N
    )
    assert items_BK.tolist() == [[17, -1, -1, -1]] * 2
    assert torch.isfinite(scores_BK[:, 0]).all()


def test_nothing_allowed_gives_an_empty_list() -> None:
    nothing_N = torch.zeros(8, dtype=torch.bool)
    items_BK, _ = search(
        language_model(), random_codes(8, 7), random_prompts(2, 7), k=3, beam_width=3, available_N=nothing_N
    )
    assert (items_BK == -1).all()


def test_a_users_list_does_not_depend_on_the_other_users() -> None:
    model, codes_NL, prompts = language_model(), random_codes(150, 8), random_prompts(6, 8)
    together, scores = search(model, codes_NL, prompts, k=10, beam_width=12)
    for user in range(6):
        length = prompts.length_B[user : user + 1]
        alone = Prompts(prompts.ids_BP[user : user + 1, :length], length)
        items, score = search(model, codes_NL, alone, k=10, beam_width=12)
        assert items[0].tolist() == together[user].tolist()
        torch.testing.assert_close(score[0], scores[user], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["llama", "qwen"])
def test_what_prompts_share_is_read_once_and_changes_nothing(family: str) -> None:
    model, codes_NL, prompts = language_model(family), random_codes(150, 8), random_prompts(6, 8)
    shared = [3, 1, 4]
    whole = Prompts(torch.cat([torch.tensor(shared).expand(6, -1), prompts.ids_BP], 1), prompts.length_B + 3)
    items_BK, scores_BK = search(model, codes_NL, prompts, k=10, beam_width=12, shared=shared)
    expected_BK, expected_scores_BK = search(model, codes_NL, whole, k=10, beam_width=12)
    assert torch.equal(items_BK, expected_BK)
    torch.testing.assert_close(scores_BK, expected_scores_BK, atol=1e-5, rtol=0)


def test_half_precision_gives_nearly_the_same_scores() -> None:
    codes_NL, prompts = random_codes(30, 10), random_prompts(4, 10)
    exact, half = (
        search(model, codes_NL, prompts, k=30, beam_width=60)
        for model in (language_model(), language_model().bfloat16())
    )
    scores_BN = [scores_BK.gather(1, items_BK.argsort(1)) for items_BK, scores_BK in (exact, half)]
    torch.testing.assert_close(scores_BN[0], scores_BN[1], atol=0.3, rtol=0.02)
    assert scores_BN[1].unique().numel() == scores_BN[1].numel(), "logits were rounded"


def test_scores_that_are_no_numbers_stay_with_their_user() -> None:
    codes_NL, prompts, broken = random_codes(60, 11), random_prompts(3, 11), 2
    prompts.ids_BP[prompts.ids_BP == broken] = 3
    prompts.ids_BP[1, 0] = broken
    good, bad = language_model(), language_model()
    bad.get_input_embeddings().weight.data[broken] = torch.nan
    expected, found = (search(model, codes_NL, prompts, k=5, beam_width=5) for model in (good, bad))
    assert torch.equal(found[0][[0, 2]], expected[0][[0, 2]])
    assert found[1][1].isnan().all()


def test_equal_scores_go_to_the_smaller_item_index() -> None:
    model = language_model()
    torch.nn.init.zeros_(model.get_input_embeddings().weight)  # tied head: every code of a level is equally likely
    items_BK, _ = search(model, random_codes(40, 9), random_prompts(2, 9), k=12, beam_width=40)
    assert items_BK.tolist() == [list(range(12))] * 2


def test_a_beam_narrower_than_the_list_is_refused() -> None:
    with pytest.raises(ValueError, match=r"decoding\.beam_width"):
        search(language_model(), np.zeros((1, LEVELS), np.int64), random_prompts(1, 0), k=5, beam_width=4)
