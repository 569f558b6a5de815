"""TTDS, stage one: tokenizer and language model learn together, while the index moves; what it ends with is frozen.

[paper] arXiv 2409.09253: codes for users too, recomputed from the language model's own states while it trains.
Stage two is the usual fine-tuning, which goes on from here with these codes: `model.recommender.train`.

Reads   <training_set>/sequences and items; the behaviour encoder's vectors
Writes  <output>: a codebook's folder, with the users' tower (users/), what is known of its items (views.safetensors)
        and the language model (language_model/) in it

Shapes: N items, V histories, U of them, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from model.config import ModelConfig, model_config
from model.data.files import load_json
from model.data.reader import read_items
from model.processes import Processes, joined
from model.recommender.backbone import PRECOG, Subject, build_backbone, build_subject, load_model, save_model
from model.recommender.dynamic_index import DynamicIndex, Start
from model.recommender.examples import Examples, text_rows
from model.recommender.methods.base import LANGUAGE_MODEL, Floats, Ints
from model.recommender.queries import KeyTerms
from model.recommender.states import text_states
from model.recommender.train import trainer_of, with_user_tasks
from model.recommender.trainer import Trainer
from model.recommender.users import USERS_FOLDER, VIEWS_FILE, Views, read_prefixes
from model.tokenizer.codebook import Codebook
from model.tokenizer.train import read_behaviour, write_codebook

TOWER_USERS = 20_000
"""Histories, at most, that the users' tower learns from."""


def tokenize(request: dict[str, Any]) -> dict[str, Any]:
    """Train, save, and return the metrics: those of the codebook, and of the training; this process's "speed".

    `request`: {"config": ModelConfig as JSON, "inputs": {"training_set", "behaviour": URIs}, "output": URI of a folder,
    "checkpoints": URI of a folder, optional}.
    Raises ValueError for settings that do not fit together, RuntimeError when the loss is no longer finite.
    """
    with joined() as processes:
        config, inputs = first_stage(model_config(request["config"])), request["inputs"]
        trainer = prepare(config, inputs, processes, request.get("checkpoints"))
        metrics = trainer.run()
        index = trainer.index
        assert index is not None
        if config.ttds.refresh_steps:  # codes of the model as it ends
            index.refresh(trainer.subject.model, trainer.loss, trainer.position.step)
        weights = trainer.checkpoints.weights()
        if processes.first:
            # Into a model of its own: of the one that was trained, a process may hold but its share.
            texts = read_items(f"{inputs['training_set']}/items", ["text"])["text"].to_pylist()
            fresh = _subject(config, texts, {name: tower.frozen() for name, tower in index.towers.items()})
            fresh.model.load_state_dict(weights, strict=False)
            output = request["output"]
            save_model(f"{output}/{LANGUAGE_MODEL}", fresh.merged(), fresh.tokenizer, fresh.vocabulary, config)
            metrics |= _save(index, inputs, output)
        processes.sums(0.0)  # wait for the first one's files
        return metrics | {"speed": trainer.speed.figures()}


def prepare(
    config: ModelConfig, inputs: dict[str, str], processes: Processes, checkpoints: str | None = None
) -> Trainer:
    """Everything that a training needs, up to its first step or, with a checkpoint, the next. ValueError as above.

    `config`: of the first stage.
    """
    index, subject, examples = _begin(config, inputs, processes)
    return trainer_of(config, inputs, subject, examples, index.codes_NL, processes, checkpoints, index)


def first_stage(config: ModelConfig) -> ModelConfig:
    """The settings of the training that moves the index: users' tasks too, and no epoch is put before a later one."""
    tokenizer = replace(config.tokenizer, kind="dual_autoencoder")
    finetune = replace(with_user_tasks(config).finetune, epochs=config.ttds.epochs, patience=0)
    return replace(config, tokenizer=tokenizer, finetune=finetune)


def item_states(codebook: str, texts: Sequence[str]) -> Floats:
    """States [N,H] of later items' texts, as the language model in a codebook's folder (URI) reads them."""
    folder = f"{codebook}/{LANGUAGE_MODEL}"
    row_tokens = load_json(f"{folder}/{PRECOG}")["config"]["finetune"]["row_tokens"]
    model, tokenizer, _ = load_model(folder)
    return text_states(model, text_rows(tokenizer, texts), row_tokens)


def _begin(config: ModelConfig, inputs: dict[str, str], processes: Processes) -> tuple[DynamicIndex, Subject, Examples]:
    """The towers are fitted to the states of the model before its first step."""
    items = read_items(f"{inputs['training_set']}/items", ["item_id", "title", "text"])
    item_ids, titles, texts = (items[name].to_pylist() for name in ("item_id", "title", "text"))
    model, tokenizer = build_backbone(config.backbone, texts, config.finetune.seed)
    text_NX = text_rows(tokenizer, texts)
    state_NH = text_states(model.to(processes.device), text_NX, config.finetune.row_tokens, processes)  # type: ignore[arg-type]
    views = Views(state_NH, *read_behaviour(inputs, item_ids))
    of_items = Codebook.train(config.tokenizer, item_ids, *views)
    of_users, history_UH = _users(config, inputs["training_set"], views)
    codes_NL = of_items.assign(item_ids, of_items.inputs(*views), np.empty((0, config.tokenizer.levels), np.int64))
    index = DynamicIndex(config, Start(text_NX, views, of_items, of_users, history_UH, codes_NL), processes)
    subject = _subject(config, texts, {"items": of_items} | ({} if of_users is None else {"users": of_users}))
    examples = Examples(subject.tokenizer, subject.vocabulary, codes_NL, titles, texts, KeyTerms.of(texts))
    return index, subject, examples


def _subject(config: ModelConfig, texts: Sequence[str], towers: dict[str, Codebook]) -> Subject:
    """The model before its first step; its code tokens start as the centroids of their towers."""
    of_users = towers["users"].centroids_LKZ if "users" in towers else None
    return build_subject(config, texts, towers["items"].centroids_LKZ, of_users)


def _users(config: ModelConfig, training_set: str, views: Views) -> tuple[Codebook | None, Ints]:
    """The users' tower, and the histories that it learns from, drawn from the training set's."""
    history_VH = read_prefixes(training_set, config.history_items).history_VH
    if not config.ttds.mixture:
        return None, history_VH[:0]
    if not len(history_VH):
        raise ValueError("No target has an item before it: users have no history to be known by. Empty ttds.mixture.")
    rng = np.random.default_rng(config.finetune.seed)
    drawn_U = np.sort(rng.choice(len(history_VH), min(TOWER_USERS, len(history_VH)), replace=False))
    history_UH = history_VH[drawn_U]
    return Codebook.train(config.tokenizer, [str(row) for row in drawn_U], *views.of_histories(history_UH)), history_UH


def _save(index: DynamicIndex, inputs: dict[str, str], output: str) -> dict[str, Any]:
    """Write the codebook's folder; returns its health figures."""
    items = index.towers["items"]
    known = items.x_NP, index.codes_NL, index.views.has_behaviour_N
    figures = write_codebook(output, items.frozen(), inputs["training_set"], *known)
    index.views.save(f"{output}/{VIEWS_FILE}")
    if index.users is not None:
        index.users.tower.save(f"{output}/{USERS_FOLDER}")
    return figures
