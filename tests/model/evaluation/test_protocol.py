"""The table: same users for every method, both protocols, paired differences."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pytest

from model.evaluation.protocol import evaluate_lists, format_table

USERS = 40


def ranks(challenger: int, popularity: int, popularity_users: Sequence[int] = range(USERS)) -> pa.Table:
    rows = [
        {"method": method, "masked": masked, "user_id": f"u{user}", "key": f"u{user}#{case}", "rank": rank}
        for method, rank, users in (
            ("challenger", challenger, range(USERS)),
            ("popularity", popularity, popularity_users),
        )
        for masked in (True, False)
        for user in users
        for case in range(1 + user % 3)
    ]
    return pa.Table.from_pylist(rows)


def test_figures_of_a_known_outcome() -> None:
    metrics = evaluate_lists(ranks(challenger=2, popularity=-1))
    assert metrics["users"] == USERS
    figures = metrics["methods"]["challenger"]["masked"]
    assert figures["HR@1"]["mean"] == 0.0
    assert figures["HR@10"]["mean"] == 1.0
    assert figures["NDCG@10"]["mean"] == pytest.approx(0.5)
    assert metrics["against"]["popularity"]["not masked"]["NDCG@10"]["low"] > 0
    assert "challenger - popularity, masked" in format_table(metrics)


@pytest.mark.parametrize(
    ("users", "why"),
    [
        (range(USERS - 1), "40 and 39, 1 of them of one alone, u39"),
        (range(1, USERS + 1), "40 and 40, 2 of them of one alone, u0"),
    ],
    ids=["fewer", "as many"],
)
def test_methods_with_other_users_cannot_be_compared(users: Sequence[int], why: str) -> None:
    with pytest.raises(ValueError, match=f"challenger and popularity must have the same users to be compared: {why}"):
        evaluate_lists(ranks(challenger=1, popularity=1, popularity_users=users))
