"""Fine-tuning against the usual recipe: transformers' Trainer, padded batches, full logits. Speed, memory, the reader.

python -m benchmarks.train [--data DIR] [--backbone NAME] [--compile] [--quick]

Both sides train on the same examples: what our mixture draws in an epoch over the same windows, as many in a batch.
Useful tokens are those that are not padding. Without --data, the sample's MovieLens. Codes are drawn at random: speed
does not depend on them.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import torch
import typer
from rich.console import Console
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer as UsualTrainer
from transformers import TrainingArguments

from benchmarks.figures import Figure, interleaved_seconds, publish
from benchmarks.movielens import write_movielens
from jobs.common import step
from model.config import BackboneConfig, FinetuneConfig, ModelConfig
from model.data.files import save_table, save_tensors
from model.data.reader import read_batches
from model.data.targets import LATER_ITEMS
from model.evaluation.dataset import leave_one_out, read_folder
from model.evaluation.lists import write_training_set
from model.recommender.rows import Batch
from model.recommender.train import prepare
from model.recommender.trainer import Trainer

ROOT = Path("build/train")
LEVELS, CODES, CODE_DIM = 4, 256, 32
IGNORED = -100
READ_ROWS, READ_BATCH = 200_000, 256

console = Console(highlight=False)


def inputs_of(folder: Path, config: ModelConfig, users: int) -> dict[str, str]:
    """A training set of the first users, and drawn codes."""
    data = read_folder(folder)
    split = leave_one_out(data)
    split = dataclasses.replace(split, fit_U=np.where(np.arange(len(split.fit_U)) < users, split.fit_U, 0))
    root = ROOT / folder.name
    write_training_set(root / "training_set", data, split, config.history_items, config.window_items, 0)
    N, rng = len(data.item_ids), np.random.default_rng(0)
    codes_LN = np.unravel_index(rng.choice(CODES**LEVELS, size=N, replace=False), (CODES,) * LEVELS)
    columns = {f"code_{level}": codes_N.astype(np.int32) for level, codes_N in enumerate(codes_LN)}
    save_table(f"{root}/codebook/items.parquet", pa.table({"item_index": np.arange(N, dtype=np.int32), **columns}))
    centroids = rng.normal(size=(LEVELS, CODES, CODE_DIM))
    save_tensors(f"{root}/codebook/codebook.safetensors", {"centroids_LKP": centroids})
    return {"training_set": str(root / "training_set"), "codebook": str(root / "codebook")}


def ours(config: ModelConfig, inputs: dict[str, str]) -> Trainer:
    trainer = prepare(config, inputs)
    trainer.run()
    return trainer


def usual(config: ModelConfig, inputs: dict[str, str]) -> tuple[float, int]:
    """Seconds and useful tokens of the usual recipe on the same examples."""
    trainer = prepare(config, inputs)
    micro_batches = list(trainer.batches.read(epoch=0, shard=0, shards=1))
    examples = [example for batch in micro_batches for example in _unpacked(batch)]
    gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(ROOT / "usual"),
        per_device_train_batch_size=round(len(examples) / len(micro_batches)),
        num_train_epochs=1,
        learning_rate=config.finetune.learning_rate,
        lr_scheduler_type="cosine",
        max_grad_norm=config.finetune.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=gpu,
        use_cpu=not gpu,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    usual_trainer = UsualTrainer(trainer.subject.model, arguments, _padded, examples)  # type: ignore[arg-type]
    started = perf_counter()
    usual_trainer.train()
    return perf_counter() - started, sum(len(example["input_ids"]) for example in examples)


def _unpacked(batch: Batch) -> Iterator[dict[str, torch.Tensor]]:
    """Each example alone, its labels where transformers expects them: at the label's own position."""
    labels_F = np.full(batch.ids_RP.size, IGNORED)
    labels_F[batch.label_M + 1] = batch.target_M
    for block in range(1, batch.block_RP.max() + 1):
        own_F = batch.block_RP.ravel() == block
        ids, labels = batch.ids_RP.ravel()[own_F], labels_F[own_F]
        yield {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}


