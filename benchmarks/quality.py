"""Who recommends best: every method on the same split of the same data, ranking the whole catalogue.

python -m benchmarks.quality --data DIR [--methods item_knn,sasrec] [--seeds N] [--budget-minutes M] [--quick]

DIR: see docs/data_format.md; without it, the sample's MovieLens. Prints one table and writes it as JSON. Each method's
ranked lists stay beside, in build/quality/…, as Parquet: every number can be counted again. What is there, made from
the same data and settings, is not made again; what the budget cut short goes on in the next run.

semantic_convergence        late fusion: the language model, its teacher (a SASRec that reads texts), counts, words
language_model_alone        its beam search without the fusion
fusion_without_llm          the late fusion without the language model
fusion_of_ids               and without texts: sasrec with the counts of cooccurrence
sasrec_with_text            the teacher alone
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure, publish
from benchmarks.movielens import write_movielens
from benchmarks.recipe import Recipe
from jobs.common import step
from model.config import BackboneConfig, BehaviourConfig, FinetuneConfig, FusionConfig, ModelConfig
from model.evaluation import dataset
from model.evaluation.beyond import beyond
from model.evaluation.ease import MOST_ITEMS
from model.evaluation.lists import write_cases, write_lists, write_training_set
from model.evaluation.protocol import PROTOCOLS, evaluate_lists
from model.generation import Generation, GenerationStore, Manifest, digest, sha256
from model.recommender.methods.base import Ranker
from model.recommender.registry import METHODS

ROOT = Path("build/quality")
FLOORS = ("popularity", "item_knn", "successor", "cooccurrence")
SEEDED = ("sasrec",)
MAIN = "semantic_convergence"
"""What the paired test compares every other method with."""
K = 20
COLUMNS = ("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10", "MRR@10")
WITH_INTERVAL = ("HR@10", "NDCG@10")

CONFIG = ModelConfig(
    behaviour=BehaviourConfig(
        dim=64,
        layers=2,
        heads=2,
        dropout=0.5,
        epochs=30,
        batch_size=256,
        learning_rate=3e-3,
        schedule="cosine",
        weight_decay=0.0,
        max_grad_norm=1.0,
        text_dim=0,
    ),
    backbone=BackboneConfig(hidden_size=128, layers=2, heads=4, intermediate_size=384, dropout=0.05),
    finetune=FinetuneConfig(epochs=10, batch_size=64, row_tokens=256, mixture={"next_item": 1.0}, patience=0),
    validation_users=2000,
)
TEXTS_READ = replace(CONFIG, behaviour=replace(CONFIG.behaviour, text_dim=128))
QUICK_EPOCHS = {"behaviour": 10, "finetune": 2}


def _fused(*without: str) -> FusionConfig:
    config = FusionConfig()
    return replace(config, signals=[name for name in config.signals if name not in without])


OURS: dict[str, ModelConfig] = {
    "sasrec_with_text": TEXTS_READ,
    "fusion_of_ids": replace(CONFIG, fusion=_fused("language_model", "words")),
    "fusion_without_llm": replace(TEXTS_READ, fusion=_fused("language_model")),
    "language_model_alone": replace(TEXTS_READ, fusion=FusionConfig(signals=[])),
    MAIN: TEXTS_READ,
}
"""Rows of the recipe by its settings; the first is the ranking of its teacher."""
BASELINES = (*FLOORS, "ease", "sasrec")
ALL = (*BASELINES, *OURS)
GOALS = {"beauty": {"floor": ">=0.0525", "sasrec": ">=0.045"}, "games": {"floor": ">=0.069"}}
"""NDCG@10 on known data, seen items masked. A floor that is missed means that the split is another one."""
RATIO_GOAL = ">=1.2"
"""NDCG@10 over the best baseline's."""

SplitName = Literal["leave_one_out", "temporal"]

console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)


@dataclass(frozen=True)
class Run:
    """One row of the table: a method and its seed, on one split."""

    method: str
    seed: int
    config: ModelConfig

    @property
    def label(self) -> str:
        return f"{self.method} (seed {self.seed})" if self.seed else self.method

    @property
    def settings(self) -> dict[str, Any]:
        """What the method reads of the settings."""
        settings = asdict(self.config)
        if self.method in OURS and self.method != "sasrec_with_text":
            return settings
        names = ["history_items", "window_items", *(["behaviour"] if self.method.startswith("sasrec") else [])]
        return {name: settings[name] for name in names}


