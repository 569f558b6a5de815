"""How a stored model is opened for ranking."""

from __future__ import annotations

from jobs.common.artefacts import additions_store, by_identity, code_files
from jobs.common.settings import Settings
from jobs.transforms.ranking import RankingTask
from model.generation import Generation


def model_task(
    settings: Settings, model: Generation, protocols: tuple[bool, ...] = (True,), unavailable_file: str = ""
) -> RankingTask:
    """Rank with a model generation and the codes it was trained on, items added since included."""
    codebook = by_identity(settings, model.manifest.parents["codebook"])
    inputs = {
        "model": model.uri,
        "codebook": codebook.uri,
        "codebook_additions": [addition.uri for addition in additions_store(settings, codebook).complete()],
    }
    return RankingTask(
        settings.method,
        {"config": settings.model_json(), "inputs": inputs},
        code_files(settings, codebook),
        settings.model.decoding.top_k,
        protocols,
        unavailable_file,
    )
