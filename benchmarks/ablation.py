"""What each part of a method adds to the language model's own lists, and what its size does.

python -m benchmarks.ablation --data DIR [--tokens N] [--users N] [--only VARIANT,…] [--budget-minutes M] [--quick]

Each variant is the full one with a part removed. Those of Semantic Convergence are trained on as many tokens, the sizes
read the sequential task alone; those of TTDS and of RSLLM are trained for as many epochs each.
DIR: see docs/data_format.md; without it, the sample's MovieLens. Settings may be chosen by it: so many of the users are
asked about their interaction before the last, the whole catalogue ranked by beam search or by RSLLM's product. What is
there is not made again; a run that was stopped goes on.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.budget import BudgetError, budget
from benchmarks.figures import Figure, publish
from benchmarks.movielens import write_movielens
from benchmarks.quality_rows import CONFIG, OURS
from benchmarks.recipe import Recipe
from jobs.common import step
from model.config import BackboneConfig, FinetuneConfig, FusionConfig, ModelConfig, TokenizerConfig
from model.evaluation import dataset
from model.evaluation.lists import write_lists, write_training_set
from model.evaluation.protocol import PROTOCOLS, evaluate_lists
from model.generation import GenerationStore, Manifest, digest
from model.recommender.tasks import TASKS, Family
from model.recommender.train import prepare
from model.task_names import TaskName

ROOT = Path("build/ablation")
SAMPLED_BATCHES = 30
K = 10
SHOWN = ("HR@10", "NDCG@10")
SHARE = 0.1
"""Examples of each further task per window."""

console = Console(highlight=False, width=160)


OF_ITEMS = (Family.SEQUENTIAL, Family.TEXTUAL, Family.QUERY)


def mixture(*families: Family, negatives: bool = True) -> dict[TaskName, float]:
    further = (task for task in TASKS.values() if task.family in families and (negatives or not task.others))
    return {task.name: SHARE for task in further} | {"next_item": 1.0}


FULL = replace(
    CONFIG,
    tokenizer=TokenizerConfig(kind="autoencoder"),
    backbone=BackboneConfig(hidden_size=128, layers=2, heads=4, intermediate_size=384),
    finetune=FinetuneConfig(
        batch_size=64, row_tokens=256, patience=0, checkpoint_steps=200, mixture=mixture(*OF_ITEMS)
    ),
    fusion=FusionConfig(signals=[]),
)


def mixed(config: ModelConfig, shares: dict[TaskName, float]) -> ModelConfig:
    return replace(config, finetune=replace(config.finetune, mixture=shares))


def sized(config: ModelConfig, hidden: int, layers: int) -> ModelConfig:
    backbone = BackboneConfig(hidden_size=hidden, layers=layers, heads=hidden // 32, intermediate_size=3 * hidden)
    return replace(config, backbone=backbone)


SEQUENTIAL = mixed(FULL, {"next_item": 1.0})
VARIANTS: dict[str, ModelConfig] = {
    "full": FULL,
    "no_alignment_loss": replace(FULL, tokenizer=replace(FULL.tokenizer, alignment_weight=0.0)),
    "no_behaviour": replace(FULL, tokenizer=replace(FULL.tokenizer, text_weight=1.0)),
    "no_negatives": mixed(FULL, mixture(*OF_ITEMS, negatives=False)),
    "no_textual": mixed(FULL, mixture(Family.SEQUENTIAL, Family.QUERY)),
    "no_query": mixed(FULL, mixture(Family.SEQUENTIAL, Family.TEXTUAL)),
    "no_tasks": SEQUENTIAL,
    "size_64_1": sized(SEQUENTIAL, 64, 1),
    "size_128_2": SEQUENTIAL,
    "size_256_3": sized(SEQUENTIAL, 256, 3),
}
FULL_TTDS = replace(
    OURS["ttds"],
    finetune=replace(OURS["ttds"].finetune, epochs=3),
    fusion=FusionConfig(signals=[]),
)


def moving(**changes: Any) -> ModelConfig:
    return replace(FULL_TTDS, ttds=replace(FULL_TTDS.ttds, **changes))


def towers(**changes: Any) -> ModelConfig:
    return replace(FULL_TTDS, tokenizer=replace(FULL_TTDS.tokenizer, **changes))


OF_TTDS: dict[str, ModelConfig] = {
    "ttds": FULL_TTDS,
    "ttds_static_index": moving(renewals=0),
    "ttds_items_only": moving(mixture={}),
    "ttds_no_user_tasks": moving(mixture={"next_item_of_user": 1.0}),
    "ttds_no_contrast": moving(contrast_weight=0.0),
    "ttds_no_distance": moving(distance_weight=0.0),
    "ttds_no_coarse": towers(coarse_weight=0.0),
    "ttds_no_fine": towers(fine_weight=0.0),
    "ttds_no_cross": towers(cross_weight=0.0),
    "ttds_no_kl": towers(kl_weight=0.0),
}
FULL_RSLLM = replace(OURS["rsllm_alone"], finetune=replace(OURS["rsllm_alone"].finetune, epochs=2))


def reading(**changes: Any) -> ModelConfig:
    return replace(FULL_RSLLM, rsllm=replace(FULL_RSLLM.rsllm, **changes))


OF_RSLLM: dict[str, ModelConfig] = {
    "rsllm": FULL_RSLLM,
    "rsllm_titles_only": reading(prompts="titles"),
    "rsllm_ids_only": reading(prompts="ids"),
    "rsllm_no_id_text": reading(id_text_weight=0.0),
    "rsllm_no_user_item": reading(user_item_weight=0.0),
    "rsllm_one_stage": reading(text_share=0.0, curriculum=0.0),
}
ALL = (*VARIANTS, *OF_TTDS, *OF_RSLLM)


def method_of(variant: str) -> str:
    return "ttds" if variant in OF_TTDS else "rsllm" if variant in OF_RSLLM else "semantic_convergence"


def quicker(config: ModelConfig) -> ModelConfig:
    """As short as it can be, to see that it runs."""
    behaviour, tokenizer = replace(config.behaviour, epochs=2), replace(config.tokenizer, epochs=13)
    return replace(config, behaviour=behaviour, tokenizer=tokenizer, ttds=replace(config.ttds, epochs=1))


def budgeted(config: ModelConfig, recipe: Recipe, tokens: float) -> tuple[ModelConfig, float]:
    """The settings with the whole epochs that come nearest to the budget, and the tokens of these."""
    batches = prepare(config, recipe.inputs(config, "codebook")).batches
    sampled = [batch.tokens for batch in islice(batches.read(epoch=0, shard=0, shards=1), SAMPLED_BATCHES)]
    per_epoch = float(np.mean(sampled)) * batches.per_shard(1)
    epochs = max(1, round(tokens / per_epoch))
    return replace(config, finetune=replace(config.finetune, epochs=epochs)), epochs * per_epoch


def lists_of(variant: str, config: ModelConfig, recipe: Recipe, split: dataset.Split) -> Path:
    """The ranked lists of a variant, trained now unless it was before."""
    store = GenerationStore(str(recipe.root), f"lists-{variant}")
    key = {"settings": digest([asdict(config.decoding), recipe.inputs(config), split.name, split.case_user_C.size])}
    made = store.latest()
    if made is None or made.manifest.key != key:
        ranker = recipe.ranker(config)
        draft = store.begin()
        lists = Path(draft.path("lists.parquet"))
        lists.parent.mkdir(parents=True)
        write_lists(lists, variant, ranker, recipe.data, split, history_items=config.history_items, k=K)
        made = draft.commit(Manifest(key=key))
    return Path(made.path("lists.parquet"))


def main(
    data: Annotated[Path | None, typer.Option(help="A folder as docs/data_format.md says.")] = None,
    tokens: Annotated[float, typer.Option(help="Budget of each variant.")] = 8e6,
    users: Annotated[int, typer.Option(help="Who are asked about, evenly drawn.")] = 5000,
    only: Annotated[str, typer.Option(help="Variants, separated by commas.")] = ",".join(ALL),
    budget_minutes: Annotated[float | None, typer.Option(help="Stop after so long; run again to go on.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A small budget, few users.")] = False,
) -> None:
    if unknown := sorted(set(only.split(",")) - set(ALL)):
        raise ValueError(f"--only {', '.join(unknown)}: there are {', '.join(ALL)}.")
    tokens, users = (3e5, 300) if quick else (tokens, users)
    folder = data or write_movielens(ROOT / "movielens")
    interactions = dataset.read_folder(folder)
    split = dataset.leave_one_out(interactions)
    asked_C = np.unique(np.linspace(0, split.case_user_C.size - 1, users).astype(int))
    asked = dataset.validation_of(split)
    asked = replace(asked, case_user_C=asked.case_user_C[asked_C], case_place_C=asked.case_place_C[asked_C])
    root = ROOT / f"{folder.name}-{digest(interactions.digest)}"
    shape = CONFIG.history_items, CONFIG.window_items, CONFIG.validation_users
    write_training_set(root / "training_set", interactions, split, *shape)
    made, seen = [], {}
    try:
        with budget(budget_minutes):
            for variant in only.split(","):
                recipe = Recipe(root, interactions, split.name, method_of(variant))
                config = (VARIANTS | OF_TTDS | OF_RSLLM)[variant]
                config = quicker(config) if quick else config
                if variant in VARIANTS:
                    config, seen[variant] = budgeted(config, recipe, tokens)
                made.append(lists_of(variant, config, recipe, asked))
    except BudgetError:
        console.print(f"The {budget_minutes:g} minutes are over. Run again to go on.")
        if not made:
            return
    columns = ["method", "masked", "user_id", "key", "rank"]
    found = evaluate_lists(pa.concat_tables(pq.read_table(file, columns=columns) for file in made), only.split(",")[0])
    table = Table(title=f"{folder.name}, {asked_C.size:,} users, the interaction before the last", title_justify="left")
    for name in ("tasks", "tokens", *(f"{metric}, {each}" for each in PROTOCOLS.values() for metric in SHOWN)):
        table.add_column(name)
    for variant, row in found["methods"].items():
        cells = (row[protocol][metric] for protocol in PROTOCOLS.values() for metric in SHOWN)
        shown = (f"{cell['mean']:.4f} ({cell['low']:.4f}-{cell['high']:.4f})" for cell in cells)
        table.add_row(variant, f"{seen[variant]:,.0f}" if variant in seen else "", *shown)
    console.print(table)
    figures = [
        Figure(f"ablation.{folder.name}.{variant}_ndcg10", row["masked"]["NDCG@10"]["mean"])
        for variant, row in found["methods"].items()
    ]
    publish(f"ablation-{folder.name}", f"{folder.name}, {asked_C.size:,} users, {tokens:,.0f} tokens", figures)


if __name__ == "__main__":
    step.run(main)
