"""Which model is what, and the way back to one that was live."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.common.artefacts import store
from jobs.common.promotions import verdicts
from jobs.common.settings import Settings
from model.generation import Manifest
from tests.shop import REPO

SCORE = {"methods": {"challenger": {"masked": {"NDCG@10": {"mean": 0.05, "low": 0.04, "high": 0.06}}}}}


@pytest.fixture
def lake(settings: Settings, settings_file: Path) -> Path:
    """Four models: one was live, one is, one was refused, one is new. The evaluation of the first is gone."""
    evaluation = store(settings, "evaluation").begin().commit(Manifest(metrics=SCORE)).identity
    models = store(settings, "model", "all")
    for number, promoted in enumerate((True, True, False, None), start=1):
        parents = {"codebook": "codebook/all/000001", "training_set": f"training_set/all/{number:06}"}
        model = models.begin().commit(Manifest(key={"ds": f"2024-05-0{number}"}, parents=parents))
        if promoted is None:
            continue
        judged_by = {"live": model.identity, "twin": f"model/temporal/{number:06}"}
        judged_by["evaluation"] = "evaluation/000099" if number == 1 else evaluation
        verdicts(settings).begin().commit(Manifest(metrics={"promoted": promoted}, parents=judged_by))
        if promoted:
            models.point_to(model)
    return settings_file


def models(lake: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.cli.models", *arguments, "--settings", str(lake)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)


def listed(lake: Path) -> list[tuple[str, str]]:
    """(part, score) of each model, newest first."""
    lines = [line.split("│") for line in models(lake, "list").stdout.splitlines() if "model/all" in line]
    return [(cells[3].strip(), cells[5].strip()) for cells in lines]


def test_each_model_has_its_part_and_its_score(lake: Path) -> None:
    score = "0.0500 [0.0400, 0.0600]"
    assert listed(lake) == [("not judged", ""), ("refused", score), ("live", score), ("was live", "pruned")]


def test_what_was_live_can_be_live_again_and_nothing_else(lake: Path) -> None:
    assert models(lake, "use", "model/all/000001").returncode == 0
    assert [part for part, _ in listed(lake)] == ["not judged", "refused", "was live", "live"]
    for other, why in (("model/all/000003", "made model/all/000003 live"), ("model/all/9", "There is no model")):
        refused = models(lake, "use", other)
        assert refused.returncode == 2
        assert why in refused.stderr
    assert [part for part, _ in listed(lake)] == ["not judged", "refused", "was live", "live"]
