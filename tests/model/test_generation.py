"""Generations: claimed once, read only when finished, pointed to in one step."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model.generation import GenerationStore, Manifest, create_exclusively, digest, sha256, write_atomically


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> GenerationStore:
    if request.param == "local":
        return GenerationStore(str(tmp_path), "codebook/all")
    return GenerationStore(f"memory://{tmp_path.name}", "codebook/all")


def test_an_attempt_without_manifest_is_never_read(store: GenerationStore) -> None:
    killed = store.begin()
    write_atomically(killed.path("rows.json"), b"half")
    assert store.complete() == []
    assert store.latest() is None
    with pytest.raises(ValueError, match=r"000001 has no manifest\.json"):
        store.get(killed.attempt)
    finished = store.begin().commit(Manifest(counts={"rows": 3}))
    assert finished.attempt == 2
    assert store.latest() == finished
    assert finished.manifest.counts == {"rows": 3}


def test_identity_names_the_store_and_the_attempt(store: GenerationStore) -> None:
    assert store.begin().commit(Manifest()).identity == "codebook/all/000001"


def test_pointer_moves_forwards_and_back(store: GenerationStore) -> None:
    assert store.current() is None
    first, second = (store.begin().commit(Manifest()) for _ in range(2))
    store.point_to(second)
    assert store.current() == second
    store.point_to(first)
    assert store.current() == first


def test_pointer_refuses_another_stores_generation(store: GenerationStore, tmp_path: Path) -> None:
    stranger = GenerationStore(str(tmp_path), "other").begin().commit(Manifest())
    with pytest.raises(ValueError, match="is no generation of"):
        store.point_to(stranger)


def test_parallel_claims_never_share_a_number(tmp_path: Path) -> None:
    store = GenerationStore(str(tmp_path), "events")
    with ThreadPoolExecutor(8) as pool:
        attempts = list(pool.map(lambda _: store.begin().attempt, range(40)))
    assert sorted(attempts) == list(range(1, 41))


def test_exclusive_create_refuses_a_second_writer(tmp_path: Path) -> None:
    uri = str(tmp_path / "lease")
    create_exclusively(uri, b"mine")
    with pytest.raises(FileExistsError):
        create_exclusively(uri, b"yours")
    assert Path(uri).read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [Path(uri)]


def test_manifest_survives_its_json() -> None:
    manifest = Manifest(
        {"split": "all"}, {"rows": 1}, {"loss": [1.5]}, {"a": {"b": 2}}, {"p": "q"}, "v", {"f": "sha256:0"}
    )
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_digests_are_stable(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"abc")
    assert sha256(str(file)) == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1}) != digest({"a": 1, "b": 2})
