"""The recipe of a model: the settings that shaped it and what it was made from, all the way up to the training set."""

from __future__ import annotations

from typing import Any

from jobs.common.artefacts import by_identity
from jobs.common.settings import Settings
from model.generation import Generation

OF_THE_SPLIT = ("training_set.holdout_days",)
"""What tells the judged model from the one on all data, whatever the recipe."""


def recipe(settings: Settings, model: Generation) -> dict[str, Any]:
    """Setting -> value, e.g. {"codebook.tokenizer.levels": 4}, of the model and of each of its parents by role.

    ValueError when a parent is gone.
    """
    made = {"model": model} | {
        role: by_identity(settings, identity) for role, identity in model.manifest.parents.items()
    }
    found: dict[str, Any] = {}
    for role, generation in made.items():
        found |= _flat(role, generation.manifest.settings)
    return {name: value for name, value in found.items() if name not in OF_THE_SPLIT}


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """ "codebook.tokenizer.levels was 4, is 3" for each setting in which two recipes differ; None: it has none."""
    names = sorted(before.keys() | now.keys())
    pairs = ((name, before.get(name), now.get(name)) for name in names)
    return [f"{name} was {old}, is {new}" for name, old, new in pairs if old != new]


def _flat(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {key: one for part, inner in value.items() for key, one in _flat(f"{name}.{part}", inner).items()}
