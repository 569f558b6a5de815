"""How a benchmark says what it measured: one line a figure, and the same as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

RESULTS = Path("build/benchmarks")


@dataclass(frozen=True)
class Figure:
    name: str
    value: float
    goal: str = ""
    """ ">=20" or "<=0.05"; empty for a figure that has no goal at this size."""

    def __str__(self) -> str:
        return f"figure {self.name} value={self.value:.4g}" + (f" goal{self.goal}" if self.goal else "")


def publish(benchmark: str, size: str, figures: list[Figure]) -> None:
    """Print the figures and write build/benchmarks/<benchmark>.json. `size` says what was run, in words."""
    print(f"{benchmark}: {size}")
    for figure in figures:
        print(figure)
    RESULTS.mkdir(parents=True, exist_ok=True)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    content = {"size": size, "machine": machine, "figures": [asdict(figure) for figure in figures]}
    (RESULTS / f"{benchmark}.json").write_text(json.dumps(content, indent=2))


def interleaved_seconds(rounds: int, *sides: Callable[[], object]) -> list[float]:
    """Median seconds of each side; the sides take turns, so that a slow moment of the machine hits all."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, seconds in zip(sides, times, strict=True):
            started = perf_counter()
            side()
            seconds.append(perf_counter() - started)
    return [median(seconds) for seconds in times]