class Bench:
    """A split of a data folder, with everything that was made from it."""

    def __init__(self, data: dataset.Interactions, split: dataset.Split, root: Path) -> None:
        self.data, self.split, self.root = data, split, root
        root.mkdir(parents=True, exist_ok=True)
        shape = CONFIG.history_items, CONFIG.window_items, CONFIG.validation_users
        write_training_set(root / "training_set", data, split, *shape)
        write_cases(root / "cases.parquet", data, split)

    def lists(self, run: Run) -> Generation:
        """The ranked lists of a method, made now unless they are there."""
        store = GenerationStore(str(self.root), f"{run.method}-{run.seed}")
        key = {"data": self.data.digest, "settings": digest(run.settings), "split": self.split.name}
        made = store.latest()
        if made is not None and made.manifest.key == key:
            console.print(f"{run.label}: made before")
            return made
        ranker, seconds = self._trained(run)
        draft = store.begin()
        Path(draft.uri).mkdir(parents=True)
        file = Path(draft.path("lists.parquet"))
        started = time.perf_counter()
        write_lists(file, run.label, ranker, self.data, self.split, history_items=run.config.history_items, k=K)
        ranked = time.perf_counter() - started
        metrics = {
            "train_seconds": seconds,
            "users_per_second": len(PROTOCOLS) * self.split.case_user_C.size / ranked,
            "device": device(),
        }
        checksums = {"lists.parquet": sha256(str(file))}
        return draft.commit(Manifest(key=key, metrics=metrics, settings=run.settings, checksums=checksums))

    def _trained(self, run: Run) -> tuple[Ranker, float]:
        """A method's ranker, and the seconds that its training took."""
        recipe = Recipe(self.root, self.data, self.split.name)
        if run.method in ("sasrec", "sasrec_with_text"):
            return recipe.teacher(run.config), recipe.seconds(run.config, "behaviour")
        if run.method in OURS:
            return recipe.ranker(run.config), recipe.seconds(run.config)
        method, output = METHODS[run.method], str(self.root / run.method)
        inputs = {"training_set": str(self.root / "training_set")}
        started = time.perf_counter()
        method.train({"config": asdict(run.config), "inputs": inputs, "output": output})
        seconds = time.perf_counter() - started
        return method.load_ranker({"config": asdict(run.config), "inputs": {method.produces: output}}), seconds

    def table(self, made: dict[str, Generation]) -> dict[str, Any]:
        """Everything that is said of the methods, as JSON values."""
        columns = ["method", "masked", "user_id", "key", "rank"]
        ranks = pa.concat_tables(pq.read_table(one.path("lists.parquet"), columns=columns) for one in made.values())
        found = evaluate_lists(ranks, MAIN if MAIN in made else next(iter(made)))
        cases = pq.read_table(self.root / "cases.parquet")
        ids = pa.array(self.data.item_ids)
        count_N = np.bincount(self.data.item_E[dataset.fit_mask(self.data, self.split)], minlength=len(ids))
        found["beyond"] = {label: beyond(_masked_lists(one), cases, ids, count_N) for label, one in made.items()}
        found["cost"] = {label: one.manifest.metrics for label, one in made.items()}
        return found


def _masked_lists(generation: Generation) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(generation.path("lists.parquet")) as file:
        for batch in file.iter_batches(columns=["masked", "key", "rank", "item_ids"]):
            yield batch.filter(batch.column("masked"))


def show(found: dict[str, Any]) -> None:
    table = Table(title=f"{found['users']:,} users, {found['cases']:,} cases", title_justify="left")
    for name in ("method", "", *COLUMNS, "train s", "users/s"):
        table.add_column(name, justify="left" if name in ("method", "") else "right")
    for label, row in found["methods"].items():
        cost = found["cost"][label]
        for protocol in PROTOCOLS.values():
            values = (row[protocol][name] for name in COLUMNS)
            cells = [
                f"{one['mean']:.4f} ({one['low']:.4f}-{one['high']:.4f})"
                if name in WITH_INTERVAL
                else f"{one['mean']:.4f}"
                for name, one in zip(COLUMNS, values, strict=True)
            ]
            table.add_row(label, protocol, *cells, f"{cost['train_seconds']:.0f}", f"{cost['users_per_second']:,.0f}")
    console.print(table)
    console.print(_beyond_table(found["beyond"]))
    for other, protocols in found["against"].items():
        one = protocols["masked"]["NDCG@10"]
        verdict = f"{one['mean']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f}), p = {one['p_value']:.3f}"
        console.print(f"NDCG@10, masked, {found['reference']} - {other}: {verdict}")


def _beyond_table(found: dict[str, Any]) -> Table:
    one = next(iter(found.values()))
    names = [segment["segment"] for segment in one["segments"]]
    table = Table(title="First ten, seen items masked; NDCG@10 by segment", title_justify="left")
    for name in ("method", *one["lists"], *names):
        table.add_column(name, justify="left" if name == "method" else "right")
    table.add_row("cases", *("" for _ in one["lists"]), *(f"{segment['cases']:,}" for segment in one["segments"]))
    for label, row in found.items():
        lists = (f"{value:.3f}" for value in row["lists"].values())
        table.add_row(label, *lists, *(f"{segment['NDCG@10']['mean']:.4f}" for segment in row["segments"]))
    return table


def runs_of(methods: list[str], seeds: int, quick: bool) -> list[Run]:
    unknown = sorted(set(methods) - set(ALL))
    if unknown:
        raise typer.BadParameter(f"--methods {', '.join(unknown)}: there are {', '.join(ALL)}.")
    return [
        Run(method, seed, _quicker(_seeded(OURS.get(method, CONFIG), seed), quick))
        for method in methods
        for seed in range(seeds if method in SEEDED else 1)
    ]


