"""The online stores that benchmarks write to."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

STORES = {"sqlite": "feature_store.yaml", "redis": "feature_store_redis.yaml"}
"""Name -> the yaml file in feature_repo."""


@contextmanager
def online_store(store: str) -> Iterator[Redis | None]:
    """Settings that are read inside use this store; for Redis a server of our own, empty, on a free port."""
    os.environ["PRECOG_FEAST__CONFIG"] = STORES[store]
    try:
        if store == "sqlite":
            yield None
            return
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        os.environ["PRECOG_REDIS"] = f"127.0.0.1:{port}"
        command = ["redis-server", "--port", str(port), "--save", ""]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603
        try:
            client = Redis(port=port, retry=Retry(ConstantBackoff(0.1), 100))
            client.ping()
            yield client
        finally:
            process.terminate()
            process.wait()
    finally:
        del os.environ["PRECOG_FEAST__CONFIG"]
