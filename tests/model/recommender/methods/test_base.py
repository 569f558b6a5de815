from __future__ import annotations

import numpy as np

from model.recommender.methods.base import newest


def test_newest_items_keep_their_order() -> None:
    history = np.array([[1, 2, 3, 4], [5, 6, -1, -1], [-1, -1, -1, -1]])
    assert newest(history, 3).tolist() == [[2, 3, 4], [5, 6, -1], [-1, -1, -1]]
    assert newest(history, 9).tolist() == history.tolist()
    assert newest(np.empty((2, 0), np.int64), 3).shape == (2, 0)
