"""Train the collaborative encoder on the training set's sequences; its item vectors are the tokenizer's input.

    python -m model.behaviour.train REQUEST.json         (or: torchrun … model/behaviour/train.py REQUEST.json)

The request is {"config": ModelConfig as JSON, "inputs": {"training_set": URI, "text_vectors": URI of a file {vectors
[N,E]}, for behaviour.text_dim above 0}, "output": URI of a folder}. Written there: `items.parquet`,
`vectors.safetensors` {vectors [N,D] float32, count [N] int64; of one that reads texts also what gives later
items their vectors: (text - text_mean_E) @ text_map_ED}, `model.safetensors`, `encoder.json`, `metrics.json`.
Run by path, it needs the package on PYTHONPATH or installed.

Shapes: N items, D width, E text dimensions, B sequences, T positions.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from model.behaviour.dccf import Dccf
from model.behaviour.item_texts import TextComponents
from model.behaviour.sasrec import SasRec
from model.config import ModelConfig, model_config
from model.data.files import load_json, load_tensors, save_json, save_table, save_tensors
from model.data.reader import Batch, read_batches, read_items, steps_per_epoch
from model.processes import Processes, joined
from model.progress import Progress
from model.schedule import warmup_cosine

WARMUP_SHARE = 0.05
ENCODER_FILE = "encoder.json"


def train_behaviour(request: dict[str, Any]) -> dict[str, Any]:
    """Train the encoder of behaviour.kind, alone or as one of torchrun's processes, and write its artefact.

    Returns the metrics (no wall time).

    Raises ValueError when the sequences do not fit the settings or the items, hold no target, or the loss is no number.
    """
    with joined() as processes:
        return _train_behaviour(request, processes)


def _train_behaviour(request: dict[str, Any], processes: Processes) -> dict[str, Any]:
    config = model_config(request["config"])
    training_set, output = request["inputs"]["training_set"], request["output"]
    items = read_items(f"{training_set}/items", ["item_id"])
    sequences = f"{training_set}/sequences"
    count_N = count_targets(sequences, items.num_rows, config)
    torch.manual_seed(config.behaviour.seed)
    model, components = _encoder(request, config, items.num_rows)
    losses = _train(model, sequences, config, processes)
    metrics = {
        "loss": losses[-1],
        "loss_by_epoch": losses,
        "items": items.num_rows,
        "items_with_behaviour": int((count_N > 0).sum()),
        "targets": int(count_N.sum()),
    }
    if processes.first:
        index_N = np.arange(items.num_rows, dtype=np.int32)
        weights = {name: tensor.cpu().numpy() for name, tensor in model.weights().items()}
        vectors = {"vectors": model.item_vectors().cpu().numpy(), "count": count_N}
        if components is not None:
            vectors |= components.projected(model.text_projection.weight.detach().cpu().numpy())
        save_table(f"{output}/items.parquet", items.add_column(0, "item_index", [index_N]))
        save_tensors(f"{output}/vectors.safetensors", vectors)
        save_tensors(f"{output}/model.safetensors", weights)
        save_json(
            f"{output}/{ENCODER_FILE}", {"behaviour": asdict(config.behaviour), "window_items": config.window_items}
        )
        save_json(f"{output}/metrics.json", metrics)
    return metrics


def _encoder(request: dict[str, Any], config: ModelConfig, items: int) -> tuple[Any, TextComponents | None]:
    """The encoder of behaviour.kind as it is before training, and what it reads of texts, if it does."""
    settings, inputs = config.behaviour, request["inputs"]
    if settings.kind == "dccf":
        return Dccf.of_training_set(f"{inputs['training_set']}/sequences", items, settings), None
    if not settings.text_dim:
        return SasRec(items, config.window_items, settings), None
    if "text_vectors" not in inputs:
        raise ValueError(f"behaviour.text_dim = {settings.text_dim} needs the items' text vectors; 0 does without.")
    text_NE = load_tensors(inputs["text_vectors"])["vectors"]
    if len(text_NE) != items:
        raise ValueError(f"{inputs['text_vectors']} has {len(text_NE)} vectors for {items} items. Embed again.")
    components = TextComponents.fit(text_NE, settings.text_dim)
    return SasRec(items, config.window_items, settings, components(text_NE)), components


def count_targets(sequences: str, items: int, config: ModelConfig) -> np.ndarray:
    """How often each item is a target [N]: every event counts once, however many windows repeat it as context."""
    count_N = np.zeros(items, np.int64)
    for batch in read_batches(sequences, ("items", "targets"), 8192, seed=0, epoch=0, shuffle=False):
        items_BT = batch["items"]
        if items_BT.shape[1] != config.window_items:
            raise ValueError(
                f"{sequences} holds windows of {items_BT.shape[1]}, but model.window_items = {config.window_items}. "
                "Build the training set with the same settings."
            )
        if items_BT.max() >= items:
            raise ValueError(
                f"{sequences} names item {items_BT.max()}, but there are {items} items. Rebuild the training set."
            )
        count_N += np.bincount(items_BT[(batch["targets"] == 1) & (items_BT >= 0)], minlength=items)
    if not count_N.any():
        raise ValueError(f"{sequences} holds no target, so there is nothing to learn. Check event_types and the dates.")
    return count_N


def _train(encoder: SasRec | Dccf, sequences: str, config: ModelConfig, processes: Processes) -> list[float]:
    """All epochs; returns each one's mean loss over its targets, in nats."""
    settings = config.behaviour
    model = processes.wrap(encoder)
    torch.manual_seed(settings.seed + 1 + processes.rank)  # every process drops out other units
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    steps = steps_per_epoch(sequences, settings.batch_size, processes.world_size)
    all_steps = settings.epochs * steps
    share = warmup_cosine(all_steps, WARMUP_SHARE) if settings.schedule == "cosine" else (lambda step: 1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    progress = Progress("train behaviour", all_steps) if processes.first else None
    model.train()
    losses = []
    for epoch in range(settings.epochs):
        total, targets = 0.0, 0.0
        for step, batch in enumerate(_epoch(encoder, sequences, config, epoch, steps, processes)):
            loss, count = model(*(tensor.to(processes.device) for tensor in encoder.batch(batch)))
            value = loss.item()
            if not math.isfinite(value):
                raise ValueError(
                    f"The behaviour loss is {value} at step {step} of epoch {epoch}. Lower behaviour.learning_rate."
                )
            optimizer.zero_grad()
            loss.backward()
            if settings.max_grad_norm:
                nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            schedule.step()
            total, targets = total + value * count, targets + count
            if progress is not None:
                progress.advance(note=f"epoch {epoch + 1} loss {total / max(targets, 1):.3f}")
        total, targets = processes.sums(total, targets)
        losses.append(total / max(targets, 1))
    if progress is not None:
        progress.close()
    return losses


def _epoch(
    encoder: SasRec | Dccf, sequences: str, config: ModelConfig, epoch: int, steps: int, processes: Processes
) -> Iterator[Batch]:
    return read_batches(
        sequences,
        encoder.columns,
        config.behaviour.batch_size,
        seed=config.behaviour.seed,
        epoch=epoch,
        rank=processes.rank,
        world_size=processes.world_size,
        max_batches=steps,
    )


if __name__ == "__main__":
    train_behaviour(load_json(sys.argv[1]))
