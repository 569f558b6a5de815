"""RSLLM: fine-tune a language model that reads the recommender's item vectors [paper].

Both stages are one training: text alone first, then unified prompts, with a curriculum between the two.

Reads   <training_set>/sequences, items and validation; the behaviour encoder's vectors, the items' text vectors
Writes  <output>: a Hugging Face folder (LoRA merged), id_reader.safetensors, precog.json with the teacher's identity,
        metrics.json; checkpoints on the way

    torchrun --nproc-per-node 2 -m model.recommender.rsllm.train REQUEST.json
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model.behaviour.item_texts import TextComponents
from model.config import ModelConfig, model_config
from model.data.files import save_tensors
from model.data.reader import read_items
from model.processes import ALONE, Processes, joined
from model.recommender.backbone import Subject, build_backbone, save_model, subject_of
from model.recommender.methods.base import Ranker
from model.recommender.objective import Objective
from model.recommender.rsllm import METHOD
from model.recommender.rsllm.batches import IdBatches
from model.recommender.rsllm.loss import RsllmLoss
from model.recommender.rsllm.prompts import ITEM_TOKEN, TERMS, ItemPrompts, TensorIds
from model.recommender.rsllm.ranker import READER_FILE, RsllmRanker
from model.recommender.rsllm.reader import IdReader, read_vectors, teacher_of
from model.recommender.train import run_and_save
from model.recommender.trainer import Trainer
from model.recommender.validation import Validation
from model.recommender.vocabulary import CodeVocabulary

READER = "id_reader"
"""The reader's place in the model while it is trained: optimiser and checkpoints find it there."""


def finetune(request: dict[str, Any]) -> dict[str, Any]:
    """Train, save, and return the metrics: losses by term and epoch, parameters, steps; and this process's "speed".

    `request`: {"config": ModelConfig as JSON, "inputs": {"training_set", "behaviour", "text_vectors": URIs},
    "output": URI, "checkpoints": URI of a folder, optional}.
    Raises ValueError for settings that do not fit together, RuntimeError when the loss is no longer finite.
    """
    with joined() as processes:
        config, inputs, output = model_config(request["config"]), request["inputs"], request["output"]
        trainer = prepare(config, inputs, processes, request.get("checkpoints"))

        def save(weights: dict[str, Tensor]) -> None:
            # Into a model of its own: of the one that was trained, a process may hold but its share.
            fresh, components = _subject(config, inputs)
            fresh.model.load_state_dict(weights, strict=False)
            model = fresh.merged()
            reader = model.get_submodule(READER)
            delattr(model, READER)
            named = {"method": METHOD, "teacher": teacher_of(inputs["behaviour"])}
            save_model(output, model, fresh.tokenizer, fresh.vocabulary, config, **named)
            tensors = {name: each.numpy() for name, each in reader.state_dict().items()}
            save_tensors(f"{output}/{READER_FILE}", tensors | vars(components))

        return run_and_save(trainer, processes, output, save)


def prepare(
    config: ModelConfig, inputs: dict[str, str], processes: Processes = ALONE, checkpoints: str | None = None
) -> Trainer:
    """Everything that a training needs, up to its first step or, with a checkpoint, the next. ValueError as above."""
    subject, _ = _subject(config, inputs)
    reader = subject.model.get_submodule(READER)
    assert isinstance(reader, IdReader)
    titles = read_items(f"{inputs['training_set']}/items", ["title"])["title"].to_pylist()
    prompts = ItemPrompts(subject.tokenizer, titles, config.rsllm)
    _check_lengths(config, prompts, subject.model)
    batches = IdBatches(inputs["training_set"], prompts, reader.has_behaviour_N.cpu().numpy(), config)

    def ranker() -> Ranker:
        codes_NL = np.empty((reader.items, 0), np.int64)
        return RsllmRanker(subject.model, reader, prompts, codes_NL, config)

    validation = Validation(inputs["training_set"], subject.model, ranker, reader.items, config)
    objective = _objective(config, subject, processes)
    return Trainer(config, inputs, subject, batches, objective, validation, processes, checkpoints)


def _objective(config: ModelConfig, subject: Subject, processes: Processes) -> Objective:
    recipe = config.rsllm
    weight_Y = torch.tensor([recipe.text_weight, recipe.choice_weight, recipe.id_text_weight, recipe.user_item_weight])

    def total(losses_Y: Tensor, labels_Y: Tensor) -> Tensor:
        return (weight_Y.to(losses_Y.device) * losses_Y / labels_Y.clamp(min=1)).sum()

    loss = RsllmLoss(subject.model, READER, recipe, processes)
    return Objective(list(TERMS), loss, TensorIds, total, changing=sum(recipe.stages))


def _subject(config: ModelConfig, inputs: dict[str, str]) -> tuple[Subject, TextComponents]:
    """The model before its first step, with its reader, and what the reader sees of texts."""
    texts = read_items(f"{inputs['training_set']}/items", ["text"])["text"].to_pylist()
    vectors, components = read_vectors(inputs)
    if len(vectors.teacher_ND) != len(texts):
        raise ValueError(
            f"{inputs['behaviour']} has vectors of {len(vectors.teacher_ND)} items, {inputs['training_set']} has "
            f"{len(texts)}: not its teacher."
        )
    model, tokenizer = build_backbone(config.backbone, texts, config.finetune.seed)
    rows = _add_tokens(model, tokenizer, config.finetune.seed)
    nothing = CodeVocabulary(np.empty((0, 0), np.int64))
    subject = subject_of(config, model, tokenizer, nothing, rows)
    scale = model.get_input_embeddings().weight.square().mean().sqrt().item()  # type: ignore[operator]
    torch.manual_seed(config.finetune.seed)
    model.add_module(READER, IdReader(vectors, model.config.hidden_size, scale))
    return subject, components


def _add_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> list[int]:
    tokenizer.add_tokens([ITEM_TOKEN], special_tokens=True)
    torch.manual_seed(seed)
    model.resize_token_embeddings(max(len(tokenizer), model.config.vocab_size), mean_resizing=False)
    ids: list[int] = tokenizer.convert_tokens_to_ids([ITEM_TOKEN])  # type: ignore[assignment]
    return ids


def _check_lengths(config: ModelConfig, prompts: ItemPrompts, model: PreTrainedModel) -> None:
    longest = prompts.longest(config.window_items, config.history_items)
    has = {
        "finetune.row_tokens": config.finetune.row_tokens,
        "backbone.max_positions": model.config.max_position_embeddings,
    }
    if small := [f"model.{name} (now {value})" for name, value in has.items() if value < longest]:
        raise ValueError(
            f"An example can be {longest} tokens long: raise {' and '.join(small)} to that, or lower "
            "model.rsllm.title_tokens or model.window_items."
        )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    print(json.dumps(finetune(json.loads(Path(sys.argv[1]).read_text())), indent=2))
