"""The running top K over blocks of items is what one sort of all scores gives, ties and no numbers included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.recommender.methods.base import PAD
from model.recommender.rsllm import ranker
from model.recommender.rsllm.ranker import nearest


@given(seed=st.integers(0, 1000), items=st.integers(1, 12), k=st.integers(1, 14), block=st.integers(1, 40))
def test_blocks_give_what_one_sort_gives(seed: int, items: int, k: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    wanted_BH, direction_NH = (torch.from_numpy(rng.integers(-1, 2, (n, 2)).astype(np.float32)) for n in (3, items))
    direction_NH[rng.random(items) < 0.2] = torch.nan
    seen_BS, available_N = rng.integers(-1, items, (3, 2)), rng.random(items) < 0.8
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ranker, "BLOCK_SCORES", block)
        items_BK, scores_BK = nearest(wanted_BH, direction_NH, seen_BS, available_N, k)
    score_BN = (wanted_BH @ direction_NH.T).numpy()
    for row, found in enumerate(items_BK):
        allowed = [item for item in range(items) if available_N[item] and item not in seen_BS[row]]
        order = sorted(allowed, key=lambda item: (np.isnan(score_BN[row, item]), -score_BN[row, item], item))[:k]
        assert found.tolist() == order + [PAD] * (k - len(order))
        np.testing.assert_array_equal(scores_BK[row], [*score_BN[row, order], *[-np.inf] * (k - len(order))])
