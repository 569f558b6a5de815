"""Fine-tune the language model on the alignment tasks: one readable loop, on a CPU, a GPU or several processes.

Reads   <training_set>/sequences, <training_set>/items, the codebook
Writes  <output>: a Hugging Face folder (LoRA merged), precog.json, metrics.json

    python -m model.recommender.train REQUEST.json
    torchrun --nproc-per-node 2 -m model.recommender.train REQUEST.json

The recipe is LC-Rec's [code]: AdamW, warm-up, cosine, the loss on responses only. One pass over a window predicts every
target position in it [ours]. On a CPU two runs of one request give the same weights.

Shapes: B rows, P positions, M labels, H hidden size, V vocabulary, L code levels, K codes a level, T items of a window.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from model.config import FinetuneConfig, ModelConfig, Normalisation, model_config
from model.data.files import load_tensors, save_json
from model.data.reader import read_batches, read_items, steps_per_epoch
from model.progress import Progress
from model.recommender.backbone import add_codes, build_backbone, save_model, with_lora
from model.recommender.methods.base import PAD, Ints
from model.recommender.tasks import SEQUENTIAL, TEXTUAL_TASKS, Batch, Examples
from model.recommender.vocabulary import CodeVocabulary, read_codes
from model.schedule import warmup_cosine

POOL_BATCHES = 8
"""Batches' worth of windows that are sorted by length together, so that a batch is little padding."""


class TensorBatch(NamedTuple):
    """`tasks.Batch` on the training device."""

    ids_BP: Tensor
    position_M: Tensor
    target_M: Tensor
    kind_sizes: tuple[int, ...]


class AlignmentLoss(nn.Module):
    """Mean loss of each task. A module of its own, so that DDP wraps the one forward pass of a step."""

    token_ids_LK: Tensor
    code_V: Tensor

    def __init__(self, model: PreTrainedModel, vocabulary: CodeVocabulary, normalisation: Normalisation) -> None:
        super().__init__()
        self.model, self.normalisation = model, normalisation
        token_ids_LK = torch.as_tensor(vocabulary.token_ids_LK)
        code_V = torch.zeros(int(token_ids_LK.max()) + 1, dtype=torch.int64)
        code_V[token_ids_LK] = torch.arange(token_ids_LK.shape[1])
        self.register_buffer("token_ids_LK", token_ids_LK, persistent=False)
        self.register_buffer("code_V", code_V, persistent=False)

    def forward(self, batches: list[TensorBatch]) -> Tensor:
        """One batch per task -> losses [tasks]."""
        head_VH = self.model.get_output_embeddings().weight
        head_LKH = head_VH[self.token_ids_LK]
        return torch.stack([self._loss(batch, head_VH, head_LKH) for batch in batches])

    def _loss(self, batch: TensorBatch, head_VH: Tensor, head_LKH: Tensor) -> Tensor:
        hidden_BPH = self.model.base_model(input_ids=batch.ids_BP, use_cache=False).last_hidden_state
        # Only labelled positions meet the head, and code positions only the rows of their level.
        hidden_MH = hidden_BPH.flatten(0, 1)[batch.position_M]
        labels = max(len(batch.target_M), 1)
        if self.normalisation == "vocabulary":
            return _cross_entropy_sum(hidden_MH, head_VH, batch.target_M) / labels
        text_MH, *code_LMH = torch.split(hidden_MH, list(batch.kind_sizes))
        text_M, *token_LM = torch.split(batch.target_M, list(batch.kind_sizes))
        loss = _cross_entropy_sum(text_MH, head_VH, text_M) if len(text_M) else hidden_MH.new_zeros(())
        for head_KH, code_MH, token_M in zip(head_LKH, code_LMH, token_LM, strict=True):
            loss = loss + _cross_entropy_sum(code_MH, head_KH, self.code_V[token_M])
        return loss / labels


def finetune(request: dict[str, Any]) -> dict[str, Any]:
    """Train, save, and return the metrics: losses by task and epoch, parameters, steps. Every process returns the same.

    `request`: {"config": ModelConfig as JSON, "inputs": {"training_set": URI, "codebook": URI}, "output": URI}.
    Raises ValueError for settings that do not fit together, RuntimeError when the loss is no longer finite.
    """
    config = model_config(request["config"])
    training_set, codebook = request["inputs"]["training_set"], request["inputs"]["codebook"]
    rank, device = _join_processes()
    torch.manual_seed(config.finetune.seed)

    items = read_items(f"{training_set}/items", ["title", "text"])
    model, tokenizer = build_backbone(config.backbone, items["text"].to_pylist(), config.finetune.seed)
    vocabulary = add_codes(
        model, tokenizer, load_tensors(f"{codebook}/codebook.safetensors")["centroids_LKP"], config.finetune.seed
    )
    examples = Examples(tokenizer, vocabulary, read_codes([codebook], vocabulary.levels), items["title"].to_pylist())
    _check_positions(config, examples, model, vocabulary.levels)
    adapted = with_lora(model, config.backbone, vocabulary) if config.backbone.lora_rank else None
    model.to(device).train()  # type: ignore[arg-type]

    metrics = {
        "parameters": sum(each.numel() for each in model.parameters()),
        "trained_parameters": sum(each.numel() for each in model.parameters() if each.requires_grad),
        **_train(model, vocabulary, examples, config, training_set, rank, device),
    }
    if rank == 0:
        merged = model if adapted is None else adapted.merge_and_unload()
        save_model(request["output"], merged, tokenizer, vocabulary, config)
        save_json(f"{request['output']}/metrics.json", metrics)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    return metrics


