"""Fixtures for the whole suite: one Spark session, and settings on a lake of the test's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from jobs.common.settings import Settings

# The models of the tests are tiny: more threads would only wait for each other. Processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# pyspark takes a main module without a file, as pytest-xdist's workers have, for a run of its doctests, and exits.
if not hasattr(sys.modules["__main__"], "__file__"):
    sys.modules["__main__"].__file__ = __file__


LONGEST = ("test_chain.py", "test_publish.py", "test_chain_methods.py", "test_cluster.py", "test_result_sizes.py")
"""They come first, in this order: one worker builds the `shop` while the other has something that needs none, and
neither waits long for the other at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kill-every-step",
        action="store_true",
        help="Kill every step once, not one of each kind (minutes).",
    )
    parser.addoption("--airflow-services", action="store_true", help="Start Airflow's own services, too (minutes).")


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    from jobs.cli.sample_airflow import NO_GENERATED_CODE, QUICK_JVM
    from jobs.common.spark import open_spark

    os.environ.setdefault("SPARK_SUBMIT_OPTS", f"{QUICK_JVM} {NO_GENERATED_CODE}")  # the tests' data are small
    settings = Settings(
        input={"events_uri": "", "catalogue_uri": ""},
        event_types={"click": {}},
        spark={"master": "local[2]", "shuffle_partitions": 2},
    )
    with open_spark(settings, "tests") as session:
        yield session


@pytest.fixture(scope="session")
def shop(spark: Any, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Any:
    """A whole lake, made by the whole chain: see tests/shop.py. Tests leave its raw data and its live model alone.

    Workers have a copy each of the one that the first of them to ask for it builds.
    """
    from tests.shop import SECONDS, build_shop, shop_in

    own = tmp_path_factory.getbasetemp()
    first = (own if worker_id == "master" else own.parent) / "first_shop"
    with FileLock(first.with_suffix(".lock")):
        built = shop_in(first) if (first / SECONDS).exists() else build_shop(first)
    return built.copy(own / "shop")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_on(tmp_path)


@pytest.fixture
def settings_file(settings: Settings, tmp_path: Path) -> Path:
    """For steps and tools that read a file: the lake of `settings`, a gate, and no raw data."""
    file = tmp_path / "settings.toml"
    file.write_text(
        f"""
        lake_uri = "{settings.lake_uri}"
        input = {{ events_uri = "", catalogue_uri = "" }}
        event_types = {{ buy = {{}} }}
        """
    )
    return file


def settings_on(folder: Path) -> Settings:
    """Lake and raw data in that folder; two event types: `buy` (target, masks seen) and `view` (neither)."""
    return Settings(
        lake_uri=str(folder / "lake"),
        input={"events_uri": str(folder / "raw/events"), "catalogue_uri": str(folder / "raw/catalogue")},
        event_types={"buy": {}, "view": {"weight": 0.1, "target": False, "masks_seen": False}},
        spark={"master": "local[2]", "shuffle_partitions": 2},
        promotion={"rule": "always", "holdout_days": 30},
    )
