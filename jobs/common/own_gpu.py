"""Which GPU a task on an executor may use. Imported there, so it needs nothing but pyspark."""

from __future__ import annotations

import os

from pyspark import TaskContext


def take_own_gpu() -> None:
    """Inside a task: torch is to see the GPUs that this task was given, and no others. Before torch looks for any."""
    context = TaskContext.get()
    if context is not None and (gpus := context.resources().get("gpu")):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus.addresses)
