"""Fixtures for the whole suite: one Spark session, and settings on a lake of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.common.settings import Settings


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    from jobs.common.spark import open_spark

    settings = Settings(
        input={"events_uri": "", "catalogue_uri": ""},
        event_types={"click": {}},
        spark={"master": "local[2]", "shuffle_partitions": 2},
    )
    with open_spark(settings, "tests") as session:
        yield session


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Two event types: `buy` (target, masks seen) and `view` (neither)."""
    return Settings(
        lake_uri=str(tmp_path / "lake"),
        input={"events_uri": str(tmp_path / "raw/events"), "catalogue_uri": str(tmp_path / "raw/catalogue")},
        event_types={"buy": {}, "view": {"weight": 0.1, "target": False, "masks_seen": False}},
        spark={"master": "local[2]", "shuffle_partitions": 2},
        promotion={"rule": "always", "holdout_days": 30},
    )
