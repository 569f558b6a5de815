"""Users per second of the tree decoder against `generate` with a prefix function: same model, prompts, beams, results.

python -m benchmarks.decode [--quick]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
import typer
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.figures import Figure, interleaved_seconds, publish
from model.decoding.beam import BeamSearch
from model.decoding.trie import Trie

LEVELS, CODES, TEXT_TOKENS, BEAM = 4, 256, 4096, 20


def main(quick: Annotated[bool, typer.Option("--quick", help="A smaller model, fewer users.")] = False) -> None:
    users, items, prompt, layers, hidden, rounds = (
        (8, 10_000, 85, 6, 192, 3) if quick else (16, 100_000, 85, 30, 576, 3)
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=TEXT_TOKENS + LEVELS * CODES,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 192,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).eval()
    token_ids_LK = torch.arange(LEVELS * CODES).view(LEVELS, CODES) + TEXT_TOKENS
    codes_NL = _distinct_codes(items)
    prompts_BP = torch.randint(TEXT_TOKENS, config.vocab_size, (users, prompt))
    length_B, seen = torch.full((users,), prompt), torch.empty(users, 0, dtype=torch.int64)
    available_N, prefix_function = torch.ones(items, dtype=torch.bool), _prefix_function(codes_NL, token_ids_LK, prompt)
    searches = {
        normalisation: BeamSearch(model, token_ids_LK, Trie(codes_NL, torch.device("cpu")), normalisation)
        for normalisation in ("vocabulary", "level")
    }

    def tree(normalisation: str) -> tuple[torch.Tensor, torch.Tensor]:
        return searches[normalisation](prompts_BP, length_B, seen, available_N, beam_width=BEAM, k=BEAM)

    def generate() -> torch.Tensor:
        output: torch.Tensor = model.generate(
            prompts_BP,
            attention_mask=torch.ones_like(prompts_BP),
            num_beams=BEAM,
            num_return_sequences=BEAM,
            max_new_tokens=LEVELS,
            min_new_tokens=LEVELS,
            do_sample=False,
            length_penalty=0.0,
            prefix_allowed_tokens_fn=prefix_function,
            pad_token_id=0,
            eos_token_id=None,
        )
        return output

    _check_equal(generate(), tree("vocabulary")[0], codes_NL, token_ids_LK, prompt)
    baseline, vocabulary, level = interleaved_seconds(
        rounds, generate, lambda: tree("vocabulary"), lambda: tree("level")
    )
    size = (
        f"Llama of {model.num_parameters() / 1e6:.0f} M parameters, vocabulary {config.vocab_size}, {items} items, "
        f"{users} users, prompt {prompt}, beam {BEAM}, {torch.get_num_threads()} threads, {rounds} rounds"
    )
    publish(
        "decode",
        size,
        [
            Figure("decode.generate_users_per_s", users / baseline),
            Figure("decode.users_per_s", users / vocabulary),
            Figure("decode.speedup", baseline / vocabulary, "" if quick else ">=20"),
            Figure("decode.level_speedup", baseline / level),
        ],
    )


def _distinct_codes(items: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    flat_N = np.sort(rng.choice(CODES**LEVELS, items, replace=False))
    return np.stack(np.unravel_index(flat_N, (CODES,) * LEVELS), axis=1).astype(np.int64)


def _prefix_function(
    codes_NL: np.ndarray, token_ids_LK: torch.Tensor, prompt: int
) -> Callable[[int, torch.Tensor], list[int]]:
    """The usual recipe: a dictionary from the codes so far to the tokens that may follow."""
    offset = int(token_ids_LK[0, 0])
    allowed: dict[tuple[int, ...], set[int]] = {}
    for code_L in (codes_NL + offset + np.arange(LEVELS) * CODES).tolist():
        for level in range(LEVELS):
            allowed.setdefault(tuple(code_L[:level]), set()).add(code_L[level])
    lists = {prefix: sorted(tokens) for prefix, tokens in allowed.items()}
    return lambda _, ids: lists[tuple(ids[prompt:].tolist())]


def _check_equal(
    generated: torch.Tensor, items_BK: torch.Tensor, codes_NL: np.ndarray, token_ids_LK: torch.Tensor, prompt: int
) -> None:
    """The two sides must do the same work: the same items for every user."""
    level_L = np.arange(LEVELS)
    expected_BKL = token_ids_LK[level_L, torch.as_tensor(codes_NL)[items_BK]]
    found_BKL = generated[:, prompt:].view(*items_BK.shape, LEVELS)
    for expected_KL, found_KL in zip(expected_BKL.tolist(), found_BKL.tolist(), strict=True):
        if {tuple(code) for code in expected_KL} != {tuple(code) for code in found_KL}:
            raise SystemExit("The tree decoder and generate disagree: the comparison would mean nothing.")


if __name__ == "__main__":
    typer.run(main)
