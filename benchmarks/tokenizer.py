"""What codes keep of behaviour and meaning, how they treat new items, and how they scale.

python -m benchmarks.tokenizer [--data DIR] [--scale-items N] [--quick]

DIR: see docs/data_format.md; without it, the sample's MovieLens. Neighbour preservation counts on a fifth of the users,
whom the encoder never saw. The scale part quantises synthetic vectors, beside faiss's own residual quantizer.

Figures, of the row "aligned" where nothing else is said: collisions (all rows; items that share a code after the
repair), codes_used_share (of the level that uses fewest), perplexity_share (over codes a level), neighbours_vs_text
(u,v; aligned over text only), append_share (row "both"; new items' neighbours by appended codes over those by a full
training; _first: same u), codes_moved (published codes that an append touched), same_codes_permuted (items in another
order).
"""

from __future__ import annotations

import dataclasses
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import faiss
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure, publish
from benchmarks.movielens import write_movielens
from benchmarks.quality_rows import CONFIG
from benchmarks.recipe import text_vectors
from jobs.common import step
from model.behaviour.train import train_behaviour
from model.config import ModelConfig, TokenizerConfig
from model.data.files import load_tensors
from model.evaluation.dataset import Interactions, Split, read_folder
from model.evaluation.lists import write_training_set
from model.generation import digest
from model.tokenizer.codebook import Codebook
from model.tokenizer.health import health
from model.tokenizer.neighbours import DEPTHS, preservation, together
from model.tokenizer.quantizer import Ints

ROOT = Path("build/tokenizer")
NEW_ITEMS_SHARE = 0.1
APPEND_DRAWS = {"both": 20, "aligned": 2}
"""Of new items. Held-out pairs of one draw that share two codes are few, so the cheap tokenizer is asked about them."""
FAISS_ROWS = 1 << 16
"""faiss trains on so many vectors, as each of our k-means does, and encodes so many at a time."""
HELD_OUT_USERS = 5
"""Every fifth user is held out from the encoder's training."""
ROWS = {
    "text only": TokenizerConfig(text_weight=1.0),
    "behaviour only": TokenizerConfig(text_weight=0.0),
    "both": TokenizerConfig(text_weight=0.5),
    "aligned": TokenizerConfig(kind="autoencoder", text_weight=0.0),
}
GOALS = {
    "collisions": "<=0",
    "codes_used_share": ">=0.95",
    "perplexity_share_first": ">=0.6",
    "perplexity_share_others": ">=0.8",
    "neighbours_vs_text": ">=1.3",
    "codes_moved": "<=0",
    "append_share": ">=0.9",
    "append_share_first": ">=0.9",
    "append_share_aligned_first": ">=0.9",
    "same_codes_permuted": ">=1",
}

Encoder = Literal["sasrec", "dccf"]

console = Console(highlight=False, width=160)

NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class Items:
    """What the tokenizer reads of a data folder's items, and the pairs it is judged by."""

    ids: list[str]
    text_NE: np.ndarray
    behaviour_ND: np.ndarray
    seen_N: np.ndarray
    item_P: Ints
    near_P: Ints

    def vectors(self, rows: Any, *, without_behaviour: Ints = NONE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        seen_N = self.seen_N.copy()
        seen_N[without_behaviour] = False
        return self.text_NE[rows], self.behaviour_ND[rows], seen_N[rows]


def held_out(data: Interactions) -> tuple[Split, Ints, Ints]:
    """A split that learns from all of most users and nothing of the others; user and item of the others' events."""
    user_U = np.arange(len(data.user_ids))
    out_U = user_U % HELD_OUT_USERS == 0
    split = Split("held out users", np.where(out_U, 0, data.length_U), user_U[:0], user_U[:0])
    user_E = np.repeat(user_U, data.length_U)
    return split, user_E[out_U[user_E]], data.item_E[out_U[user_E]]


def prepare(folder: Path, encoder: ModelConfig) -> Items:
    """Vectors of the folder's items; those made before from the same data and settings are read."""
    data = read_folder(folder)
    root = ROOT / f"{folder.name}-{digest([data.digest, asdict(encoder.behaviour)])}"
    split, user_E, item_E = held_out(data)
    if not (root / "vectors.safetensors").exists():
        write_training_set(root / "training_set", data, split, encoder.history_items, encoder.window_items, 0)
        inputs = {"training_set": str(root / "training_set")}
        train_behaviour({"config": asdict(encoder), "inputs": inputs, "output": str(root)})
    behaviour = load_tensors(f"{root}/vectors.safetensors")
    text_NE = load_tensors(text_vectors(data.titles))["vectors"]
    pairs = together(user_E, item_E, len(data.item_ids))
    return Items(data.item_ids, text_NE, behaviour["vectors"], behaviour["count"] > 0, *pairs)


def judge(items: Items, config: TokenizerConfig) -> dict[str, Any]:
    started = time.perf_counter()
    vectors = items.vectors(slice(None))
    codebook = Codebook.train(config, items.ids, *vectors)
    x_NP = codebook.inputs(*vectors)
    codes_NL = codebook.assign(items.ids, x_NP, np.empty((0, config.levels), np.int64))
    seconds = time.perf_counter() - started
    kept = preservation(codes_NL, items.item_P, items.near_P)
    return health(codebook, x_NP, codes_NL) | {"neighbours": kept, "seconds": seconds, "codes": codes_NL}


def append(items: Items, config: TokenizerConfig, draws: int) -> tuple[int, list[float]]:
    """Published codes that name another item, too, after new ones came; and for each depth the new items' neighbour
    preservation over that of a full training that has these items' text as well; means over draws of new items.
    """
    moved, ratios_SD = 0, np.zeros((2, len(DEPTHS)))
    for seed in range(draws):
        new_N = np.random.default_rng(seed).random(len(items.ids)) < NEW_ITEMS_SHARE
        appended_NL, retrained_NL = _appended(items, config, new_N), _retrained(items, config, new_N)
        of_new_P = new_N[items.item_P]
        pairs = items.item_P[of_new_P], items.near_P[of_new_P]
        ratios_SD += [[one["ratio"] for one in preservation(each, *pairs)] for each in (appended_NL, retrained_NL)]
        _, code_N, items_of = np.unique(appended_NL, axis=0, return_inverse=True, return_counts=True)
        moved += int((items_of[code_N.ravel()[~new_N]] > 1).sum())
    return moved, list(ratios_SD[0] / ratios_SD[1])


def _appended(items: Items, config: TokenizerConfig, new_N: np.ndarray) -> Ints:
    """Codes [N,L]: those of a codebook that knows nothing of the new items, and theirs, appended."""
    ids = np.array(items.ids)
    codebook = Codebook.train(config, ids[~new_N].tolist(), *items.vectors(~new_N))
    inputs = codebook.inputs(*items.vectors(~new_N))
    codes_NL = np.empty((len(ids), config.levels), np.int64)
    codes_NL[~new_N] = codebook.assign(ids[~new_N].tolist(), inputs, np.empty((0, config.levels), np.int64))
    codes_NL[new_N] = codebook.append(ids[new_N].tolist(), items.text_NE[new_N], codes_NL[~new_N])
    return codes_NL


def _retrained(items: Items, config: TokenizerConfig, new_N: np.ndarray) -> Ints:
    vectors = items.vectors(slice(None), without_behaviour=np.flatnonzero(new_N))
    codebook = Codebook.train(config, items.ids, *vectors)
    return codebook.assign(items.ids, codebook.inputs(*vectors), np.empty((0, config.levels), np.int64))


def scale(items: int, dim: int = 384) -> tuple[dict[str, float], float]:
    """Seconds of training, encoding and repair of synthetic vectors, and of faiss's residual quantizer on the same; and
    the greatest memory (GiB) until ours was done.
    """
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(1000, 24)).astype(np.float32)
    latent = centres[rng.integers(0, 1000, items)] + 0.5 * rng.normal(size=(items, 24)).astype(np.float32)
    text_NE = latent @ rng.normal(size=(24, dim)).astype(np.float32)
    ids = [f"{i:08d}" for i in range(items)]
    nothing_ND, nobody_N = np.zeros((items, 1), np.float32), np.zeros(items, bool)
    config = TokenizerConfig(text_weight=1.0)
    times = [time.perf_counter()]
    codebook = Codebook.train(config, ids, text_NE, nothing_ND, nobody_N)
    times.append(time.perf_counter())
    x_NP = codebook.inputs(text_NE, nothing_ND, nobody_N)
    times.append(time.perf_counter())
    codes_NL = codebook.assign(ids, x_NP, np.empty((0, config.levels), np.int64))
    times.append(time.perf_counter())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    quantizer = faiss.ResidualQuantizer(dim, config.levels, 8)
    quantizer.train(text_NE[rng.permutation(items)[:FAISS_ROWS]])
    for low in range(0, items, FAISS_ROWS):  # all at once, its beams would not fit the memory
        quantizer.compute_codes(text_NE[low : low + FAISS_ROWS])
    times.append(time.perf_counter())
    train, reduce, repair, theirs = np.diff(times)
    assert len(np.unique(codes_NL, axis=0)) == items
    return {
        "train": train,
        "reduce": reduce,
        "encode and repair": repair,
        "ours": train + reduce + repair,
        "faiss": theirs,
    }, peak


