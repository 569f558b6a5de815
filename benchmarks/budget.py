"""Long benchmarks in pieces, and where they ran."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class BudgetError(Exception):
    """Raised where the run happens to be; what was made is there, and trainings have their checkpoints."""


@contextmanager
def budget(minutes: float | None) -> Iterator[None]:
    def over(*_: object) -> None:
        raise BudgetError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, 60 * (minutes or 0))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
