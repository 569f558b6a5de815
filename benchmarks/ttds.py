"""What a moving index costs: renewing it from a cache, against re-encoding a batch's items inside every step.

python -m benchmarks.ttds [--data DIR] [--refresh-steps R] [--quick]

Trains the first stage of TTDS for an epoch with several renewals; then renews the index and reads items one by one, as
the published code does in every step, in turns. Prints the share of a training that a renewal every R steps takes, the
ratio of the two costs in a step, and how many items moved; the churn curve stands in build/ttds/. DIR: see
docs/data_format.md; without it, the sample's MovieLens. The model is that of the quality benchmark.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from itertools import islice
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
from jobs.common.codebook_plots import plot_churn
from model.data.reader import read_batches, steps_per_epoch
from model.evaluation import dataset
from model.evaluation.lists import write_training_set
from model.generation import digest
from model.processes import ALONE
from model.recommender import ttds
from model.recommender.dynamic_index import DynamicIndex
from model.recommender.states import text_states
from model.recommender.trainer import Trainer
from model.tokenizer.quantizer import nearest_codes

ROOT = Path("build/ttds")
RENEWALS = 4
"""Of the epoch."""
ROUNDS = 3
ONE_BY_ONE = 100
"""Items that are read one by one in a round."""
SAMPLED_BATCHES = 20


def items_a_step(trainer: Trainer, training_set: str) -> float:
    """Different items that the windows of a step name."""
    sequences, size = f"{training_set}/sequences", trainer.recipe.batch_size * trainer.recipe.accumulation
    batches = islice(read_batches(sequences, ["items"], size, seed=0, epoch=0), SAMPLED_BATCHES)
    return float(np.mean([len(np.unique(items_BT[items_BT >= 0])) for items_BT in (each["items"] for each in batches)]))


def read_one_by_one(trainer: Trainer, index: DynamicIndex) -> None:
    """Text, state, code: of one item after another."""
    codebook, views = index.frozen(), index.views
    for item in np.linspace(0, len(index.codes_NL) - 1, ONE_BY_ONE).astype(int):
        state_1H = text_states(trainer.subject.model, index.text_NX[[item]], trainer.recipe.row_tokens)
        x_1P = codebook.inputs(state_1H, views.behaviour_ND[[item]], views.has_behaviour_N[[item]])
        nearest_codes(codebook.quantised(x_1P), codebook.centroids_LKZ)


def main(
    data: Annotated[Path | None, typer.Option(help="A folder as docs/data_format.md says.")] = None,
    refresh_steps: Annotated[int, typer.Option(help="R.")] = OURS["ttds"].ttds.refresh_steps,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer epochs of the teacher and the towers.")] = False,
) -> None:
    folder = data or write_movielens(ROOT / "movielens")
    interactions = dataset.read_folder(folder)
    split = dataset.leave_one_out(interactions)
    recipe = Recipe(ROOT / f"{folder.name}-{digest(interactions.digest)}", interactions, split.name, "ttds")
    shape = CONFIG.history_items, CONFIG.window_items, CONFIG.validation_users
    write_training_set(recipe.root / "training_set", interactions, split, *shape)
    config = OURS["ttds"]
    if quick:
        config = replace(config, behaviour=replace(config.behaviour, epochs=2))
        config = replace(config, tokenizer=replace(config.tokenizer, epochs=13))
    inputs = recipe.inputs(config, "behaviour")
    steps = steps_per_epoch(f"{inputs['training_set']}/sequences", config.finetune.batch_size, 1)
    moving = replace(config.ttds, epochs=1, refresh_steps=max(1, steps // (RENEWALS + 1)))
    trainer = ttds.prepare(ttds.first_stage(replace(config, ttds=moving)), inputs, ALONE)
    metrics, index = trainer.run(), trainer.index
    assert index is not None
    a_step = (trainer.speed.seconds - trainer.speed.refreshing) / trainer.position.step

    def renew() -> None:
        index.refresh(trainer.subject.model, trainer.loss, trainer.position.step)

    renewal, some = interleaved_seconds(ROUNDS, renew, lambda: read_one_by_one(trainer, index))
    inside = some / ONE_BY_ONE * items_a_step(trainer, inputs["training_set"])
    curve = ROOT / "churn.png"
    curve.write_bytes(base64.b64decode(plot_churn(metrics)))
    for each in metrics["renewals"]:
        print(f"step {each['step']}: {1 - each['same_code']:.1%} of the items took another code")
    print(f"{curve}: the churn curve. A step takes {a_step:.2f} s, a renewal {renewal:.1f} s.")
    goals = ("", "") if quick else ("<=0.1", ">=10")
    publish(
        "ttds",
        f"{folder.name}, {len(index.codes_NL):,} items, a renewal every {refresh_steps} steps of "
        f"{config.finetune.batch_size} windows, {device()}",
        [
            Figure("ttds.refresh_share", renewal / (renewal + refresh_steps * a_step), goals[0]),
            Figure("ttds.refresh_speedup", inside * refresh_steps / renewal, goals[1]),
            Figure("ttds.last_churn", 1 - metrics["renewals"][-1]["same_code"]),
        ],
    )


if __name__ == "__main__":
    step.run(main)
