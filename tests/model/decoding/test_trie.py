from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.decoding.trie import Allowed, Available, Listed, Trie
from tests.model.decoding.conftest import CODES, LEVELS, random_codes


def walk(trie: Trie, allowed: Allowed | Listed, users: int) -> list[dict[int, tuple[int, ...]]]:
    """For each user every item that can be reached through open nodes, with the codes on its path."""
    reached: list[dict[int, tuple[int, ...]]] = [{} for _ in range(users)]

    def descend(user: int, depth: int, node: int, path: tuple[int, ...]) -> None:
        if depth == trie.levels:
            reached[user][int(trie.item_N[node])] = path
            return
        parent = torch.zeros(users, 1, dtype=torch.int64)
        parent[user] = node
        for code in allowed.open(depth, parent)[user, 0].nonzero().flatten():
            child = trie.child(depth, parent[user], code)
            descend(user, depth + 1, int(child), (*path, int(code)))

    for user in range(users):
        descend(user, 0, 0, ())
    return reached


@settings(max_examples=60, deadline=None)
@given(items=st.integers(1, 40), seed=st.integers(0, 10_000), data=st.data())
def test_open_paths_lead_to_the_allowed_items_and_nothing_else(items: int, seed: int, data: st.DataObject) -> None:
    codes_NL = random_codes(items, seed)
    available = np.array(data.draw(st.lists(st.booleans(), min_size=items, max_size=items)))
    # Padding anywhere and repeats, as histories have them.
    seen = data.draw(st.lists(st.lists(st.integers(-1, items - 1), min_size=7, max_size=7), min_size=2, max_size=2))
    trie = Trie(codes_NL, CODES)
    reached = walk(trie, Allowed(Available(trie, torch.tensor(available)), torch.tensor(seen)), users=2)
    for user in range(2):
        expected = set(np.flatnonzero(available)) - set(seen[user])
        assert set(reached[user]) == expected
        assert all(path == tuple(codes_NL[item]) for item, path in reached[user].items())


def test_a_user_who_has_seen_nothing_may_have_no_seen_columns_at_all() -> None:
    trie = Trie(random_codes(9, seed=1), CODES)
    allowed = Allowed(Available(trie, torch.ones(9, dtype=torch.bool)), torch.empty(1, 0, dtype=torch.int64))
    assert len(walk(trie, allowed, users=1)[0]) == 9


@settings(max_examples=40, deadline=None)
@given(items=st.integers(1, 40), seed=st.integers(0, 10_000), data=st.data())
def test_of_listed_items_these_are_open_and_nothing_else(items: int, seed: int, data: st.DataObject) -> None:
    codes_NL = random_codes(items, seed)
    listed = data.draw(st.lists(st.lists(st.integers(-1, items - 1), min_size=6, max_size=6), min_size=2, max_size=2))
    trie = Trie(codes_NL, CODES)
    reached = walk(trie, Listed(trie, torch.tensor(listed)), users=2)
    for user in range(2):
        assert reached[user] == {item: tuple(codes_NL[item]) for item in set(listed[user]) - {-1}}


def test_tables_are_the_same_for_any_order_of_the_items() -> None:
    codes_NL = random_codes(30, seed=2)
    order = np.random.default_rng(0).permutation(30)
    one, other = Trie(codes_NL, CODES), Trie(codes_NL[order], CODES)
    for a, b in zip(one.depths, other.depths, strict=True):
        assert torch.equal(a.key, b.key)
        assert torch.equal(a.first_leaf, b.first_leaf)
    assert torch.equal(one.item_N, torch.as_tensor(order)[other.item_N].int())


def test_a_full_tree_has_every_code_under_every_node() -> None:
    trie = Trie(random_codes(CODES**LEVELS, seed=3), CODES)
    assert [depth.key.tolist() for depth in trie.depths] == [list(range(CODES ** (d + 1))) for d in range(LEVELS)]


def test_two_items_with_one_code_are_refused_by_name() -> None:
    codes_NL = random_codes(8, seed=4)
    codes_NL[6] = codes_NL[2]
    with pytest.raises(ValueError, match="Items 2 and 6 share the code"):
        Trie(codes_NL, CODES)


def test_an_empty_codebook_is_refused() -> None:
    with pytest.raises(ValueError, match="no items"):
        Trie(np.empty((0, LEVELS), np.int64), CODES)
