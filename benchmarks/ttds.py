"""What a moving index costs: renewing it from a cache, against re-encoding a batch's items inside every step.

python -m benchmarks.ttds [--data DIR] [--renewals R] [--quick]

Trains the first stage of TTDS for an epoch with R renewals. Then, in turns: renews the index; reads items one by one,
as the published code does in every step; reads as many items as a step names at once, packed, as a step could. Prints

refresh_share           of a whole first stage: R renewals and the last reading, beside the steps
refresh_speedup         reading a step's items one by one inside every step, over one renewal for all steps until the
                        next: what batches and the cache bring together
refresh_speedup_packed  reading a step's items packed inside every step, over the same: what the cache alone brings
last_churn              share of the items that took another code at the last renewal of the epoch

The churn curve stands in build/ttds/. DIR: see docs/data_format.md; without it, the sample's MovieLens. The model is
that of the quality benchmark.
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
from model.recommender.methods.base import Ints
from model.recommender.states import text_states
from model.recommender.trainer import Trainer
from model.recommender.users import Views
from model.tokenizer.codebook import Codebook
from model.tokenizer.quantizer import nearest_codes

ROOT = Path("build/ttds")
ROUNDS = 3
ONE_BY_ONE = 100
"""Items that are read one by one in a round."""
SAMPLED_BATCHES = 20


def items_a_step(trainer: Trainer, training_set: str) -> float:
    """Different items that the windows of a step name."""
    sequences, size = f"{training_set}/sequences", trainer.recipe.batch_size * trainer.recipe.accumulation
    batches = islice(read_batches(sequences, ["items"], size, seed=0, epoch=0), SAMPLED_BATCHES)
    return float(np.mean([len(np.unique(items_BT[items_BT >= 0])) for items_BT in (each["items"] for each in batches)]))


def spread(items: int, count: int) -> Ints:
    """So many of the items, evenly drawn."""
    return np.linspace(0, items - 1, count).astype(np.int64)


def read(trainer: Trainer, codebook: Codebook, views: Views, text_MX: Ints, item_M: Ints) -> None:
    """Texts, states, codes: of these items at once."""
    state_MH = text_states(trainer.subject.model, text_MX, trainer.recipe.row_tokens)
    x_MP = codebook.inputs(state_MH, views.behaviour_ND[item_M], views.has_behaviour_N[item_M])
    nearest_codes(codebook.quantised(x_MP), codebook.centroids_LKZ)


def main(
    data: Annotated[Path | None, typer.Option(help="A folder as docs/data_format.md says.")] = None,
    renewals: Annotated[int, typer.Option(min=1, help="R.")] = OURS["ttds"].ttds.renewals,
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
    moving = replace(config.ttds, epochs=1, renewals=renewals)
    trainer = ttds.prepare(ttds.first_stage(replace(config, ttds=moving)), inputs, ALONE)
    metrics, index = trainer.run(), trainer.index
    assert index is not None
    a_step = (trainer.speed.seconds - trainer.speed.refreshing) / trainer.position.step

    def renew() -> None:
        index.refresh(trainer.subject.model, trainer.loss, trainer.position.step)

    named = items_a_step(trainer, inputs["training_set"])
    codebook, views = index.towers["items"].frozen(), index.views
    few_M, named_M = (spread(len(index.codes_NL), count) for count in (ONE_BY_ONE, round(named)))

    def one_by_one() -> None:
        for item in few_M:
            read(trainer, codebook, views, index.text_NX[[item]], np.array([item]))

    def packed() -> None:
        read(trainer, codebook, views, index.text_NX[named_M], named_M)

    renewal, few, at_once = interleaved_seconds(ROUNDS, renew, one_by_one, packed)
    stage = steps * config.ttds.epochs
    until_next, readings = stage / (renewals + 1), (renewals + 1) * renewal
    curve = ROOT / "churn.png"
    curve.write_bytes(base64.b64decode(plot_churn(metrics)))
    for each in metrics["renewals"]:
        print(f"step {each['step']}: {1 - each['same_code']:.1%} of the items took another code")
    print(f"{curve}: the churn curve. A step takes {a_step:.2f} s, a renewal {renewal:.1f} s.")
    goals = ("", "") if quick else ("<=0.1", ">=10")
    publish(
        "ttds",
        f"{folder.name}, {len(index.codes_NL):,} items, {renewals} renewals in {stage:,} steps of "
        f"{config.finetune.batch_size} windows with {named:,.0f} items, {device()}",
        [
            Figure("ttds.refresh_share", readings / (readings + stage * a_step), goals[0]),
            Figure("ttds.refresh_speedup", few / ONE_BY_ONE * named * until_next / renewal, goals[1]),
            Figure("ttds.refresh_speedup_packed", at_once * until_next / renewal),
            Figure("ttds.last_churn", 1 - metrics["renewals"][-1]["same_code"]),
        ],
    )


if __name__ == "__main__":
    step.run(main)
