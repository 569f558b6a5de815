"""How a stored model is opened for ranking."""

from __future__ import annotations

from jobs.common.artefacts import additions_store, by_identity, code_files, method_of
from jobs.common.settings import Settings
from jobs.transforms.ranking import RankingTask
from model.data.files import TEXT_VECTORS_FILE
from model.generation import Generation

FUSION = "fusion"
"""Folder of a model with its late fusion."""


def signal_inputs(training_set: Generation, behaviour: Generation) -> dict[str, str]:
    """What the signals beside the language model are read from."""
    return {"training_set": training_set.uri, "behaviour": behaviour.uri}


def vector_inputs(behaviour: Generation) -> dict[str, str]:
    """What ID tokens are read from."""
    return {"behaviour": behaviour.uri, "text_vectors": behaviour.path(TEXT_VECTORS_FILE)}


def model_task(
    settings: Settings, model: Generation, protocols: tuple[bool, ...] = (True,), unavailable_file: str = ""
) -> RankingTask:
    """Rank with a model generation as it was trained, fused or not, and with its codes, items added since included."""
    codebook = by_identity(settings, model.manifest.parents["codebook"])
    inputs = {
        "model": model.uri,
        "codebook": codebook.uri,
        "codebook_additions": [addition.uri for addition in additions_store(settings, codebook).complete()],
    }
    method, fused = method_of(model), bool(model.manifest.settings.get(FUSION, {}).get("signals"))
    if fused or method == "rsllm":
        training_set, behaviour = (
            by_identity(settings, model.manifest.parents[role]) for role in ("training_set", "behaviour")
        )
        inputs |= signal_inputs(training_set, behaviour)
        if fused:
            inputs[FUSION] = model.path(FUSION)
        if method == "rsllm":
            inputs |= vector_inputs(behaviour)
    return RankingTask(
        method,
        {"config": settings.model_json(), "inputs": inputs},
        code_files(settings, codebook),
        settings.model.decoding.top_k,
        protocols,
        unavailable_file,
    )
