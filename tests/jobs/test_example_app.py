"""The app that docs/example_app.py shows, against a real feature server, over SQLite and Redis."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests
from fastapi.testclient import TestClient

from jobs.common.feature_store import open_store
from tests.jobs.conftest import DAY, REPO, OnlineLake

POPULAR = {"item_ids": ["i5", "i4", "i3"], "scores": [3.0, 2.0, 1.0], "personal": False}


def example_app(address: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_app", REPO.parent / "docs" / "example_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.FEATURES = address  # type: ignore[attr-defined]
    return module


@pytest.fixture
def server(shop: OnlineLake) -> Iterator[str]:
    """The address of `feast serve` over the lake."""
    open_store(shop.settings)  # puts the lake's places into the environment
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yaml = REPO / shop.settings.feast.config
    command = [
        str(Path(sys.executable).parent / "feast"),
        "-c",
        str(REPO),
        "-f",
        str(yaml),
        "serve",
        "--port",
        f"{port}",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                requests.get(f"{address}/health", timeout=5)
                break
            # A server under load takes the connection before it can answer.
            except (requests.ConnectionError, requests.Timeout):
                time.sleep(0.25)
        else:
            pytest.fail(f"feast serve never answered at {address}")
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_an_app_shows_a_list_to_everybody(shop: OnlineLake, server: str) -> None:
    shop.write_lists(DAY, {"ann": ["i1", "i2"], "cyd": []})
    shop.publish(DAY)
    client = TestClient(example_app(server).app)

    def shown(user: str, **query: Any) -> dict[str, Any]:
        answer = client.get(f"/users/{user}", params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert page.pop("generated_at").startswith("2024-05-02T00:00:00")
        return dict(page)

    assert shown("ann") == {"item_ids": ["i1", "i2"], "scores": [0.0, -1.0], "personal": True}
    assert shown("ann", without=["i1"]) == {"item_ids": ["i2"], "scores": [-1.0], "personal": True}
    assert shown("ann", without=["i1", "i2"]) == POPULAR
    assert shown("cyd") == POPULAR
    assert shown("nobody") == POPULAR
    shop.retract("i2")
    assert shown("ann")["item_ids"] == ["i1"]


def test_without_a_feature_server_the_app_says_so() -> None:
    answer = TestClient(example_app("http://127.0.0.1:1").app).get("/users/ann")
    assert answer.status_code == 503
    assert "http://127.0.0.1:1" in answer.json()["detail"]
