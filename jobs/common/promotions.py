"""The record of promotion verdicts: which model went live, and which evaluation said so."""

from __future__ import annotations

from jobs.common.artefacts import by_identity, store
from jobs.common.settings import Settings
from model.generation import Generation, GenerationStore


def verdicts(settings: Settings) -> GenerationStore:
    """A generation per verdict; parents: live (the model on all data), twin (the model judged), evaluation."""
    return store(settings, "promotion")


def live_verdict(settings: Settings, live: Generation) -> Generation:
    """The newest verdict that made this model live. ValueError when there is none."""
    for verdict in reversed(verdicts(settings).complete()):
        if verdict.manifest.metrics["promoted"] and verdict.manifest.parents["live"] == live.identity:
            return verdict
    raise ValueError(f"No verdict in {verdicts(settings).uri} made {live.identity} live. Run jobs.promote.")


def champion_twin(settings: Settings) -> Generation | None:
    """The live model's twin, which learned the same recipe from its own temporal split; None while nothing is live."""
    live = store(settings, "model", "all").current()
    if live is None:
        return None
    return by_identity(settings, live_verdict(settings, live).manifest.parents["twin"])
