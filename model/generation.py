"""Generations: what one step hands to the next (ours).

A store is a directory of numbered attempts. An attempt is claimed by an atomic create, written whole, and becomes a
generation when its `manifest.json` appears, which is always the last file written. Nothing in a generation changes
afterwards. `CURRENT` is the store's pointer: it names one generation and moves in one atomic step, backwards too.

    store/
        000001.claim        an attempt somebody began
        000001/…            its files
        000001/manifest.json  present: finished; absent: never read
        CURRENT             {"attempt": 1}

URIs are fsspec's: a local path, s3://…, hdfs://….
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

MANIFEST = "manifest.json"
POINTER = "CURRENT"


@dataclass(frozen=True)
class Manifest:
    """What a generation says of itself. Holds no wall time: the same input writes the same manifest."""

    key: dict[str, str] = field(default_factory=dict)
    """What it covers, e.g. {"from": "2016-10-15", "to": "2016-10-16"} or {"split": "all"}."""
    counts: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    """The settings that shaped the content."""
    parents: dict[str, str] = field(default_factory=dict)
    """Role -> identity of each generation that this one was made from, e.g. {"codebook": "codebook/all/000002"}."""
    code_version: str = ""
    checksums: dict[str, str] = field(default_factory=dict)
    """Relative path -> "sha256:…", or a table's name -> an order-free sum over its rows."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Generation:
    """A finished attempt: its place, its number and its manifest."""

    uri: str
    attempt: int
    identity: str
    """Short name that stands in manifests: the store's name and the attempt, "codebook/all/000002"."""
    manifest: Manifest

    def path(self, *parts: str) -> str:
        return "/".join((self.uri, *parts))


@dataclass(frozen=True)
class Draft:
    """A claimed attempt that is being written. `commit` turns it into a generation; dropping it loses nothing."""

    store: GenerationStore
    attempt: int

    @property
    def uri(self) -> str:
        return self.store.attempt_uri(self.attempt)

    @property
    def identity(self) -> str:
        return self.store.identity(self.attempt)

    def path(self, *parts: str) -> str:
        return "/".join((self.uri, *parts))

    def commit(self, manifest: Manifest) -> Generation:
        """Write the manifest, which finishes the generation. Files must be complete before."""
        write_atomically(self.path(MANIFEST), manifest.to_json().encode())
        return self.store.get(self.attempt)


class GenerationStore:
    """The attempts under root/name; the name says what they are, wherever the root lies."""

    def __init__(self, root: str, name: str) -> None:
        self.name = name
        self.uri = f"{root.rstrip('/')}/{name}"
        self._fs, self._root = fsspec.url_to_fs(self.uri)

    def attempt_uri(self, attempt: int) -> str:
        return f"{self.uri}/{attempt:06d}"

    def identity(self, attempt: int) -> str:
        return f"{self.name}/{attempt:06d}"

    def begin(self) -> Draft:
        """Claim the next attempt: 1 + the greatest existing. Two claimants never get the same number."""
        self._fs.makedirs(self._root, exist_ok=True)
        while True:
            attempt = 1 + max(self._claims(), default=0)
            try:
                create_exclusively(f"{self.uri}/{attempt:06d}.claim", b"")
            except FileExistsError:
                continue
            return Draft(self, attempt)

    def get(self, attempt: int) -> Generation:
        """Raises ValueError when the attempt does not exist or did not finish."""
        try:
            text = self._fs.cat_file(f"{self._root}/{attempt:06d}/{MANIFEST}")
        except FileNotFoundError:
            raise ValueError(
                f"{self.attempt_uri(attempt)} has no {MANIFEST}: it does not exist or did not finish. Re-run its step."
            ) from None
        return Generation(self.attempt_uri(attempt), attempt, self.identity(attempt), Manifest.from_json(text))

    def complete(self) -> list[Generation]:
        """Every finished generation, oldest first."""
        if not self._fs.exists(self._root):
            return []
        finished = self._fs.glob(f"{self._root}/*/{MANIFEST}")
        return [self.get(n) for n in sorted(int(PurePosixPath(path).parent.name) for path in finished)]

    def latest(self) -> Generation | None:
        """The newest finished generation."""
        finished = self.complete()
        return finished[-1] if finished else None

    def current(self) -> Generation | None:
        """The generation that the pointer names; None when it was never set."""
        try:
            text = self._fs.cat_file(f"{self._root}/{POINTER}")
        except FileNotFoundError:
            return None
        return self.get(json.loads(text)["attempt"])

    def point_to(self, generation: Generation) -> None:
        """Move the pointer in one atomic step."""
        if generation.uri != self.attempt_uri(generation.attempt):
            raise ValueError(f"{generation.uri} is no generation of {self.uri}.")
        write_atomically(f"{self.uri}/{POINTER}", json.dumps({"attempt": generation.attempt}).encode())

    def attempts(self) -> list[int]:
        """Every attempt that has files, finished or not, oldest first."""
        names = (PurePosixPath(path).name for path in self._fs.ls(self._root, detail=False))
        return sorted(int(name) for name in names if name.isdigit())

    def _claims(self) -> list[int]:
        self._fs.invalidate_cache()  # an object store's listing may be remembered from before another claim
        names = (PurePosixPath(path).name for path in self._fs.ls(self._root, detail=False))
        return [int(name.removesuffix(".claim")) for name in names if name.endswith(".claim")]


def create_exclusively(uri: str, content: bytes) -> None:
    """Create a file that must not exist yet; FileExistsError when it does. Atomic on local disk and object stores."""
    fs, path = fsspec.url_to_fs(uri)
    if isinstance(fs, LocalFileSystem):
        # A hard link appears whole or not at all, which an exclusive open followed by a write does not promise.
        scratch = f"{path}.{uuid.uuid4().hex}"
        with open(scratch, "wb") as file:
            file.write(content)
        try:
            os.link(scratch, path)
        finally:
            Path(scratch).unlink()
    else:
        fs.pipe_file(path, content, mode="create")


def write_atomically(uri: str, content: bytes) -> None:
    """Put a file so that a reader sees the old content or the new, never a part. An object store's PUT does that."""
    fs, path = fsspec.url_to_fs(uri)
    if isinstance(fs, LocalFileSystem):
        fs.makedirs(os.path.dirname(path), exist_ok=True)
        scratch = f"{path}.{uuid.uuid4().hex}"
        with open(scratch, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).replace(path)
    else:
        fs.pipe_file(path, content)


def sha256(uri: str) -> str:
    """ "sha256:…" of a file, read in blocks."""
    with fsspec.open(uri, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Short stable name (16 hex digits) of a JSON-able value, the same in every process."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