def _seeded(config: ModelConfig, seed: int) -> ModelConfig:
    return replace(config, behaviour=replace(config.behaviour, seed=seed))


def _quicker(config: ModelConfig, quick: bool) -> ModelConfig:
    if not quick:
        return config
    behaviour = replace(config.behaviour, epochs=QUICK_EPOCHS["behaviour"])
    return replace(config, behaviour=behaviour, finetune=replace(config.finetune, epochs=QUICK_EPOCHS["finetune"]))


class BudgetError(Exception):
    """Raised where the run happens to be; what was made is there, and trainings have their checkpoints."""


@contextmanager
def budget(minutes: float | None) -> Iterator[None]:
    def over(*_: object) -> None:
        raise BudgetError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, 60 * (minutes or 0))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"


def main(
    data: Annotated[Path | None, typer.Option(help="A folder as docs/data_format.md says.")] = None,
    methods: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join(ALL),
    split: Annotated[SplitName, typer.Option(help="What is held out.")] = "leave_one_out",
    seeds: Annotated[int, typer.Option(help="Rows of a method that draws random numbers.")] = 1,
    shuffle_ties: Annotated[int | None, typer.Option(help="Seed: order equal times of a user anew.")] = None,
    budget_minutes: Annotated[float | None, typer.Option(help="Stop after so long; run again to go on.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer epochs.")] = False,
) -> None:
    runs = runs_of(methods.split(","), seeds, quick)
    folder = data or write_movielens(ROOT / "movielens")
    interactions = dataset.read_folder(folder)
    if shuffle_ties is not None:
        interactions = dataset.shuffle_ties(interactions, shuffle_ties)
    cases = {"leave_one_out": dataset.leave_one_out, "temporal": dataset.temporal}[split](interactions)
    if cases.dropped_users:
        console.print(f"{cases.dropped_users:,} users are left out: some of their times are unknown.")
    if not cases.case_user_C.size:
        raise ValueError(f"{folder} has no case for {split}: users with too few interactions, or no known times.")
    name = folder.name
    bench = Bench(interactions, cases, ROOT / f"{name}-{digest(interactions.digest)}" / cases.name)
    made: dict[str, Generation] = {}
    try:
        with budget(budget_minutes):
            for run in runs:
                if run.method == "ease" and len(interactions.item_ids) > MOST_ITEMS:
                    console.print(f"ease: left out, it holds a matrix of items by items, of {MOST_ITEMS:,} at most.")
                    continue
                made[run.label] = bench.lists(run)
    except BudgetError:
        left = ", ".join(run.label for run in runs[len(made) :])
        console.print(f"The {budget_minutes:g} minutes are over. Run again to go on with {left}.")
    found = bench.table(made)
    show(found)
    known = name in GOALS and split == "leave_one_out" and shuffle_ties is None and not quick
    figures = figures_of(name, found, GOALS[name] if known else {})
    figures.append(Figure(f"quality.{name}.peak_gib", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))
    (bench.root / "table.json").write_text(json.dumps(found, indent=2))
    console.print(f"All figures, segments too: {bench.root / 'table.json'}")
    publish(
        f"quality-{name}",
        f"{name}, {cases.name}, {found['users']:,} users, {len(interactions.item_ids):,} items",
        figures,
    )


def figures_of(name: str, found: dict[str, Any], goals: dict[str, str]) -> list[Figure]:
    """NDCG@10, seen items masked: of the best floor, of each method, and ours over the best baseline."""
    ndcg = {label: row["masked"]["NDCG@10"]["mean"] for label, row in found["methods"].items()}
    best_floor = max((ndcg[floor] for floor in FLOORS if floor in ndcg), default=0.0)
    figures = [Figure(f"quality.{name}.best_floor_ndcg10", best_floor, goals.get("floor", ""))]
    figures += [
        Figure(f"quality.{name}.{method}_ndcg10", ndcg[method], goals.get(method, ""))
        for method in ALL
        if method in ndcg and method not in FLOORS
    ]
    if MAIN not in ndcg:
        return figures
    baselines = [method for method in BASELINES if method in ndcg]
    if baselines:
        best = max(baselines, key=ndcg.__getitem__)
        ratio = ndcg[MAIN] / max(ndcg[best], 1e-12)
        figures.append(Figure(f"quality.{name}.ratio", ratio, RATIO_GOAL if goals else ""))
        p_value = found["against"][best]["masked"]["NDCG@10"]["p_value"]
        figures.append(Figure(f"quality.{name}.p_value", p_value, "<0.05" if goals else ""))
    if "fusion_without_llm" in ndcg:
        figures.append(
            Figure(f"quality.{name}.llm_ratio", ndcg[MAIN] / ndcg["fusion_without_llm"], ">1" if goals else "")
        )
    return figures


if __name__ == "__main__":
    step.run(main)
