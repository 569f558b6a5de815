"""Room for new items, and what another codebook keeps of the codes."""

from __future__ import annotations

import numpy as np
import pytest

from model.tokenizer.health import churn, reserve


def test_the_reserve_names_the_tightest_prefixes() -> None:
    full = [[0, 0, last] for last in range(20)]
    nearly = [[0, 1, last] for last in range(19)]
    roomy = [[3, 2, 5], [3, 2, 7]]
    found = reserve(np.array([*roomy, *nearly, *full]), 20)
    assert (found["prefixes"], found["full"], found["nearly_full"]) == (3, 1, 2)
    assert found["tightest"] == [
        {"prefix": "0-0", "free": 0},
        {"prefix": "0-1", "free": 1},
        {"prefix": "3-2", "free": 18},
    ]


def test_churn_sees_through_new_names() -> None:
    before_NL = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [2, 0, 0]])
    assert churn(before_NL, before_NL) == {"items": 4, "same_code": 1, "same_first": 1, "together": 1}
    renamed_NL = np.array([[7, 3, 0], [7, 3, 1], [1, 1, 1], [2, 0, 0]])
    assert churn(before_NL, renamed_NL) == {"items": 4, "same_code": 0.25, "same_first": 0.25, "together": 1}
    parted_NL = np.array([[0, 0, 0], [0, 2, 1], [0, 1, 0], [2, 0, 0]])
    assert churn(before_NL, parted_NL)["together"] == 0


def test_churn_of_no_common_items() -> None:
    none_NL = np.empty((0, 3), np.int64)
    assert churn(none_NL, none_NL)["same_code"] == pytest.approx(1)
