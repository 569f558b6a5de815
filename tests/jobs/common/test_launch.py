from __future__ import annotations

import os
from typing import Any

import pytest

from jobs.common import launch
from jobs.common.settings import Training

ENTRY = "model.behaviour.train:train_behaviour"
MISTAKEN: dict[str, Any] = {"config": {"nonsense": 1}}


@pytest.mark.parametrize("on_executors", [False, True])
def test_a_users_mistake_comes_out_of_the_training_process_as_one(spark: Any, on_executors: bool) -> None:
    with pytest.raises(ValueError, match=r"unknown key\(s\) nonsense"):
        launch.launch(Training(on_executors=on_executors), (ENTRY, MISTAKEN))


def test_a_single_process_without_a_gpu_is_this_one() -> None:
    assert launch.launch(Training(), (f"{__name__}:who", {}))["process"] == os.getpid()


def test_of_several_processes_one_must_not_leave_the_others_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"unknown key\(s\) nonsense"):
        launch._work((ENTRY, MISTAKEN), {})


@pytest.mark.parametrize(("rank", "made"), [("0", {"given": "a", "then": {"given": "b"}}), ("1", {"given": "a"})])
def test_the_first_process_alone_makes_the_further_calls(
    monkeypatch: pytest.MonkeyPatch, rank: str, made: dict[str, Any]
) -> None:
    monkeypatch.setenv("RANK", rank)
    entry = f"{__name__}:answer"
    assert launch._work((entry, {"given": "a"}), {"then": (entry, {"given": "b"})}) == made


def who(request: dict[str, Any]) -> dict[str, Any]:
    return {"process": os.getpid()}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    return dict(request)
