from __future__ import annotations

from typing import Any

import pytest

from jobs.common import launch
from jobs.common.settings import Training

ENTRY = "model.behaviour.train:train_behaviour"
MISTAKEN: dict[str, Any] = {"config": {"nonsense": 1}}


def test_a_users_mistake_comes_out_of_the_training_process_as_one(spark: Any) -> None:
    with pytest.raises(ValueError, match=r"unknown key\(s\) nonsense"):
        launch.launch(Training(), ENTRY, MISTAKEN)


def test_of_several_processes_one_must_not_leave_the_others_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"unknown key\(s\) nonsense"):
        launch._call(ENTRY, MISTAKEN)
