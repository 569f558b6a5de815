"""What ranking by one matrix product is worth at night: users a second beside beam search over codes, in one run.

python -m benchmarks.rsllm [--data DIR] [--users N] [--epochs E] [--quick]

Trains both language models on the same teacher and codes, as the quality benchmark does but for the epochs, which do
not change the speed; then both rank the whole catalogue for the same users, in turns, without the late fusion that
they share. DIR: see docs/data_format.md; without it, the sample's MovieLens.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.budget import device
from benchmarks.figures import Figure, interleaved_seconds, publish
from benchmarks.movielens import write_movielens
from benchmarks.quality_rows import CONFIG, OURS
from benchmarks.recipe import Recipe
from jobs.common import step
from model.config import ModelConfig
from model.evaluation import dataset
from model.evaluation.lists import write_training_set
from model.generation import digest
from model.recommender.methods.base import PAD, Ranker, Users

ROOT = Path("build/rsllm")
ROUNDS, K = 3, 20
SIDES = {"semantic_convergence": "language_model_alone", "rsllm": "rsllm_alone"}
"""Method -> its row in the quality benchmark."""


def main(
    data: Annotated[Path | None, typer.Option(help="A folder as docs/data_format.md says.")] = None,
    users: Annotated[int, typer.Option(help="Users to rank for, at most.")] = 2000,
    epochs: Annotated[int, typer.Option(help="Of each training.")] = 1,
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
    cases = list(zip(split.case_user_C, split.case_place_C, strict=True))[: 100 if quick else users]
    history_BH = np.full((len(cases), CONFIG.history_items), PAD)
    for row_H, (user, place) in zip(history_BH, cases, strict=True):
        items = interactions.before(int(user), int(place))[-CONFIG.history_items :]
        row_H[: len(items)] = items
    asked, everything_N = Users([""] * len(cases), history_BH), np.ones(len(interactions.item_ids), bool)

    def ranked(side: Ranker) -> None:
        side.rank(asked, history_BH, everything_N, K)

    of_codes, by_product = interleaved_seconds(ROUNDS, *(lambda side=side: ranked(side) for side in sides))  # type: ignore[misc]
    publish(
        "rsllm",
        f"{folder.name}, {len(interactions.item_ids):,} items, {len(cases):,} users, {device()}",
        [
            Figure("rsllm.users_ratio", of_codes / by_product),
            Figure("rsllm.users_per_second", len(cases) / by_product),
            Figure("rsllm.semantic_convergence_users_per_second", len(cases) / of_codes),
        ],
    )


def _shorter(config: ModelConfig, epochs: int, quick: bool) -> ModelConfig:
    behaviour = replace(config.behaviour, epochs=2) if quick else config.behaviour
    return replace(config, behaviour=behaviour, finetune=replace(config.finetune, epochs=epochs))


if __name__ == "__main__":
    step.run(main)
