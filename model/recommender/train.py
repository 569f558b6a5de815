"""Fine-tune the language model on the alignment tasks, on a CPU, a GPU or several processes; the loop is in trainer.py.

Reads   <training_set>/sequences, items and validation; the codebook
Writes  <output>: a Hugging Face folder (LoRA merged), precog.json, metrics.json; checkpoints on the way

    python -m model.recommender.train REQUEST.json
    torchrun --nproc-per-node 2 -m model.recommender.train REQUEST.json
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from model.config import ModelConfig, model_config
from model.data.files import load_tensors, save_json
from model.data.reader import read_items
from model.processes import ALONE, Processes, joined
from model.recommender.backbone import Subject, build_subject, continued_subject, save_model
from model.recommender.batches import Batches, negatives_of
from model.recommender.dynamic_index import DynamicIndex
from model.recommender.examples import Examples
from model.recommender.inference import SemanticRanker
from model.recommender.loss import AlignmentLoss, TensorBatch, weighted
from model.recommender.methods.base import START, Ints, Ranker
from model.recommender.objective import Objective
from model.recommender.queries import KeyTerms
from model.recommender.rows import STRING_TERMS
from model.recommender.tasks import Slot, Task
from model.recommender.trainer import Trainer
from model.recommender.users import UserCoder
from model.recommender.validation import Validation
from model.recommender.vocabulary import read_codes
from model.task_names import USER_TASKS


def finetune(request: dict[str, Any]) -> dict[str, Any]:
    """Train, save, and return the metrics: losses by task and epoch, parameters, steps; and this process's "speed".

    `request`: {"config": ModelConfig as JSON, "inputs": {"training_set": URI, "codebook": URI, "start": URI of a model
    to go on from, optional: the second stage of TTDS}, "output": URI, "checkpoints": URI of a folder, optional}.
    Raises ValueError for settings that do not fit together, RuntimeError when the loss is no longer finite.
    """
    with joined() as processes:
        return _finetune(request, processes)


def _finetune(request: dict[str, Any], processes: Processes) -> dict[str, Any]:
    config, inputs = model_config(request["config"]), request["inputs"]
    if START in inputs:
        config = second_stage(config)
    trainer = prepare(config, inputs, processes, request.get("checkpoints"))

    def save(weights: dict[str, Tensor]) -> None:
        # Into a model of its own: of the one that was trained, a process may hold but its share.
        fresh = _subject(config, inputs)
        fresh.model.load_state_dict(weights, strict=False)
        save_model(request["output"], fresh.merged(), fresh.tokenizer, fresh.vocabulary, config)

    return run_and_save(trainer, processes, request["output"], save)


def run_and_save(
    trainer: Trainer, processes: Processes, output: str, save: Callable[[dict[str, Tensor]], None]
) -> dict[str, Any]:
    """Train to the end; `save` writes the weights into `output`, the metrics go beside them. Returns those."""
    metrics = trainer.run()
    weights = trainer.checkpoints.weights()
    if processes.first:
        save(weights)
        save_json(f"{output}/metrics.json", metrics)
    processes.sums(0.0)  # wait for the first one's files
    return metrics | {"speed": trainer.speed.figures()}


def prepare(
    config: ModelConfig, inputs: dict[str, str], processes: Processes = ALONE, checkpoints: str | None = None
) -> Trainer:
    """Everything that a training needs, up to its first step or, with a checkpoint, the next. ValueError as above."""
    subject = _subject(config, inputs)
    items = read_items(f"{inputs['training_set']}/items", ["title", "text"])
    titles, texts = (items[name].to_pylist() for name in ("title", "text"))
    codes_NL = read_codes([inputs["codebook"]], subject.vocabulary.levels)
    examples = Examples(subject.tokenizer, subject.vocabulary, codes_NL, titles, texts, KeyTerms.of(texts))
    if subject.vocabulary.has_users:
        examples.recode(codes_NL, UserCoder.load(inputs["codebook"], []))
    return trainer_of(config, inputs, subject, examples, codes_NL, processes, checkpoints)


def trainer_of(
    config: ModelConfig,
    inputs: dict[str, str],
    subject: Subject,
    examples: Examples,
    codes_NL: Ints,
    processes: Processes,
    checkpoints: str | None,
    index: DynamicIndex | None = None,
) -> Trainer:
    _check_users(config, subject)
    _check_lengths(config, examples, subject.model)
    negatives = negatives_of(inputs["training_set"], codes_NL, examples)
    batches = Batches(inputs["training_set"], examples, negatives, config)
    if index is not None:
        index.tell(batches.recode)

    def ranker() -> Ranker:
        now_NL = codes_NL if index is None else index.codes_NL
        return SemanticRanker.of(subject.model, subject.vocabulary, examples, now_NL, config)

    validation = Validation(inputs["training_set"], subject.model, ranker, len(codes_NL), config)
    objective = _objective(config, subject, batches.tasks, with_strings=index is not None)
    return Trainer(config, inputs, subject, batches, objective, validation, processes, checkpoints, index)


def _objective(config: ModelConfig, subject: Subject, tasks: list[Task], *, with_strings: bool) -> Objective:
    recipe = config.finetune
    loss = AlignmentLoss(subject.model, subject.vocabulary, recipe.normalisation, len(tasks))
    of_window_Y = torch.tensor([task.uses({Slot.WINDOW}) for task in tasks])

    def total(losses_Y: Tensor, labels_Y: Tensor) -> Tensor:
        return weighted(losses_Y, labels_Y, of_window_Y.to(losses_Y.device), recipe, config.ttds)

    names = [*(task.name for task in tasks), *(STRING_TERMS if with_strings else ())]
    return Objective(names, loss, TensorBatch.of, total)


def second_stage(config: ModelConfig) -> ModelConfig:
    """Of TTDS: the settings of the fine-tuning that goes on with frozen codes, at ttds.second_stage of the
    learning rate [ours: all of it; code: a tenth].
    """
    finetune = with_user_tasks(config).finetune
    return replace(config, finetune=replace(finetune, learning_rate=config.ttds.second_stage * finetune.learning_rate))


def with_user_tasks(config: ModelConfig) -> ModelConfig:
    return replace(config, finetune=replace(config.finetune, mixture=config.finetune.mixture | config.ttds.mixture))


def _subject(config: ModelConfig, inputs: dict[str, str]) -> Subject:
    """The model as it is before training."""
    if START in inputs:
        return continued_subject(config, inputs[START])
    texts = read_items(f"{inputs['training_set']}/items", ["text"])["text"].to_pylist()
    centroids_LKD = load_tensors(f"{inputs['codebook']}/codebook.safetensors")["centroids_LKP"]
    return build_subject(config, texts, centroids_LKD)


def _check_users(config: ModelConfig, subject: Subject) -> None:
    asked = [name for name in USER_TASKS if config.finetune.mixture.get(name, 0) > 0]
    if asked and not subject.vocabulary.has_users:
        raise ValueError(
            f"finetune.mixture: {', '.join(asked)}, but users have no codes: leave them out, or set method to ttds."
        )


def _check_lengths(config: ModelConfig, examples: Examples, model: PreTrainedModel) -> None:
    longest = examples.longest(config.window_items, config.history_items)
    if longest > config.finetune.row_tokens:
        raise ValueError(
            f"An example can be {longest} tokens long, a row {config.finetune.row_tokens}. Raise finetune.row_tokens "
            "or lower model.window_items."
        )
    needed = examples.window_tokens(max(config.window_items, config.history_items + 1))
    if needed > model.config.max_position_embeddings:
        raise ValueError(
            f"Windows of {config.window_items} items need {needed} positions; the backbone has "
            f"{model.config.max_position_embeddings}. Lower model.window_items or raise backbone.max_positions."
        )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    print(json.dumps(finetune(json.loads(Path(sys.argv[1]).read_text())), indent=2))
