"""Tiny catalogues and language models that have never been trained: decoding must be exact for any weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from model.recommender.methods.base import Ints

TEXT_TOKENS = 5
LEVELS, CODES = 4, 6

SIZES: dict[str, Any] = {
    "vocab_size": TEXT_TOKENS + LEVELS * CODES,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    # Far from uniform, so that beams differ.
    "initializer_range": 0.6,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}

TOKEN_IDS_LK = torch.arange(TEXT_TOKENS, TEXT_TOKENS + LEVELS * CODES).view(LEVELS, CODES)


def language_model(family: str = "llama", seed: int = 0) -> Any:
    torch.manual_seed(seed)
    if family == "qwen":
        return Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=False)).eval()
    return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)).eval()


def random_codes(items: int, seed: int) -> Ints:
    """Distinct codes [items, LEVELS] in no particular order."""
    rng = np.random.default_rng(seed)
    flat = rng.choice(CODES**LEVELS, size=items, replace=False)
    return np.stack(np.unravel_index(flat, (CODES,) * LEVELS), axis=1).astype(np.int64)


@dataclass(frozen=True)
class Prompts:
    ids_BP: torch.Tensor
    length_B: torch.Tensor


def random_prompts(users: int, seed: int, longest: int = 9) -> Prompts:
    """Prompts of different lengths; the padding holds arbitrary tokens, because nothing may read it."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, SIZES["vocab_size"], (users, longest), generator=generator)
    length = torch.randint(1, longest + 1, (users,), generator=generator)
    return Prompts(ids[:, : length.max()], length)
