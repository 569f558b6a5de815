"""Seconds of an epoch of SASRec: our trainer, readers included, beside a plain full-softmax loop of the same model.

python -m benchmarks.behaviour [--data DIR] [--quick]

The plain loop holds all windows in memory as one array and pads every batch to the window, as most code does; both
predict every target against the whole catalogue, with the same batches in size, optimizer and threads.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow.parquet as pq
import torch
import typer
from torch.nn import functional as F

from benchmarks.figures import Figure, interleaved_seconds, publish
from benchmarks.movielens import write_movielens
from benchmarks.quality_rows import CONFIG
from model.behaviour.sasrec import PAD, SasRec
from model.behaviour.train import train_behaviour
from model.evaluation.dataset import leave_one_out, read_folder
from model.evaluation.lists import write_training_set

ROOT = Path("build/behaviour")


def plain_epoch(folder: Path, items: int, seed: int) -> None:
    config = CONFIG.behaviour
    rows = pq.read_table(folder / "sequences")
    items_RT, targets_RT = (
        torch.from_numpy(np.stack(rows[name].to_numpy()).astype(np.int64)) for name in ("items", "targets")
    )
    torch.manual_seed(seed)
    model = SasRec(items, CONFIG.window_items, config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    for rows_B in torch.randperm(len(items_RT)).split(config.batch_size):
        items_BT, targets_BT = items_RT[rows_B], targets_RT[rows_B]
        wanted_BT = (targets_BT[:, 1:] == 1) & (items_BT[:, 1:] != PAD)
        states_QD = model.encode(items_BT[:, :-1])[wanted_BT]
        loss = F.cross_entropy(states_QD @ model.item_embedding.weight.T, items_BT[:, 1:][wanted_BT])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()


def our_epoch(folder: Path) -> None:
    config = dataclasses.replace(CONFIG, behaviour=dataclasses.replace(CONFIG.behaviour, epochs=1))
    with contextlib.redirect_stdout(io.StringIO()):  # its progress
        train_behaviour(
            {"config": asdict(config), "inputs": {"training_set": str(folder)}, "output": str(folder / "behaviour")}
        )


def main(
    data: Annotated[Path | None, typer.Option(help="A folder as docs/data_format.md says.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One round.")] = False,
) -> None:
    folder = data or write_movielens(ROOT / "movielens")
    interactions = read_folder(folder)
    training_set = ROOT / f"{folder.name}-training_set"
    write_training_set(
        training_set, interactions, leave_one_out(interactions), CONFIG.history_items, CONFIG.window_items, 0
    )
    items = len(interactions.item_ids)
    plain, ours = interleaved_seconds(
        1 if quick else 3, lambda: plain_epoch(training_set, items, 0), lambda: our_epoch(training_set)
    )
    print(f"an epoch: plain {plain:.1f} s, ours {ours:.1f} s")
    size = f"{folder.name}, {items:,} items, windows of {CONFIG.window_items}, {torch.get_num_threads()} threads"
    publish("behaviour", size, [Figure(f"behaviour.{folder.name}.epoch_speedup", plain / ours)])


if __name__ == "__main__":
    typer.run(main)