def _padded(examples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    lengths_B = torch.tensor([len(example["input_ids"]) for example in examples])
    ids_BP = pad_sequence([example["input_ids"] for example in examples], batch_first=True)
    labels_BP = pad_sequence([example["labels"] for example in examples], batch_first=True, padding_value=IGNORED)
    mask_BP = (torch.arange(ids_BP.shape[1]) < lengths_B[:, None]).long()
    return {"input_ids": ids_BP, "labels": labels_BP, "attention_mask": mask_BP}


def grown_gib(side: str, config: ModelConfig, inputs: dict[str, str]) -> float:
    """How far training drives this process's memory above what it is with the model loaded (on a GPU: its peak)."""
    trainer = prepare(config, inputs)
    before = _resident_gib("VmRSS")
    if side == "ours":
        trainer.run()
    else:
        usual(config, inputs)
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return _resident_gib("VmHWM") - before


def _resident_gib(field: str) -> float:
    """Now (VmRSS) or at most so far (VmHWM); getrusage would count the process that started this one."""
    kib = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert kib is not None
    return int(kib[1]) / 2**20


def peaks(config: ModelConfig, inputs: dict[str, str]) -> list[float]:
    """Of both sides, each in a fresh process."""
    context = multiprocessing.get_context("spawn")
    found = []
    for side in ("ours", "usual"):
        with context.Pool(1) as pool:
            found.append(pool.apply(grown_gib, (side, config, inputs)))
    return found


def reader_seconds() -> list[float]:
    """A pass over the same windows by our reader, shuffled as in training, and by a bare pyarrow loop."""
    folder = ROOT / "windows"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    widths = {"items": 40, "targets": 40, "later": LATER_ITEMS}
    columns = {
        name: pa.FixedSizeListArray.from_arrays(
            pa.array(rng.integers(0, 10_000, READ_ROWS * width).astype(np.int32)), width
        ).cast(pa.list_(pa.int32()))
        for name, width in widths.items()
    }
    pq.write_table(pa.table(columns), folder / "part-0.parquet", row_group_size=READ_ROWS // 16)

    def ours() -> None:
        for _ in read_batches(str(folder), list(widths), READ_BATCH, seed=0, epoch=0):
            pass

    def bare() -> None:
        for batch in ds.dataset(folder).to_batches(columns=list(widths), batch_size=READ_BATCH):
            for column in batch.columns:
                column.flatten().to_numpy().reshape(len(batch), -1)

    return interleaved_seconds(3, ours, bare)


def main(
    data: Annotated[Path | None, typer.Option(help="A folder as docs/data_format.md says.")] = None,
    backbone: Annotated[str, typer.Option(help="As the setting model.backbone.name.")] = "tiny-llama",
    compiled: Annotated[bool, typer.Option("--compile", help="Ours by torch.compile.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer users and rounds.")] = False,
) -> None:
    folder = data or write_movielens(ROOT / "raw")
    recipe = FinetuneConfig(epochs=1, patience=0, row_tokens=256, compile=compiled)
    config = ModelConfig(backbone=BackboneConfig(name=backbone), finetune=recipe)
    inputs = inputs_of(folder, config, users=100 if quick else 300)
    rates: dict[str, list[float]] = {"ours": [], "usual": []}
    for _ in range(1 if quick else 3):
        trained = ours(config, inputs)
        speed = trained.speed.figures()
        rates["ours"].append(speed["tokens_per_second"])
        seconds, tokens = usual(config, inputs)
        rates["usual"].append(tokens / seconds)
    mine, theirs = (median(rates[side]) for side in ("ours", "usual"))
    console.print(f"useful tokens a second: ours {mine:,.0f}, usual recipe {theirs:,.0f}")
    memory = peaks(config, inputs)
    console.print(f"memory above the loaded model: ours {memory[0]:.2f} GiB, usual recipe {memory[1]:.2f} GiB")
    reader, bare = reader_seconds()
    console.print(f"{READ_ROWS:,} windows: our reader {reader:.2f} s, pyarrow.dataset {bare:.2f} s")
    size = f"{backbone}, {folder.name}, {trained.position.step} steps, {torch.get_num_threads()} threads"
    figures = [
        Figure("train.speedup", mine / theirs, "" if quick else ">=2.5"),
        Figure("train.memory_ratio", memory[0] / memory[1], "" if quick else "<=0.6"),
        Figure("train.data_wait", speed["data_wait"], "" if quick else "<=0.02"),
        Figure("train.reader_vs_arrow", bare / reader, "" if quick else ">=0.5"),
        Figure("train.mfu", speed["mfu"]),
    ]
    publish("train", size, figures)


if __name__ == "__main__":
    step.run(main)
