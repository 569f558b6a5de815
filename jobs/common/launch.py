"""Call a training function here, or in processes of its own on this machine or on Spark's GPU executors."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

from pyspark.ml.torch.distributor import TorchDistributor

from jobs.common.settings import Training

MISTAKE = "mistake"


Call = tuple[str, dict[str, Any]]
"""A function as "package.module:function", and its request."""


def launch(training: Training, call: Call, further: Mapping[str, Call] | None = None) -> dict[str, Any]:
    """Make the call in every process; returns what the first one returns. That one alone then makes the further
    calls, and what they return is added by their names.

    A single process without a GPU is this one: there is nobody to wait for, and who kills the job kills the training.
    What a single process raises as ValueError is raised here; of several it is a RuntimeError with the log's end.
    Where there are others, the driver itself imports no torch, and a Spark session has to be active.
    """
    if training.processes == 1 and not training.on_executors and not training.use_gpu:
        return _results(call, further or {})
    distributor = TorchDistributor(
        num_processes=training.processes, local_mode=not training.on_executors, use_gpu=training.use_gpu
    )
    metrics = distributor.run(_work, call, further or {})
    assert isinstance(metrics, dict)
    if MISTAKE in metrics:
        raise ValueError(metrics[MISTAKE])
    return metrics


def _work(call: Call, further: Mapping[str, Call]) -> dict[str, Any]:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stdout)
    logging.getLogger("petastorm").setLevel(logging.WARNING)
    try:
        return _results(call, further if os.environ.get("RANK", "0") == "0" else {})
    except ValueError as error:
        # Of several processes the others would wait for this one: it has to fail.
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise
        return {MISTAKE: str(error)}


def _results(call: Call, further: Mapping[str, Call]) -> dict[str, Any]:
    metrics: dict[str, Any] = _made(call)
    return metrics | {name: _made(each) for name, each in further.items()}


def _made(call: Call) -> Any:
    entry, request = call
    module, function = entry.split(":")
    return getattr(importlib.import_module(module), function)(request)