def permuted(items: Items, config: TokenizerConfig, codes_NL: Ints) -> float:
    """The share of items that have the same code when the items come in another order."""
    order = np.random.default_rng(1).permutation(len(items.ids))
    place = np.argsort(order)
    shuffled = Items(
        [items.ids[i] for i in order], *items.vectors(order), item_P=place[items.item_P], near_P=place[items.near_P]
    )
    return float((judge(shuffled, config)["codes"] == codes_NL[order]).all(1).mean())


def main(
    data: Annotated[Path | None, typer.Option(help="A folder as docs/data_format.md says.")] = None,
    encoder: Annotated[Encoder, typer.Option(help="Where behaviour comes from.")] = "sasrec",
    epochs: Annotated[int, typer.Option(help="Of the encoder.")] = 20,
    scale_items: Annotated[int, typer.Option(help="Synthetic items; 0 leaves the scale part out.")] = 1_000_000,
    quick: Annotated[bool, typer.Option("--quick", help="Few epochs, 50,000 synthetic items.")] = False,
) -> None:
    folder = data or write_movielens(ROOT / "movielens")
    behaviour = dataclasses.replace(CONFIG.behaviour, kind=encoder, epochs=5 if quick else epochs)
    items = prepare(folder, dataclasses.replace(CONFIG, behaviour=behaviour))
    found = {name: judge(items, config) for name, config in ROWS.items()}
    show(found)
    aligned, text = (found[name]["neighbours"][1]["ratio"] for name in ("aligned", "text only"))
    appended = {name: append(items, ROWS[name], draws) for name, draws in APPEND_DRAWS.items()}
    first, *rest = (level["perplexity"] / ROWS["aligned"].codes_per_level for level in found["aligned"]["levels"])
    used = min(level["codes_used"] for level in found["aligned"]["levels"]) / ROWS["aligned"].codes_per_level
    values = {
        "collisions": float(sum(row["collisions_after"] for row in found.values())),
        "codes_used_share": used,
        "perplexity_share_first": first,
        "perplexity_share_others": min(rest),
        "neighbours_vs_text": aligned / text,
        "codes_moved": float(sum(moved for moved, _ in appended.values())),
        "append_share_first": appended["both"][1][0],
        "append_share": appended["both"][1][1],
        "append_share_aligned_first": appended["aligned"][1][0],
        "same_codes_permuted": permuted(items, ROWS["aligned"], found["aligned"]["codes"]),
    }
    figures = [
        Figure(f"tokenizer.{name}", value, GOALS.get(name, "") if data else "") for name, value in values.items()
    ]
    if scale_items:
        figures += scale_figures(50_000 if quick else scale_items, "" if quick else "<=1.5")
    publish(f"tokenizer-{folder.name}", f"{folder.name}, {len(items.ids):,} items, behaviour from {encoder}", figures)


def scale_figures(items: int, goal: str) -> list[Figure]:
    times, peak = scale(items)
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in times.items())
    console.print(f"{items:,} synthetic items, {items / times['ours']:,.0f} items/s: {parts}")
    return [
        Figure("tokenizer.time_vs_faiss", times["ours"] / times["faiss"], goal),
        Figure("tokenizer.peak_gib", peak),
    ]


def show(found: dict[str, dict[str, Any]]) -> None:
    table = Table(
        title="Neighbour preservation over chance, on held-out users; error, codes used and perplexity",
        title_justify="left",
        caption="u; u,v: of an item's ten nearest by co-occurrence, the share with the same first (two) codes, over "
        "chance. repair adds: squared error over variance. collide: items that shared a code before the repair. used, "
        "perplexity: of each level. s: seconds",
        caption_justify="left",
    )
    for name in ("codes from", "u", "u,v", "error / variance", "repair adds", "collide", "used", "perplexity", "s"):
        table.add_column(name, justify="left" if name == "codes from" else "right")
    for name, row in found.items():
        u, uv = (one["ratio"] for one in row["neighbours"])
        levels = row["levels"]
        table.add_row(
            name,
            f"{u:.2f}",
            f"{uv:.2f}",
            f"{row['reconstruction_error'] / row['variance']:.3f}",
            f"{row['added_squared_error'] / row['variance']:.4f}",
            f"{row['collisions_before']:,}",
            " ".join(str(level["codes_used"]) for level in levels),
            " ".join(f"{level['perplexity']:.0f}" for level in levels),
            f"{row['seconds']:.0f}",
        )
    console.print(table)


if __name__ == "__main__":
    step.run(main)
