"""The tree decoder beside `generate` with a prefix function: same model, prompts, beams and results; the masks' cost.

python -m benchmarks.decode [--quick]

Figures: speedup (users per second over generate's, scores over the whole vocabulary), level_speedup (scores over a
level's codes), ceiling (the ratio of tokens that both feed the model: 20 beams of a prompt against one prompt),
mask_growth (masking a step over 1e7 items against 1e4), mask_share (masking over the whole of a decoder's time, 1e7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.figures import Figure, interleaved_seconds, publish
from model.decoding.beam import BeamSearch
from model.decoding.trie import Allowed, Available, Trie

LEVELS, CODES, BEAM = 4, 256, 20
INSTRUCTION_TOKENS = 4
"""Of model/recommender/tasks.py's INSTRUCTION; all but the last are read once for all users."""
SEEN = 50


class Size(NamedTuple):
    name: str
    text_tokens: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    users: int
    histories: tuple[int, ...]
    """Items of a user's history, 4 tokens each; one comparison for each number."""
    items: int
    catalogues: tuple[int, int, int]
    rounds: int


FULL = Size("SmolLM2-135M's shape", 49_152, 576, 1536, 30, 9, 3, 8, (20, 50), 100_000, (10**4, 10**6, 10**7), 3)
QUICK = Size("a small Llama", 4096, 192, 512, 6, 3, 1, 8, (20,), 10_000, (10**4, 10**5, 10**6), 3)


def main(quick: Annotated[bool, typer.Option("--quick", help="A smaller model, a million items.")] = False) -> None:
    size = QUICK if quick else FULL
    model, token_ids_LK = language_model(size)
    codes_NL = distinct_codes(size.items)
    figures, seconds = [], 0.0
    for history in size.histories:
        prompt = INSTRUCTION_TOKENS + LEVELS * history
        baseline, vocabulary, level = compare(model, token_ids_LK, codes_NL, size, prompt)
        ceiling = (BEAM * prompt + 60) / (prompt - INSTRUCTION_TOKENS + 1 + 60)
        goal = ">=20" if history == size.histories[-1] and not quick else ""
        seconds = vocabulary
        figures += [
            Figure(f"decode.generate_users_per_s.prompt_{prompt}", size.users / baseline),
            Figure(f"decode.users_per_s.prompt_{prompt}", size.users / vocabulary),
            Figure(f"decode.ceiling.prompt_{prompt}", ceiling),
            Figure(f"decode.level_speedup.prompt_{prompt}", baseline / level),
            Figure(f"decode.speedup.prompt_{prompt}", baseline / vocabulary, goal),
        ]
    masks = masking(size.catalogues, size.users, 20)
    for items, mask in zip(size.catalogues, masks, strict=True):
        print(f"masking {size.users} users' four steps over {items:,} items: {1000 * mask:.2f} ms")
    figures += [
        Figure("decode.mask_growth", masks[-1] / masks[0], "" if quick else "<=1.3"),
        Figure("decode.mask_share", masks[-1] / seconds, "" if quick else "<=0.02"),
    ]
    parameters = f"{size.name}, {model.num_parameters() / 1e6:.0f} M parameters, vocabulary {model.config.vocab_size}"
    threads = f"beam {BEAM}, {torch.get_num_threads()} threads, {size.rounds} rounds"
    publish("decode", f"{parameters}, {size.items:,} items, {size.users} users, {threads}", figures)


def language_model(size: Size) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size.text_tokens + LEVELS * CODES,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_value_heads,
        tie_word_embeddings=True,
    )
    token_ids_LK = torch.arange(LEVELS * CODES).view(LEVELS, CODES) + size.text_tokens
    return LlamaForCausalLM(config).eval(), token_ids_LK


def compare(model: Any, token_ids_LK: Tensor, codes_NL: np.ndarray, size: Size, prompt: int) -> list[float]:
    """Median seconds for all users: `generate`, ours over the vocabulary, ours over a level."""
    instruction_C = torch.randint(size.text_tokens, (INSTRUCTION_TOKENS,))
    history_BP = torch.randint(size.text_tokens, model.config.vocab_size, (size.users, prompt - INSTRUCTION_TOKENS))
    prompts_BP = torch.cat([instruction_C.expand(size.users, -1), history_BP], dim=1)
    own_BP = prompts_BP[:, INSTRUCTION_TOKENS - 1 :]
    length_B, seen = torch.full((size.users,), own_BP.shape[1]), torch.empty(size.users, 0, dtype=torch.int64)
    trie = Trie(codes_NL, CODES)
    available = Available(trie, torch.ones(size.items, dtype=torch.bool))
    shared = instruction_C[:-1].tolist()
    of_vocabulary, of_level = (
        BeamSearch(model, token_ids_LK, trie, normalisation, shared) for normalisation in ("vocabulary", "level")
    )
    prefix_function = _prefix_function(codes_NL, token_ids_LK, prompt)

    def generate() -> Tensor:
        output: Tensor = model.generate(
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

    def tree(search: BeamSearch) -> tuple[Tensor, Tensor]:
        return search(own_BP, length_B, Allowed(available, seen), beam_width=BEAM, k=BEAM)

    _check_equal(generate(), tree(of_vocabulary)[0], codes_NL, token_ids_LK, prompt)
    return interleaved_seconds(size.rounds, generate, lambda: tree(of_vocabulary), lambda: tree(of_level))


def masking(catalogues: Sequence[int], users: int, rounds: int) -> list[float]:
    """Median seconds that the masks of all steps cost a batch of users, for catalogues of so many items."""
    days = []
    for items in catalogues:
        trie = Trie(distinct_codes(items), CODES)
        days.append(Available(trie, torch.rand(items) < 0.9))
    times: list[list[float]] = [[] for _ in days]
    for number in range(rounds):
        for day, seconds in zip(days, times, strict=True):
            torch.manual_seed(number)
            seconds.append(_mask_seconds(day, users))
    return [median(seconds) for seconds in times]


def _mask_seconds(day: Available, users: int) -> float:
    seen_BS = torch.randint(day.trie.items, (users, SEEN))
    started = perf_counter()
    allowed = Allowed(day, seen_BS)
    seconds = perf_counter() - started
    node_BW = torch.zeros(users, 1, dtype=torch.int64)
    for depth in range(LEVELS):
        started = perf_counter()
        open_BWK = allowed.open(depth, node_BW)
        seconds += perf_counter() - started
        # Beams wherever they are open, as if the model had no opinion.
        score_BX = torch.rand(open_BWK.shape).masked_fill(~open_BWK, -1).flatten(1)
        place_BW = score_BX.topk(min(BEAM, score_BX.shape[1]), dim=1).indices
        node_BW = day.trie.child(depth, node_BW.gather(1, place_BW // CODES), place_BW % CODES)
    return seconds


def distinct_codes(items: int) -> np.ndarray:
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
