"""Who recommends best: every method on the same split of the same data, ranking the whole catalogue.

python -m benchmarks.quality --data DIR [--methods item_knn,sasrec] [--seeds N] [--budget-minutes M] [--choices]

DIR: see docs/data_format.md; without it, the sample's MovieLens. Prints one table and writes it as JSON. Each method's
ranked lists stay beside, in build/quality/…, as Parquet: every number can be counted again. What is there, made from
the same data and settings, is not made again; what the budget cut short goes on in the next run.

semantic_convergence        late fusion: the language model, its teacher (a SASRec that reads texts), counts, words
language_model_alone        its beam search without the fusion
fusion_without_llm          the late fusion without the language model
fusion_of_ids               and without texts: sasrec with the counts of cooccurrence
sasrec_with_text            the teacher alone
ttds                        late fusion with the language model of TTDS; ttds_alone: its beam search without the fusion
rsllm                       late fusion with the one of RSLLM; rsllm_alone: its matrix product without the fusion
fusion_of_all               late fusion with the language models of all three methods
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from benchmarks.budget import BudgetError, budget, device
from benchmarks.choices import draw, pick, table_of
from benchmarks.figures import Figure, publish
from benchmarks.movielens import write_movielens
from benchmarks.quality_rows import ALL, CONFIG, OURS, WITH_LLM, WITHOUT_LLM, Run, runs_of
from benchmarks.quality_table import GOALS, console, figures_of, show
from benchmarks.recipe import Recipe
from jobs.common import step
from model.evaluation import dataset
from model.evaluation.beyond import beyond
from model.evaluation.ease import MOST_ITEMS
from model.evaluation.lists import write_cases, write_lists, write_training_set
from model.evaluation.protocol import PROTOCOLS, evaluate_lists
from model.generation import MANIFEST, Generation, GenerationStore, Manifest, digest, sha256
from model.recommender.methods.base import Ranker
from model.recommender.registry import METHODS

ROOT = Path("build/quality")
K = 20
SplitName = Literal["leave_one_out", "temporal"]


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
        recipe = Recipe(self.root, self.data, self.split.name, run.recipe, run.further)
        settings = run.settings(recipe)
        key = {"data": self.data.digest, "settings": digest(settings), "split": self.split.name}
        made = store.latest()
        if made is not None and made.manifest.key == key:
            console.print(f"{run.label}: made before")
            return made
        ranker, seconds, devices = self._trained(run, recipe)
        draft = store.begin()
        Path(draft.uri).mkdir(parents=True)
        file = Path(draft.path("lists.parquet"))
        started = time.perf_counter()
        write_lists(file, run.label, ranker, self.data, self.split, history_items=run.config.history_items, k=K)
        ranked = time.perf_counter() - started
        metrics = {
            "train_seconds": seconds,
            "users_per_second": len(PROTOCOLS) * self.split.case_user_C.size / ranked,
            "device": ", ".join(sorted({*devices, device()})),
        }
        checksums = {"lists.parquet": sha256(str(file))}
        return draft.commit(Manifest(key=key, metrics=metrics, settings=settings, checksums=checksums))

    def _trained(self, run: Run, recipe: Recipe) -> tuple[Ranker, float, list[str]]:
        """A method's ranker, the seconds that its training took, and the devices that it ran on."""
        if run.is_teacher:
            return recipe.teacher(run.config), *recipe.cost(run.config, "behaviour")
        if run.method in OURS:
            return recipe.ranker(run.config), *recipe.cost(run.config)
        method, output = METHODS[run.method], str(self.root / run.method)
        inputs = {"training_set": str(self.root / "training_set")}
        started = time.perf_counter()
        method.train({"config": asdict(run.config), "inputs": inputs, "output": output})
        seconds = time.perf_counter() - started
        return method.load_ranker({"config": asdict(run.config), "inputs": {method.produces: output}}), seconds, []

    def choices(self, quick: bool) -> None:
        """Print the table of the protocol that picks 1 of 20."""
        cases = draw(self.data, self.split, CONFIG.history_items)
        recipe = Recipe(self.root, self.data, self.split.name, "rsllm")
        table, figures = table_of(pick(recipe, cases, quick), cases.place_B, goal=not quick)
        console.print(table)
        publish("quality-choices", f"{len(cases.place_B):,} cases, {len(self.data.item_ids):,} items", figures)

    def table(self, made: dict[str, Generation]) -> dict[str, Any]:
        """Everything that is said of the methods, as JSON values."""
        columns = ["method", "masked", "user_id", "key", "rank"]
        ranks = pa.concat_tables(pq.read_table(one.path("lists.parquet"), columns=columns) for one in made.values())
        validated = self._validated(made)
        # Of no row with a language model, what is compared is the first.
        choices = [row for row in WITH_LLM if row in validated]
        chosen = max(choices, key=validated.__getitem__, default=next(iter(made)))
        found = evaluate_lists(ranks, chosen)
        found["validation_ndcg10"] = validated
        found["with_llm"] = {
            row: evaluate_lists(ranks.filter(pc.is_in(ranks["method"], pa.array([row, WITHOUT_LLM]))), row)["against"]
            for row in WITH_LLM
            if {row, WITHOUT_LLM} <= set(made)
        }
        cases = pq.read_table(self.root / "cases.parquet")
        ids = pa.array(self.data.item_ids)
        count_N = np.bincount(self.data.item_E[dataset.fit_mask(self.data, self.split)], minlength=len(ids))
        found["beyond"] = {label: beyond(_masked_lists(one), cases, ids, count_N) for label, one in made.items()}
        found["cost"] = {label: one.manifest.metrics for label, one in made.items()}
        return found

    def _validated(self, made: dict[str, Generation]) -> dict[str, float]:
        """NDCG@10 on the validation cases, of each row that is a late fusion; a temporal split sets none aside."""
        if self.split.name != "leave_one_out":
            return {}
        inputs = {label: one.manifest.settings.get("inputs", {}) for label, one in made.items()}
        files = {label: Path(each["fusion"], MANIFEST) for label, each in inputs.items() if "fusion" in each}
        fits = {label: Manifest.from_json(file.read_bytes()) for label, file in files.items()}
        return {label: fit.metrics["validation_ndcg10"]["fused"] for label, fit in fits.items()}


