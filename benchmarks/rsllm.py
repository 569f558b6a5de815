"""What ranking by one matrix product is worth at night: users a second beside beam search over codes, in one run.

python -m benchmarks.rsllm [--data DIR] [--users N] [--epochs E] [--scale-items N] [--quick]

Trains both language models on the same teacher and codes, as the quality benchmark does but for the epochs, which do
not change the speed; then both rank the whole catalogue for the same users, in turns, without the late fusion that
they share. Beside them the product alone, with so many random vectors as a catalogue of --scale-items would have.
DIR: see docs/data_format.md; without it, the sample's MovieLens.
"""

from __future__ import annotations

import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer

from benchmarks.budget import device
from benchmarks.figures import Figure, interleaved_seconds, publish
from benchmarks.movielens import write_movielens
from benchmarks.quality_rows import CONFIG, OURS
from benchmarks.recipe import Recipe
from jobs.common import step
from model.config import ModelConfig
from model.evaluation import dataset
from model.evaluation.lists import histories, write_training_set
from model.generation import digest
from model.recommender.methods.base import Ranker, Users
from model.recommender.rsllm.ranker import BLOCK_USERS, nearest

ROOT = Path("build/rsllm")
ROUNDS, K = 3, 20
SIDES = {"semantic_convergence": "language_model_alone", "rsllm": "rsllm_alone"}
"""Method -> its row in the quality benchmark."""


def main(
    data: Annotated[Path | None, typer.Option(help="A folder as docs/data_format.md says.")] = None,
    users: Annotated[int, typer.Option(help="Users to rank for, at most.")] = 2000,
    epochs: Annotated[int, typer.Option(help="Of each training.")] = 1,
    scale_items: Annotated[int, typer.Option(help="Items of the product alone; 0: leave it out.")] = 1_000_000,
    quick: Annotated[bool, typer.Option("--quick", help="Few users, and two epochs of the teacher.")] = False,
) -> None:
    folder = data or write_movielens(ROOT / "movielens")
    interactions = dataset.read_folder(folder)
    split = dataset.leave_one_out(interactions)
    root = ROOT / f"{folder.name}-{digest(interactions.digest)}"
    shape = CONFIG.history_items, CONFIG.window_items, CONFIG.validation_users
    write_training_set(root / "training_set", interactions, split, *shape)

    def ranker(method: str, row: str) -> Ranker:
        return Recipe(root, interactions, split.name, method).ranker(_shorter(OURS[row], epochs, quick))

    sides = [ranker(method, row) for method, row in SIDES.items()]
    some = slice(100 if quick else users)
    history_BH = histories(interactions, split.case_user_C[some], split.case_place_C[some], CONFIG.history_items)
    asked, everything_N = Users([""] * len(history_BH), history_BH), np.ones(len(interactions.item_ids), bool)

    def ranked(side: Ranker) -> None:
        side.rank(asked, history_BH, everything_N, K)

    of_codes, by_product = interleaved_seconds(ROUNDS, *(lambda side=side: ranked(side) for side in sides))  # type: ignore[misc]
    figures = [
        Figure("rsllm.users_ratio", of_codes / by_product),
        Figure("rsllm.users_per_second", len(history_BH) / by_product),
        Figure("rsllm.semantic_convergence_users_per_second", len(history_BH) / of_codes),
    ]
    publish(
        "rsllm",
        f"{folder.name}, {len(interactions.item_ids):,} items, {len(history_BH):,} users, {device()}",
        figures + (_at_scale(20_000 if quick else scale_items) if scale_items else []),
    )


def _at_scale(items: int) -> list[Figure]:
    """Users a second of the product alone, and the process's most memory."""
    torch.manual_seed(0)
    H = CONFIG.backbone.hidden_size
    direction_NH = F.normalize(torch.randn(items, H), dim=1)
    wanted_BH, seen_BS = F.normalize(torch.randn(BLOCK_USERS, H), dim=1), np.arange(BLOCK_USERS)[:, None]
    started = time.perf_counter()
    nearest(wanted_BH, direction_NH, seen_BS, np.ones(items, bool), K)
    seconds = time.perf_counter() - started
    return [
        Figure("rsllm.scale_items", items),
        Figure("rsllm.scale_users_per_second", BLOCK_USERS / seconds),
        Figure("rsllm.scale_vectors_gib", direction_NH.nbytes / 2**30),
        Figure("rsllm.peak_gib", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20),
    ]


def _shorter(config: ModelConfig, epochs: int, quick: bool) -> ModelConfig:
    behaviour = replace(config.behaviour, epochs=2) if quick else config.behaviour
    return replace(config, behaviour=behaviour, finetune=replace(config.finetune, epochs=epochs))


if __name__ == "__main__":
    step.run(main)
