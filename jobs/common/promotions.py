"""The record of promotion verdicts: which model went live, and which evaluation said so."""

from __future__ import annotations

from jobs.common.artefacts import by_identity, store
from jobs.common.settings import Settings
from model.generation import Generation, GenerationStore


def verdicts(settings: Settings) -> GenerationStore:
    """A generation per verdict; parents: live (the model on all data), twin (the model judged), evaluation."""
    return store(settings, "promotion")


def champion_twin(settings: Settings) -> Generation | None:
    """The live model's twin that learned from its own temporal split; None while nothing is live."""
    live = store(settings, "model", "all").current()
    if live is None:
        return None
    for verdict in reversed(verdicts(settings).complete()):
        if verdict.manifest.metrics["promoted"] and verdict.manifest.parents["live"] == live.identity:
            return by_identity(settings, verdict.manifest.parents["twin"])
    raise ValueError(f"{live.identity} is live, but no verdict in {verdicts(settings).uri} says why. Run jobs.promote.")
