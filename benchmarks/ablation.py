"""What each family of alignment tasks adds to recommendations, at an equal budget of training tokens.

python -m benchmarks.ablation --data DIR [--tokens N] [--users N] [--only VARIANT] [--quick]

DIR: see docs/data_format.md; without it, the sample's MovieLens. Leave-one-out, the whole catalogue ranked, on so many
of the users. A run that is stopped goes on from its last checkpoint when it is started again; a variant that is done is
not run again.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure, publish
from benchmarks.movielens import write_movielens
from benchmarks.quality import CONFIG
from benchmarks.tokenizer import text_vectors
from jobs.common import step
from model.behaviour.train import train_behaviour
from model.config import BackboneConfig, FinetuneConfig, ModelConfig, TaskName
from model.data.files import load_tensors
from model.evaluation import dataset
from model.evaluation.lists import write_lists, write_training_set
from model.evaluation.protocol import PROTOCOLS, evaluate_lists
from model.generation import GenerationStore, Manifest, digest
from model.recommender.inference import SemanticRanker
from model.recommender.tasks import TASKS, Family
from model.recommender.train import finetune, prepare
from model.tokenizer.codebook import Codebook
from model.tokenizer.train import ITEMS_FILE, write_item_codes

ROOT = Path("build/ablation")
SAMPLED_BATCHES = 30
K = 10
SHOWN = ("HR@10", "NDCG@10")
MODEL = dataclasses.replace(
    CONFIG,
    backbone=BackboneConfig(hidden_size=128, layers=2, heads=4, intermediate_size=384),
    finetune=FinetuneConfig(batch_size=64, row_tokens=256, patience=0, checkpoint_steps=200),
)
SHARE = 0.1
"""Examples of each further task per window."""

console = Console(highlight=False, width=160)


def mixture(*families: Family, negatives: bool = False) -> dict[TaskName, float]:
    further = (task for task in TASKS.values() if task.family in families and (negatives or not task.others))
    return {task.name: SHARE for task in further} | {"next_item": 1.0}


VARIANTS: dict[str, dict[TaskName, float]] = {
    "sequential": {"next_item": 1.0},
    "textual": mixture(Family.TEXTUAL),
    "query": mixture(Family.TEXTUAL, Family.QUERY),
    "negatives": mixture(*Family, negatives=True),
}
"""Each has all that the one before has."""


def inputs_of(folder: Path, data: dataset.Interactions, split: dataset.Split, encoder_epochs: int) -> dict[str, str]:
    """The training set of the split, and codes from the sequential encoder's vectors and the titles'."""
    encoder = dataclasses.replace(CONFIG, behaviour=dataclasses.replace(CONFIG.behaviour, epochs=encoder_epochs))
    root = ROOT / f"{folder.name}-{digest([data.digest, asdict(encoder.behaviour), asdict(MODEL.tokenizer)])}"
    inputs = {name: str(root / name) for name in ("training_set", "behaviour", "codebook")}
    if not (root / "codebook" / ITEMS_FILE).exists():
        write_training_set(
            root / "training_set", data, split, MODEL.history_items, MODEL.window_items, MODEL.validation_users
        )
        train_behaviour({"config": asdict(encoder), "inputs": inputs, "output": inputs["behaviour"]})
        behaviour = load_tensors(f"{inputs['behaviour']}/vectors.safetensors")
        vectors = text_vectors(folder.name, data.titles), behaviour["vectors"], behaviour["count"] > 0
        codebook = Codebook.train(MODEL.tokenizer, data.item_ids, *vectors)
        nobody_ML = np.empty((0, MODEL.tokenizer.levels), np.int64)
        codes_NL = codebook.assign(data.item_ids, codebook.inputs(*vectors), nobody_ML)
        codebook.save(inputs["codebook"])
        write_item_codes(f"{inputs['codebook']}/{ITEMS_FILE}", data.item_ids, data.titles, codes_NL)
    return inputs


def config_of(variant: str, inputs: dict[str, str], tokens: float) -> tuple[ModelConfig, float]:
    """Settings of a variant with the whole epochs that come nearest to the budget, and the tokens of these."""
    config = dataclasses.replace(MODEL, finetune=dataclasses.replace(MODEL.finetune, mixture=VARIANTS[variant]))
    batches = prepare(config, inputs).batches
    sampled = [batch.tokens for batch in islice(batches.read(epoch=0, shard=0, shards=1), SAMPLED_BATCHES)]
    per_epoch = float(np.mean(sampled)) * batches.per_shard(1)
    epochs = max(1, round(tokens / per_epoch))
    recipe = dataclasses.replace(config.finetune, epochs=epochs)
    return dataclasses.replace(config, finetune=recipe), epochs * per_epoch


def lists_of(
    variant: str, config: ModelConfig, inputs: dict[str, str], data: dataset.Interactions, split: dataset.Split
) -> Path:
    """The ranked lists of a variant, trained now unless it was before."""
    store = GenerationStore(str(Path(inputs["codebook"]).parent), variant)
    key = {"settings": digest([asdict(config), split.case_user_C.size])}
    made = store.latest()
    if made is None or made.manifest.key != key:
        draft = store.begin()
        request = {"config": asdict(config), "inputs": inputs, "output": draft.uri}
        checkpoints = f"{store.uri}-checkpoints"
        finetune(request | {"checkpoints": checkpoints})
        ranker = SemanticRanker.load(request | {"inputs": inputs | {"model": draft.uri}})
        lists = Path(draft.path("lists.parquet"))
        write_lists(lists, variant, ranker, data, split, history_items=config.history_items, k=K)
        made = draft.commit(Manifest(key=key))
        shutil.rmtree(checkpoints, ignore_errors=True)
    return Path(made.path("lists.parquet"))


def main(
    data: Annotated[Path | None, typer.Option(help="A folder as docs/data_format.md says.")] = None,
    tokens: Annotated[float, typer.Option(help="Budget of each variant.")] = 8e6,
    users: Annotated[int, typer.Option(help="Who are asked about, evenly drawn.")] = 5000,
    only: Annotated[str, typer.Option(help="Variants, separated by commas.")] = ",".join(VARIANTS),
    quick: Annotated[bool, typer.Option("--quick", help="A small budget, few users.")] = False,
) -> None:
    unknown = sorted(set(only.split(",")) - set(VARIANTS))
    if unknown:
        raise ValueError(f"--only {', '.join(unknown)}: there are {', '.join(VARIANTS)}.")
    tokens, users, encoder_epochs = (3e5, 300, 3) if quick else (tokens, users, CONFIG.behaviour.epochs)
    folder = data or write_movielens(ROOT / "movielens")
    interactions = dataset.read_folder(folder)
    split = dataset.leave_one_out(interactions)
    inputs = inputs_of(folder, interactions, split, encoder_epochs)
    asked_C = np.unique(np.linspace(0, split.case_user_C.size - 1, users).astype(int))
    asked = dataclasses.replace(split, case_user_C=split.case_user_C[asked_C], case_place_C=split.case_place_C[asked_C])
    made, seen = [], {}
    for variant in only.split(","):
        config, seen[variant] = config_of(variant, inputs, tokens)
        made.append(lists_of(variant, config, inputs, interactions, asked))
    columns = ["method", "masked", "user_id", "key", "rank"]
    found = evaluate_lists(pa.concat_tables(pq.read_table(file, columns=columns) for file in made), only.split(",")[0])
    table = Table(title=f"{folder.name}, {asked_C.size:,} users, leave-one-out", title_justify="left")
    for name in ("tasks", "tokens", *(f"{metric}, {each}" for each in PROTOCOLS.values() for metric in SHOWN)):
        table.add_column(name)
    for variant, row in found["methods"].items():
        cells = (row[protocol][metric] for protocol in PROTOCOLS.values() for metric in SHOWN)
        shown = (f"{cell['mean']:.4f} ({cell['low']:.4f}-{cell['high']:.4f})" for cell in cells)
        table.add_row(variant, f"{seen[variant]:,.0f}", *shown)
    console.print(table)
    figures = [
        Figure(f"ablation.{folder.name}.{variant}_ndcg10", row["masked"]["NDCG@10"]["mean"])
        for variant, row in found["methods"].items()
    ]
    publish(f"ablation-{folder.name}", f"{folder.name}, {asked_C.size:,} users, {tokens:,.0f} tokens each", figures)


if __name__ == "__main__":
    step.run(main)
