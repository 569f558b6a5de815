"""Progress in a log: how far, and how long still."""

from __future__ import annotations

import pytest

from model import progress
from model.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_is_that_of_the_steps_so_far(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    work = Progress("finetune", 100)
    clock[0] += 10
    work.advance(20, "loss 1.0")
    assert capsys.readouterr().out == "progress finetune 20% 20/100 step 10 s, 40 s left loss 1.0\n"


def test_what_an_earlier_run_did_says_nothing_of_the_time_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    work = Progress("finetune", 100, done=80)
    clock[0] += 10
    work.advance(5)
    assert capsys.readouterr().out == "progress finetune 85% 85/100 step 10 s, 30 s left\n"
