"""Two training processes, started by what torchrun starts them with."""

from __future__ import annotations

import faulthandler
import multiprocessing
import runpy
import sys
from pathlib import Path

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

# One server imports what all of them need; they are its forks. To import it takes longer than what they do.
multiprocessing.set_forkserver_preload(["model.recommender.ttds", "model.recommender.rsllm.train"])

SECONDS = 240


def run_two(*command: str | Path) -> None:
    """ChildFailedError if one of them failed. `command`: a script, or -m and a module, and arguments."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="forkserver",
        monitor_interval=0.05,
        max_restarts=0,
    )
    elastic_launch(config, _run)([str(each) for each in command])


def _run(command: list[str]) -> None:
    faulthandler.dump_traceback_later(SECONDS, exit=True)  # one that waits for the other would do so for ever
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        runpy.run_path(command[0], run_name="__main__")