def _masked_lists(generation: Generation) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(generation.path("lists.parquet")) as file:
        for batch in file.iter_batches(columns=["masked", "key", "rank", "item_ids"]):
            yield batch.filter(batch.column("masked"))


def main(
    data: Annotated[Path | None, typer.Option(help="A folder as docs/data_format.md says.")] = None,
    methods: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join(ALL),
    split: Annotated[SplitName, typer.Option(help="What is held out.")] = "leave_one_out",
    seeds: Annotated[int, typer.Option(help="Rows of a method that draws random numbers.")] = 1,
    shuffle_ties: Annotated[int | None, typer.Option(help="Seed: order equal times of a user anew.")] = None,
    budget_minutes: Annotated[float | None, typer.Option(help="Stop after so long; run again to go on.")] = None,
    choices: Annotated[bool, typer.Option("--choices", help="Instead: pick 1 of 20, as RSLLM's paper does.")] = False,
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
    if choices:
        bench.choices(quick)
        return
    if len(interactions.item_ids) > MOST_ITEMS and any(run.method == "ease" for run in runs):
        console.print(f"ease: left out, it holds a matrix of items by items, of {MOST_ITEMS:,} at most.")
        runs = [run for run in runs if run.method != "ease"]
    made: dict[str, Generation] = {}
    try:
        with budget(budget_minutes):
            for run in runs:
                made[run.label] = bench.lists(run)
    except BudgetError:
        left = ", ".join(run.label for run in runs[len(made) :])
        console.print(f"The {budget_minutes:g} minutes are over. Run again to go on with {left}.")
        if not made:
            return
    kinds = {"temporal": split == "temporal", "shuffled": shuffle_ties is not None}
    say("-".join([name, *(kind for kind, there in kinds.items() if there)]), bench, made, quick)


def say(name: str, bench: Bench, made: dict[str, Generation], quick: bool) -> None:
    """Print the table and the figures, and keep both. `name`: of the data, and what sets the run apart."""
    found = bench.table(made)
    show(found)
    (bench.root / "table.json").write_text(json.dumps(found, indent=2))
    console.print(f"All figures, segments too: {bench.root / 'table.json'}")
    figures = figures_of(name, found, {} if quick else GOALS.get(name, {}))
    figures.append(Figure(f"quality.{name}.peak_gib", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))
    counts = f"{len(bench.data.item_ids):,} items, {len(bench.data.item_E):,} interactions"
    size = f"{name}, {bench.split.name}, {found['users']:,} users, {counts}"
    publish(f"quality-{name}", size, figures)


if __name__ == "__main__":
    step.run(main)
