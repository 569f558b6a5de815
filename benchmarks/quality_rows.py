"""The rows of the quality table: every method with its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import typer

from benchmarks.recipe import Recipe
from model.config import (
    BackboneConfig,
    BehaviourConfig,
    FinetuneConfig,
    FusionConfig,
    LanguageModelName,
    ModelConfig,
    SignalName,
)
from model.method_config import RsllmConfig, TtdsConfig

FLOORS = ("popularity", "item_knn", "successor", "cooccurrence")
SEEDED = ("sasrec",)
MAIN = "semantic_convergence"

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
        text_dim=0,
    ),
    backbone=BackboneConfig(hidden_size=128, layers=2, heads=4, intermediate_size=384, dropout=0.05),
    finetune=FinetuneConfig(epochs=10, batch_size=64, row_tokens=256, mixture={"next_item": 1.0}, patience=0),
    validation_users=10_000,
)
TEXTS_READ = replace(CONFIG, behaviour=replace(CONFIG.behaviour, text_dim=128))
SEMANTIC = replace(
    TEXTS_READ,
    backbone=BackboneConfig(hidden_size=256, layers=3, heads=8, intermediate_size=768, dropout=0.1),
    finetune=replace(TEXTS_READ.finetune, precision="bfloat16", item_dropout=0.3),
    decoding=replace(TEXTS_READ.decoding, precision="bfloat16"),
)
QUICK_EPOCHS = {"behaviour": 10, "ttds": 2, "finetune": 2}


def _fused(*without: str, further: Sequence[SignalName] = ()) -> FusionConfig:
    config = FusionConfig()
    return replace(config, signals=[*further, *(name for name in config.signals if name not in without)])


TTDS = replace(
    TEXTS_READ,
    tokenizer=replace(TEXTS_READ.tokenizer, learning_rate=3e-3, batch_size=256, epochs=30),
    finetune=replace(TEXTS_READ.finetune, mixture={"next_item": 0.5, "title_to_item": 0.1}, epochs=8),
    ttds=TtdsConfig(
        mixture={"next_item_of_user": 1.0, "history_to_user": 0.1, "buyers_to_user": 0.1},
    ),
)

RSLLM = replace(
    TEXTS_READ,
    backbone=replace(TEXTS_READ.backbone, dropout=0.2),
    finetune=replace(TEXTS_READ.finetune, epochs=7, row_tokens=512),
    rsllm=RsllmConfig(
        title_tokens=8, text_share=0.1, curriculum=0.1, text_weight=0.2, user_item_weight=1.0, temperature=0.05
    ),
)
CHOOSING = replace(
    RSLLM,
    finetune=replace(RSLLM.finetune, epochs=4, batch_size=16),
    rsllm=replace(RSLLM.rsllm, choice_share=1.0),
    fusion=FusionConfig(signals=[]),
)
"""RSLLM that also learns to pick 1 of 20; few users make few steps, hence the smaller batches."""
FURTHER: dict[LanguageModelName, ModelConfig] = {"ttds": TTDS, "rsllm": RSLLM}
"""Methods beside the main one in fusion_of_all."""

OURS: dict[str, ModelConfig] = {
    "sasrec_with_text": TEXTS_READ,
    "fusion_of_ids": replace(CONFIG, fusion=_fused("language_model", "words")),
    "fusion_without_llm": replace(TEXTS_READ, fusion=_fused("language_model")),
    "language_model_alone": replace(SEMANTIC, fusion=FusionConfig(signals=[])),
    MAIN: SEMANTIC,
    "ttds_alone": replace(TTDS, fusion=FusionConfig(signals=[])),
    "ttds": TTDS,
    "rsllm_alone": replace(RSLLM, fusion=FusionConfig(signals=[])),
    "rsllm": RSLLM,
    "fusion_of_all": replace(SEMANTIC, fusion=_fused(further=tuple(FURTHER))),
}
"""Rows of the recipe by its settings; the first is the ranking of its teacher."""
WITHOUT_LLM = "fusion_without_llm"
WITH_LLM = (MAIN, "ttds", "rsllm", "fusion_of_all")
"""The same late fusion with language models."""
BASELINES = (*FLOORS, "ease", "sasrec")
ALL = (*BASELINES, *OURS)


@dataclass(frozen=True)
class Run:
    """One row of the table: a method and its seed, on one split."""

    method: str
    seed: int
    config: ModelConfig
    quick: bool = False

    @property
    def label(self) -> str:
        return f"{self.method} (seed {self.seed})" if self.seed else self.method

    @property
    def recipe(self) -> str:
        """The method of the registry behind a row of ours."""
        return next((name for name in FURTHER if self.method.startswith(name)), MAIN)

    @property
    def further(self) -> dict[LanguageModelName, ModelConfig]:
        """Settings of the methods whose language models this one's fusion hears beside its own."""
        signals = self.config.fusion.signals if self.method in OURS else []
        return {name: quicker(config, self.quick) for name, config in FURTHER.items() if name in signals}

    @property
    def is_teacher(self) -> bool:
        return self.method.startswith("sasrec")

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """What the lists are made of: the method's settings, and the steps behind them, which are made for it."""
        settings = asdict(self.config)
        read = {name: settings[name] for name in ("history_items", "window_items")}
        if self.is_teacher:
            return read | {"inputs": recipe.inputs(self.config, "behaviour")}
        if self.method in OURS:
            return read | {"decoding": settings["decoding"], "inputs": recipe.inputs(self.config)}
        return read


def runs_of(methods: list[str], seeds: int, quick: bool) -> list[Run]:
    unknown = sorted(set(methods) - set(ALL))
    if unknown:
        raise typer.BadParameter(f"--methods {', '.join(unknown)}: there are {', '.join(ALL)}.")
    return [
        Run(method, seed, quicker(_seeded(OURS.get(method, CONFIG), seed), quick), quick)
        for method in methods
        for seed in range(seeds if method in SEEDED else 1)
    ]


def _seeded(config: ModelConfig, seed: int) -> ModelConfig:
    return replace(config, behaviour=replace(config.behaviour, seed=seed))


def quicker(config: ModelConfig, quick: bool) -> ModelConfig:
    if not quick:
        return config
    parts = {name: replace(getattr(config, name), epochs=epochs) for name, epochs in QUICK_EPOCHS.items()}
    return replace(config, **parts)
