from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import BackboneConfig
from model.data.files import save_table
from model.recommender.backbone import build_backbone
from model.recommender.vocabulary import CodeVocabulary, read_codes
from tests.model.recommender.conftest import LEVELS, code_table, item_codes

TINY = BackboneConfig(hidden_size=8, layers=1, heads=2, intermediate_size=8, text_vocabulary=300)


def test_tokens_are_one_per_level_and_code() -> None:
    _, tokenizer = build_backbone(TINY, ["some text"], seed=0)
    before = len(tokenizer)
    vocabulary = CodeVocabulary.extend(tokenizer, levels=4, codes_per_level=256)
    assert len(tokenizer) == before + 1024
    assert tokenizer.convert_ids_to_tokens([vocabulary.token_ids_LK[0, 7], vocabulary.token_ids_LK[3, 255]]) == [
        "<u_7>",
        "<y_255>",
    ]
    assert tokenizer("<v_3><x_4>", add_special_tokens=False)["input_ids"] == [
        vocabulary.token_ids_LK[1, 3],
        vocabulary.token_ids_LK[2, 4],
    ]


@given(codes=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1), seed=st.integers(0, 99))
def test_decode_undoes_encode_wherever_the_tokens_stand(codes: list[tuple[int, int]], seed: int) -> None:
    vocabulary = CodeVocabulary(np.random.default_rng(seed).permutation(100)[:18].reshape(2, 9))
    codes_NL = np.array(codes)
    tokens_NL = vocabulary.encode(codes_NL)
    assert np.array_equal(vocabulary.decode(tokens_NL), codes_NL)
    # A code of another level is none of this one.
    assert (vocabulary.decode(tokens_NL[:, ::-1]) == -1).all()


def test_levels_have_names_for_eight_only() -> None:
    _, tokenizer = build_backbone(TINY, ["some text"], seed=0)
    with pytest.raises(ValueError, match="at most 8 levels"):
        CodeVocabulary.extend(tokenizer, levels=9, codes_per_level=2)


def test_additions_follow_the_codebook_in_item_order(tmp_path: Path) -> None:
    codes_NL = item_codes(12)
    save_table(f"{tmp_path}/codebook/items.parquet", code_table(codes_NL[:9]).take([4, 0, 1, 2, 3, 8, 7, 6, 5]))
    save_table(f"{tmp_path}/additions/items.parquet", code_table(codes_NL[9:], first_index=9))
    assert np.array_equal(read_codes([f"{tmp_path}/codebook", f"{tmp_path}/additions"], LEVELS), codes_NL)


def test_a_missing_addition_is_noticed(tmp_path: Path) -> None:
    save_table(f"{tmp_path}/codebook/items.parquet", code_table(item_codes(9)))
    save_table(f"{tmp_path}/late/items.parquet", code_table(item_codes(3), first_index=11))
    with pytest.raises(ValueError, match="item_index"):
        read_codes([f"{tmp_path}/codebook", f"{tmp_path}/late"], LEVELS)
