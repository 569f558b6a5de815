"""Start a training function in processes of its own, on this machine or on Spark's GPU executors."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any

from pyspark.ml.torch.distributor import TorchDistributor

from jobs.common.settings import Training

MISTAKE = "mistake"


def launch(training: Training, entry: str, request: dict[str, Any]) -> dict[str, Any]:
    """Run `entry` ("package.module:function") with the request in every process; returns what the first one returns.

    What a single process raises as ValueError is raised here; of several it is a RuntimeError with the log's end.
    The driver itself imports no torch. Needs an active Spark session.
    """
    distributor = TorchDistributor(
        num_processes=training.processes, local_mode=not training.on_executors, use_gpu=training.use_gpu
    )
    metrics = distributor.run(_call, entry, request)
    assert isinstance(metrics, dict)
    if MISTAKE in metrics:
        raise ValueError(metrics[MISTAKE])
    return metrics


def _call(entry: str, request: dict[str, Any]) -> dict[str, Any]:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stdout)
    logging.getLogger("petastorm").setLevel(logging.WARNING)
    module, function = entry.split(":")
    try:
        metrics: dict[str, Any] = getattr(importlib.import_module(module), function)(request)
    except ValueError as error:
        # Of several processes the others would wait for this one: it has to fail.
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise
        return {MISTAKE: str(error)}
    return metrics
