"""Who recommends best: every method on the same split of the same data, ranking the whole catalogue.

python -m benchmarks.quality --data DIR [--methods item_knn,sasrec] [--seeds N] [--budget-minutes M] [--quick]

DIR: see docs/data_format.md; without it, the sample's MovieLens. Prints one table and writes it as JSON. Each method's
ranked lists stay beside, in build/quality/…, as Parquet: every number can be counted again. A method that is there,
made from the same data and settings, is not run again.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure, publish
from benchmarks.movielens import write_movielens
from jobs.common import step
from model.config import BehaviourConfig, ModelConfig
from model.evaluation import dataset
from model.evaluation.beyond import beyond
from model.evaluation.ease import MOST_ITEMS
from model.evaluation.lists import write_cases, write_lists, write_training_set
from model.evaluation.protocol import PROTOCOLS, evaluate_lists
from model.generation import Generation, GenerationStore, Manifest, digest, sha256
from model.recommender.registry import METHODS

ROOT = Path("build/quality")
FLOORS = ("popularity", "item_knn", "successor", "cooccurrence")
SEEDED = ("sasrec",)
REFERENCE = "cooccurrence"
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
    )
)
GOALS = {"beauty": {"floor": ">=0.0525", "sasrec": ">=0.045"}, "games": {"floor": ">=0.069"}}
"""NDCG@10 on known data, seen items masked. A floor that is missed means that the split is another one."""

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
        key = {"data": self.data.digest, "settings": digest(asdict(run.config)), "split": self.split.name}
        made = store.latest()
        if made is not None and made.manifest.key == key:
            console.print(f"{run.label}: made before")
            return made
        draft = store.begin()
        Path(draft.uri).mkdir(parents=True)
        method = METHODS[run.method]
        inputs = {"training_set": str(self.root / "training_set")}
        started = time.perf_counter()
        config = asdict(run.config)
        method.train({"config": config, "inputs": inputs, "output": draft.uri})
        trained = time.perf_counter()
        ranker = method.load_ranker({"config": config, "inputs": inputs | {method.produces: draft.uri}})
        file = Path(draft.path("lists.parquet"))
        write_lists(file, run.label, ranker, self.data, self.split, history_items=run.config.history_items, k=K)
        ranked = time.perf_counter()
        metrics = {
            "train_seconds": trained - started,
            "users_per_second": len(PROTOCOLS) * self.split.case_user_C.size / (ranked - trained),
        }
        return draft.commit(
            Manifest(key=key, metrics=metrics, settings=config, checksums={"lists.parquet": sha256(str(file))})
        )

    def table(self, made: dict[str, Generation]) -> dict[str, Any]:
        """Everything that is said of the methods, as JSON values."""
        columns = ["method", "masked", "user_id", "key", "rank"]
        ranks = pa.concat_tables(pq.read_table(one.path("lists.parquet"), columns=columns) for one in made.values())
        found = evaluate_lists(ranks, REFERENCE if REFERENCE in made else next(iter(made)))
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
        table.add_row(label, *lists, *(f"{segment['NDCG@10']:.4f}" for segment in row["segments"]))
    return table


def runs_of(methods: list[str], seeds: int, quick: bool) -> list[Run]:
    known = [name for name, method in METHODS.items() if method.requires == ("training_set",)]
    unknown = sorted(set(methods) - set(known))
    if unknown:
        raise typer.BadParameter(f"--methods {', '.join(unknown)}: there are {', '.join(known)}.")
    config = (
        dataclasses.replace(CONFIG, behaviour=dataclasses.replace(CONFIG.behaviour, epochs=10)) if quick else CONFIG
    )
    return [
        Run(method, seed, dataclasses.replace(config, behaviour=dataclasses.replace(config.behaviour, seed=seed)))
        for method in methods
        for seed in range(seeds if method in SEEDED else 1)
    ]


def main(
    data: Annotated[Path | None, typer.Option(help="A folder as docs/data_format.md says.")] = None,
    methods: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join((*FLOORS, "ease", "sasrec")),
    split: Annotated[SplitName, typer.Option(help="What is held out.")] = "leave_one_out",
    seeds: Annotated[int, typer.Option(help="Rows of a method that draws random numbers.")] = 1,
    shuffle_ties: Annotated[int | None, typer.Option(help="Seed: order equal times of a user anew.")] = None,
    budget_minutes: Annotated[float | None, typer.Option(help="Begin no method after so long.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer epochs.")] = False,
) -> None:
    started = time.monotonic()
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
    for run in runs:
        if run.method == "ease" and len(interactions.item_ids) > MOST_ITEMS:
            console.print(
                f"ease: left out, it holds a matrix of items by items, and here are more than {MOST_ITEMS:,}."
            )
            continue
        if made and budget_minutes is not None and time.monotonic() - started > 60 * budget_minutes:
            console.print(f"{run.label}: left out, the {budget_minutes:g} minutes are over. Run again to add it.")
            continue
        made[run.label] = bench.lists(run)
    found = bench.table(made)
    show(found)
    ndcg = {label: row["masked"]["NDCG@10"]["mean"] for label, row in found["methods"].items()}
    best = max((ndcg[floor] for floor in FLOORS if floor in ndcg), default=0.0)
    known = name in GOALS and split == "leave_one_out" and shuffle_ties is None and not quick
    goals = GOALS[name] if known else {}
    figures = [Figure(f"quality.{name}.best_floor_ndcg10", best, goals.get("floor", ""))]
    figures += [
        Figure(f"quality.{name}.{method}_ndcg10", ndcg[method], goals.get(method, ""))
        for method in ("ease", "sasrec")
        if method in ndcg
    ]
    figures.append(Figure(f"quality.{name}.peak_gib", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))
    (bench.root / "table.json").write_text(json.dumps(found, indent=2))
    console.print(f"All figures, segments too: {bench.root / 'table.json'}")
    publish(
        f"quality-{name}",
        f"{name}, {cases.name}, {found['users']:,} users, {len(interactions.item_ids):,} items",
        figures,
    )


if __name__ == "__main__":
    step.run(main)
