"""The ablation: each variant is the full method but for the part that its name says."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from benchmarks.ablation import ALL, FULL, FULL_RSLLM, FULL_TTDS, OF_RSLLM, OF_TTDS, SEQUENTIAL, VARIANTS, method_of
from model.config import ModelConfig
from model.recommender.registry import METHODS

SIZES = [f"backbone.{name}" for name in ("heads", "hidden_size", "intermediate_size", "layers")]
REMOVED: dict[str, tuple[ModelConfig, list[str]]] = {
    "no_alignment_loss": (FULL, ["tokenizer.alignment_weight"]),
    "no_behaviour": (FULL, ["tokenizer.text_weight"]),
    "no_negatives": (FULL, ["finetune.mixture"]),
    "no_textual": (FULL, ["finetune.mixture"]),
    "no_query": (FULL, ["finetune.mixture"]),
    "no_tasks": (FULL, ["finetune.mixture"]),
    "size_64_1": (SEQUENTIAL, SIZES),
    "size_256_3": (SEQUENTIAL, SIZES),
    "ttds_items_only": (FULL_TTDS, ["ttds.mixture"]),
    "ttds_no_user_tasks": (FULL_TTDS, ["ttds.mixture"]),
    "ttds_no_contrast": (FULL_TTDS, ["ttds.contrast_weight"]),
    "ttds_no_distance": (FULL_TTDS, ["ttds.distance_weight"]),
    "ttds_no_coarse": (FULL_TTDS, ["tokenizer.coarse_weight"]),
    "ttds_no_fine": (FULL_TTDS, ["tokenizer.fine_weight"]),
    "ttds_no_cross": (FULL_TTDS, ["tokenizer.cross_weight"]),
    "ttds_no_kl": (FULL_TTDS, ["tokenizer.kl_weight"]),
    "rsllm_titles_only": (FULL_RSLLM, ["rsllm.prompts"]),
    "rsllm_ids_only": (FULL_RSLLM, ["rsllm.prompts"]),
    "rsllm_no_id_text": (FULL_RSLLM, ["rsllm.id_text_weight"]),
    "rsllm_no_user_item": (FULL_RSLLM, ["rsllm.user_item_weight"]),
    "rsllm_one_stage": (FULL_RSLLM, ["rsllm.curriculum", "rsllm.text_share"]),
}


def leaves(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = isinstance(value, dict) and name != "mixture"
        found |= leaves(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return found


@pytest.mark.parametrize("variant", REMOVED)
def test_a_variant_lacks_its_part_and_nothing_else(variant: str) -> None:
    full, expected = REMOVED[variant]
    before, after = leaves(asdict(full)), leaves(asdict((VARIANTS | OF_TTDS | OF_RSLLM)[variant]))
    assert sorted(name for name in before if before[name] != after[name]) == expected
    assert method_of(variant) in METHODS


def test_every_variant_is_there() -> None:
    whole = {"full", "size_128_2", "ttds", "rsllm", "ttds_static_index"}
    assert set(ALL) == set(REMOVED) | whole
