"""What a run of the sample was made from, so that the next `make run` starts only what changed.

A run's fingerprint is taken before it starts, over everything it reads: the manifests of its input tables, the raw
files, the live model, the settings, and our code. The record of a finished run holds it; a broken run's record names
the tasks that had finished, which need not run again while the fingerprint is the same.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import fsspec

from jobs.common.artefacts import store
from jobs.common.code_version import code_version
from jobs.common.contracts import daily_table
from jobs.common.settings import Settings
from model.generation import digest, sha256, write_atomically

RAW = "raw"
LIVE_MODEL = "live model"
REPO = Path(__file__).resolve().parents[2]
DEFINITIONS = ("dags", "feature_repo")
"""Folders whose files shape a run and are no part of the code version."""


@dataclass
class Record:
    fingerprint: str
    finished_tasks: list[str] = field(default_factory=list)
    complete: bool = False

    @classmethod
    def load(cls, path: Path) -> Record | None:
        return cls(**json.loads(path.read_text())) if path.is_file() else None

    def save(self, path: Path) -> None:
        write_atomically(str(path), json.dumps(asdict(self), indent=2).encode())


def fingerprint(settings: Settings, command: Iterable[str], reads: Iterable[str], until: dt.date) -> str:
    """Digest of a run: its command, what it reads up to the day `until`, settings and code.

    `reads` are names of daily tables, RAW for the raw files, LIVE_MODEL for the promoted model.
    """
    definitions = sorted(path for folder in DEFINITIONS for path in (REPO / folder).glob("*.*") if path.is_file())
    return digest(
        {
            "command": list(command),
            "inputs": {name: _states(settings, name, until) for name in reads},
            "settings": settings.model_dump(mode="json"),
            "code": [code_version(), *(sha256(str(path)) for path in definitions)],
        }
    )


def _states(settings: Settings, name: str, until: dt.date) -> list[str]:
    if name == RAW:
        return [
            sha256(file) for uri in (settings.input.events_uri, settings.input.catalogue_uri) for file in _files(uri)
        ]
    if name == LIVE_MODEL:
        model = store(settings, "model", "all").current()
        return [model.identity] if model else []
    # By content: a day that was built again, with the same rows, changes nothing for who reads it.
    return [
        f"{generation.manifest.checksums} {first}..{last}"
        for generation, first, last in daily_table(settings, name).owners(None, until)
    ]


def _files(uri: str) -> list[str]:
    fs, path = fsspec.url_to_fs(uri)
    return sorted(fs.find(path))
