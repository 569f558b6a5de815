"""Which model is what, and the way back to one that was live."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.common.artefacts import store
from jobs.common.promotions import verdicts
from jobs.common.settings import Settings
from model.generation import Generation, Manifest
from tests.shop import REPO

SCORE = {"methods": {"challenger": {"masked": {"NDCG@10": {"mean": 0.05, "low": 0.04, "high": 0.06}}}}}


@pytest.fixture
def lake(settings: Settings, settings_file: Path) -> Path:
    """Four models: one was live, one is, one was refused, one is new. The evaluation of the first is gone.

    Their twins, and two further ones: the first was judged and lost, the second is in training.
    """
    models = store(settings, "model", "all")
    for number, promoted in enumerate((True, True, False, None), start=1):
        model, twin = (commit(settings, split, number) for split in ("all", "temporal"))
        if promoted is None:
            continue
        judged_by = {"live": model.identity, "twin": twin.identity}
        judged_by["evaluation"] = "evaluation/000099" if number == 1 else evaluate(settings, twin).identity
        verdicts(settings).begin().commit(Manifest(metrics={"promoted": promoted}, parents=judged_by))
        if promoted:
            models.point_to(model)
    evaluate(settings, commit(settings, "temporal", 5))
    commit(settings, "temporal", 6)
    return settings_file


def commit(settings: Settings, split: str, number: int) -> Generation:
    parents = {"codebook": f"codebook/{split}/{number:06}", "training_set": f"training_set/{split}/{number:06}"}
    return store(settings, "model", split).begin().commit(Manifest({"ds": f"2024-05-0{number}"}, parents=parents))


def evaluate(settings: Settings, challenger: Generation) -> Generation:
    manifest = Manifest(metrics=SCORE, parents={"challenger": challenger.identity})
    return store(settings, "evaluation").begin().commit(manifest)


def models(lake: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.cli.models", *arguments, "--settings", str(lake)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)


def listed(lake: Path, split: str = "all") -> list[tuple[str, ...]]:
    """(part, twin, score, codebook) of each model of a split, newest first."""
    lines = [[cell.strip() for cell in line.split("│")] for line in models(lake, "list").stdout.splitlines()]
    return [(*cells[3:7],) for cells in lines if len(cells) > 1 and cells[1].startswith(f"model/{split}/")]


FIGURE = "0.0500 [0.0400, 0.0600]"


def test_each_model_has_its_part_and_its_score(lake: Path) -> None:
    assert listed(lake) == [
        ("not judged", "", "", "codebook/all/000004"),
        ("refused", "model/temporal/000003", FIGURE, "codebook/all/000003"),
        ("live", "model/temporal/000002", FIGURE, "codebook/all/000002"),
        ("was live", "model/temporal/000001", "pruned", "codebook/all/000001"),
    ]


def test_challengers_are_listed_too_those_that_lost_among_them(lake: Path) -> None:
    assert listed(lake, "temporal") == [
        ("not judged", "", "", "codebook/temporal/000006"),
        ("judged", "", FIGURE, "codebook/temporal/000005"),
        ("not judged", "", "", "codebook/temporal/000004"),
        ("judged", "model/all/000003", FIGURE, "codebook/temporal/000003"),
        ("judged", "model/all/000002", FIGURE, "codebook/temporal/000002"),
        ("judged", "model/all/000001", "", "codebook/temporal/000001"),
    ]


def test_what_was_live_can_be_live_again_and_nothing_else(lake: Path) -> None:
    assert models(lake, "use", "model/all/000001").returncode == 0
    assert [part for part, *_ in listed(lake)] == ["not judged", "refused", "was live", "live"]
    for other, why in (("model/all/000003", "made model/all/000003 live"), ("model/all/9", "There is no model")):
        refused = models(lake, "use", other)
        assert refused.returncode == 2
        assert why in refused.stderr
    assert [part for part, *_ in listed(lake)] == ["not judged", "refused", "was live", "live"]


def test_a_later_refusal_does_not_make_forgotten_that_a_model_was_live(lake: Path, settings: Settings) -> None:
    again = {"live": "model/all/000001", "twin": "model/temporal/000004", "evaluation": "evaluation/000099"}
    verdicts(settings).begin().commit(Manifest(metrics={"promoted": False}, parents=again))
    assert listed(lake)[-1] == ("was live", "model/temporal/000001", "pruned", "codebook/all/000001")


def test_a_lake_without_models_is_named(settings: Settings, settings_file: Path) -> None:
    told = models(settings_file, "list")
    assert (told.returncode, told.stdout) == (
        0,
        f"No model in {settings.lake_uri} yet: the train DAG makes the first.\n",
    )