def _train(
    model: PreTrainedModel,
    vocabulary: CodeVocabulary,
    examples: Examples,
    config: ModelConfig,
    training_set: str,
    rank: int,
    device: torch.device,
) -> dict[str, Any]:
    recipe, sequences = config.finetune, f"{training_set}/sequences"
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    steps = steps_per_epoch(sequences, recipe.batch_size, world_size)
    tasks = [SEQUENTIAL, *(task.name for task in TEXTUAL_TASKS if recipe.text_batch_size)]
    weight_of_task = torch.tensor([1.0] + [recipe.text_weight / len(TEXTUAL_TASKS)] * (len(tasks) - 1), device=device)
    loss_of_tasks: nn.Module = AlignmentLoss(model, vocabulary, recipe.normalisation).to(device)
    if world_size > 1:
        loss_of_tasks = DistributedDataParallel(loss_of_tasks)
    optimizer, schedule = _optimizer(model, recipe, recipe.epochs * steps)
    progress = Progress("finetune", recipe.epochs * steps)
    history: list[list[float]] = []
    for epoch in range(recipe.epochs):
        sums = torch.zeros(len(tasks), dtype=torch.float64)
        batches = _batches(examples, recipe, sequences, epoch, steps, rank, world_size)
        for step, batch in enumerate(batches):
            started = time.monotonic()
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                losses = loss_of_tasks([_to(each, device) for each in batch])
            (losses * weight_of_task).sum().backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            if not torch.isfinite(norm):
                raise RuntimeError(
                    f"The gradient is {norm.item()} in epoch {epoch + 1}, step {step + 1} (losses {losses.tolist()}). "
                    "Lower finetune.learning_rate or raise finetune.warmup_share."
                )
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            sums += losses.detach().cpu()
            speed = sum(each.ids_BP.size for each in batch) / (time.monotonic() - started)
            progress.advance(note=f"loss {losses[0].item():.3f}, {speed:,.0f} tokens/s")
        if world_size > 1:
            dist.all_reduce(sums)
        history.append((sums / (steps * world_size)).tolist())
    progress.close()
    return {
        "steps": recipe.epochs * steps,
        "loss": {name: [epoch[i] for epoch in history] for i, name in enumerate(tasks)},
    }


def _batches(
    examples: Examples, recipe: FinetuneConfig, sequences: str, epoch: int, steps: int, rank: int, world_size: int
) -> Iterator[list[Batch]]:
    """For each step of an epoch: the windows' batch, then one batch per textual task of items drawn at random."""
    rng = np.random.default_rng([recipe.seed, epoch, rank])
    pools = read_batches(
        sequences,
        ["items", "targets"],
        recipe.batch_size * POOL_BATCHES,
        seed=recipe.seed,
        epoch=epoch,
        rank=rank,
        world_size=world_size,
    )
    windows = (batch for pool in pools for batch in _similar_lengths(pool, recipe.batch_size, rng))
    for _, (items_BT, targets_BT) in zip(range(steps), windows, strict=False):
        batch = [examples.sequential(items_BT, targets_BT)]
        for task in TEXTUAL_TASKS if recipe.text_batch_size else ():
            batch.append(examples.textual(task, rng.integers(examples.items, size=recipe.text_batch_size)))
        yield batch


def _similar_lengths(
    pool: dict[str, np.ndarray], batch_size: int, rng: np.random.Generator
) -> Iterator[tuple[Ints, Ints]]:
    """Cut a pool of windows into batches of like length, in random order, each cut to its longest window."""
    length_R = (pool["items"] != PAD).sum(axis=1)
    by_length = np.argsort(length_R, kind="stable")
    batches = [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
    for i in rng.permutation(len(batches)):
        longest = length_R[batches[i]].max()
        yield pool["items"][batches[i], :longest], pool["targets"][batches[i], :longest]


def _cross_entropy_sum(hidden_MH: Tensor, head_KH: Tensor, target_M: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden_MH, head_KH).float(), target_M, reduction="sum")


def _optimizer(
    model: PreTrainedModel, recipe: FinetuneConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW without decay on the norms; linear warm-up, then cosine to zero."""
    trained = [each for each in model.parameters() if each.requires_grad]
    groups = [
        {"params": [each for each in trained if each.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [each for each in trained if each.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
    share = warmup_cosine(steps, recipe.warmup_share)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def _to(batch: Batch, device: torch.device) -> TensorBatch:
    arrays = (batch.ids_BP, batch.position_M, batch.target_M)
    ids_BP, position_M, target_M = (torch.from_numpy(each).to(device, non_blocking=True) for each in arrays)
    return TensorBatch(ids_BP, position_M, target_M, batch.kind_sizes)


def _check_positions(config: ModelConfig, examples: Examples, model: PreTrainedModel, levels: int) -> None:
    needed = examples.instruction_tokens + levels * max(config.window_items, config.history_items + 1)
    if needed > model.config.max_position_embeddings:
        raise ValueError(
            f"Windows of {config.window_items} items need {needed} positions; the backbone has "
            f"{model.config.max_position_embeddings}. Lower model.window_items or raise backbone.max_positions."
        )


def _join_processes() -> tuple[int, torch.device]:
    """This process's rank and device, in torchrun's group when it started us (TorchDistributor does so too)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not dist.is_torchelastic_launched():
        return 0, device
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if device.type == "cuda":
        device = torch.device("cuda", dist.get_node_local_rank() % torch.cuda.device_count())
        torch.cuda.set_device(device)
    return dist.get_rank(), device


if __name__ == "__main__":
    print(json.dumps(finetune(json.loads(Path(sys.argv[1]).read_text())), indent=2))
