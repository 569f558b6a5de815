"""Which generations the training steps hand to each other, and the codes of all items that hang on a codebook."""

from __future__ import annotations

import datetime as dt
from typing import Any

import fsspec

from jobs.common.code_version import code_version
from jobs.common.settings import Settings
from model.generation import Draft, Generation, GenerationStore, Manifest, sha256


def store(settings: Settings, *parts: str) -> GenerationStore:
    """The generation store of a name, e.g. store(settings, "codebook", "all")."""
    return GenerationStore(settings.lake_uri, "/".join(parts))


def newest(settings: Settings, name: str, split: str, day: dt.date, step: str) -> Generation:
    """The newest finished generation of a training artefact, which must be of the day.

    ValueError that names the step to run first.
    """
    return newest_of_day(store(settings, name, split), day, f"jobs.{step} --ds {day} --split {split}")


def newest_of_day(generations: GenerationStore, day: dt.date, command: str) -> Generation:
    """The newest finished generation, which must be of the day. ValueError that names the command to run first."""
    generation = generations.latest()
    if generation is None or generation.manifest.key["ds"] != day.isoformat():
        found = f" (the newest is of {generation.manifest.key['ds']})" if generation else ""
        raise ValueError(f"There is nothing of {day} in {generations.uri}{found}. Run: python -m {command}")
    return generation


def by_identity(settings: Settings, identity: str) -> Generation:
    """The generation that a manifest names, e.g. "codebook/all/000002". ValueError when it is gone."""
    *parts, attempt = identity.split("/")
    return store(settings, *parts).get(int(attempt))


def method_of(generation: Generation) -> str:
    """The method that a codebook or a model was trained for; those that do not say so are older than the second."""
    return str(generation.manifest.settings.get("method", "semantic_convergence"))


def live_model(settings: Settings) -> Generation:
    """The promoted model. ValueError when nothing was ever promoted."""
    model = store(settings, "model", "all").current()
    if model is None:
        raise ValueError(f"No model is live in {settings.lake_uri}. Run the train DAG, or jobs.promote.")
    return model


def additions_store(settings: Settings, codebook: Generation) -> GenerationStore:
    """The append-only log of codes given to new items inside a codebook version."""
    return store(settings, "codebook_additions", codebook.identity.replace("/", "-"))


def code_files(settings: Settings, codebook: Generation) -> list[str]:
    """Parquet files of every item that has a code, in the order of item_index: the codebook's, then the additions."""
    additions = additions_store(settings, codebook).complete()
    return [generation.path("items.parquet") for generation in (codebook, *additions)]


def descendant(
    settings: Settings, name: str, split: str, day: dt.date, training_set: Generation, step: str
) -> Generation:
    """The newest generation of a training artefact, which must come from that training set.

    ValueError when it does not: an old artefact must not slip in behind a step that failed.
    """
    generation = newest(settings, name, split, day, step)
    if generation.manifest.parents["training_set"] != training_set.identity:
        raise ValueError(
            f"{generation.identity} was made from {generation.manifest.parents['training_set']}, but the newest is "
            f"{training_set.identity}. Run: python -m jobs.{step} --ds {day} --split {split}"
        )
    return generation


def commit_trained(
    settings: Settings,
    draft: Draft,
    day: dt.date,
    split: str,
    metrics: dict[str, Any],
    parents: dict[str, Generation],
    shapes: tuple[str, ...],
) -> Generation:
    """Finish a trained artefact: checksums of its files, its parents, the settings (names in `shapes`) behind it."""
    fs, root = fsspec.url_to_fs(draft.uri)
    files = sorted(file.removeprefix(root).lstrip("/") for file in fs.find(root))
    model_settings = settings.model_json()
    return draft.commit(
        Manifest(
            key={"ds": day.isoformat(), "split": split},
            metrics=metrics,
            settings={"method": settings.method, **{name: model_settings[name] for name in shapes}},
            parents={role: generation.identity for role, generation in parents.items()},
            code_version=code_version(),
            checksums={file: sha256(draft.path(file)) for file in files},
        )
    )


def remove(uri: str) -> None:
    """A folder with all that is in it, if it is there."""
    fs, path = fsspec.url_to_fs(uri)
    if fs.exists(path):
        fs.rm(path, recursive=True)
