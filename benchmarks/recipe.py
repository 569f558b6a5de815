"""From a split's training set to a model that ranks: each step is made once of the same data and settings.

A step that was stopped is begun anew, but for the fine-tuning, which goes on from its last checkpoint. What was made
by other code of the same settings counts as made: after a change that matters, delete it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.budget import device
from model.behaviour.train import train_behaviour
from model.config import LANGUAGE_MODEL, LanguageModelName, ModelConfig, TextEncoderConfig
from model.data.files import save_tensors
from model.evaluation.dataset import Interactions
from model.generation import Generation, GenerationStore, Manifest, digest
from model.recommender.fusion import FURTHER_MODELS, fit
from model.recommender.methods.base import LANGUAGE_MODEL as FOLDER
from model.recommender.methods.base import START, Ranker
from model.recommender.registry import METHODS
from model.recommender.ttds import tokenize
from model.text_encoder import TextEncoder
from model.tokenizer.train import train_tokenizer

TEXTS = Path("build/texts")
LANGUAGE = ("backbone", "finetune")
"""Settings behind a language model."""


def text_vectors(texts: list[str]) -> str:
    """URI of the vectors {vectors [N,E]}; those made before of the same texts are there."""
    file = TEXTS / f"{digest(texts)}.safetensors"
    if not file.exists():
        save_tensors(str(file), {"vectors": TextEncoder.load(TextEncoderConfig()).encode(texts)})
    return str(file)


class Recipe:
    """The steps of one split, whose training set stands in `root`/training_set."""

    def __init__(
        self,
        root: Path,
        data: Interactions,
        split: str,
        method: str = "semantic_convergence",
        further: Mapping[LanguageModelName, ModelConfig] | None = None,
    ) -> None:
        """`further`: methods, with their settings, whose language models are signals of the fusion too."""
        self.root, self.data, self.method = root, data, method
        self._of = [data.digest, split]
        self._further = {name: (Recipe(root, data, split, name), config) for name, config in (further or {}).items()}

    def ranker(self, config: ModelConfig) -> Ranker:
        """Of the method with these settings, or of its fusion without a language model."""
        return METHODS[self.method].load_ranker({"config": asdict(config), "inputs": self.inputs(config)})

    def teacher(self, config: ModelConfig) -> Ranker:
        return METHODS["sasrec"].load_ranker({"inputs": {"behaviour": self.behaviour(config).uri}})

    def cost(self, config: ModelConfig, *steps: str) -> tuple[float, list[str]]:
        """What these steps took, or all behind the ranker, in seconds, of a stopped one only what came after its last
        start; and the devices that they ran on.
        """
        made = {"behaviour": self.behaviour(config)} if steps == ("behaviour",) else self._steps(config)
        further = [each for recipe, other in self._further.values() for each in recipe._learned(other)]
        metrics = [each.manifest.metrics for each in (*made.values(), *further)]
        return sum(each["seconds"] for each in metrics), [each["device"] for each in metrics]

    def behaviour(self, config: ModelConfig) -> Generation:
        return self._made("behaviour", config, ("behaviour",), {}, train_behaviour)

    def codebook(self, config: ModelConfig) -> Generation:
        inputs = {"behaviour": self.behaviour(config).uri}
        if self.method == "ttds":
            settings = ("tokenizer", *LANGUAGE, "ttds", *self._validated(config))
            return self._made("codebook", config, settings, inputs, tokenize)
        return self._made("codebook", config, ("tokenizer",), inputs, train_tokenizer)

    def model(self, config: ModelConfig) -> Generation:
        codebook = self.codebook(config)
        inputs = {"codebook": codebook.uri}
        if self.method == "ttds":
            inputs[START] = codebook.path(FOLDER)
        if self.method == "rsllm":
            inputs |= {"behaviour": self.behaviour(config).uri}
        own = (self.method,) if self.method != "semantic_convergence" else ()
        settings = (*LANGUAGE, *own, *self._validated(config))
        return self._made("model", config, settings, inputs, METHODS[self.method].train)

    def fusion(self, config: ModelConfig) -> Generation:
        inputs = {"behaviour": self.behaviour(config).uri, "codebook": self.codebook(config).uri}
        if LANGUAGE_MODEL in config.fusion.signals:
            inputs |= {"model": self.model(config).uri, **self._further_models()}
        return self._made("fusion", config, ("fusion", "decoding", "validation_users"), inputs, fit)

    def _learned(self, config: ModelConfig) -> list[Generation]:
        """What this method makes itself: the model, and the codebook where the model moves it."""
        return [self.model(config), *([self.codebook(config)] if self.method == "ttds" else [])]

    def _further_models(self) -> dict[str, Any]:
        models = {name: recipe.inputs(config, "model") for name, (recipe, config) in self._further.items()}
        for name, (recipe, config) in self._further.items():
            models[name] |= recipe.inputs(config, "codebook")
        return {FURTHER_MODELS: models} if models else {}

    def _validated(self, config: ModelConfig) -> tuple[str, ...]:
        """A training that does not stop by the validation cases does not read them."""
        return ("validation_users",) if config.finetune.patience else ()

    def _steps(self, config: ModelConfig) -> dict[str, Generation]:
        steps = {"behaviour": self.behaviour(config), "codebook": self.codebook(config)}
        signals = config.fusion.signals
        if LANGUAGE_MODEL in signals or not signals:
            steps["model"] = self.model(config)
        if signals:
            steps["fusion"] = self.fusion(config)
        return steps

    def inputs(self, config: ModelConfig, until: str = "fusion") -> dict[str, Any]:
        """URIs of what the steps made, up to and with `until`."""
        made = self._steps(config) if until == "fusion" else {until: getattr(self, until)(config)}
        further = self._further_models() if until == "fusion" else {}
        return {name: each.uri for name, each in made.items()} | self._given() | further

    def _given(self) -> dict[str, str]:
        return {"training_set": str(self.root / "training_set"), "text_vectors": text_vectors(self.data.texts)}

    def _made(
        self,
        name: str,
        config: ModelConfig,
        settings: tuple[str, ...],
        inputs: dict[str, Any],
        make: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> Generation:
        store = GenerationStore(str(self.root), name)
        shapes = ("history_items", "window_items")
        chosen = {each: value for each, value in asdict(config).items() if each in (*settings, *shapes)}
        key = {"made_of": digest([self._of, self.method if name == "model" else "", chosen, inputs])}
        for made in store.complete():
            if made.manifest.key == key:
                return made
        draft = store.begin()
        checkpoints = self.root / "checkpoints" / key["made_of"]
        request = {
            "config": asdict(config),
            "inputs": self._given() | inputs,
            "output": draft.uri,
            "checkpoints": str(checkpoints),
        }
        started = time.perf_counter()
        metrics = make(request)
        shutil.rmtree(checkpoints, ignore_errors=True)
        metrics = {"seconds": time.perf_counter() - started, "device": device(), **metrics}
        return draft.commit(Manifest(key=key, metrics=metrics, settings=chosen))
