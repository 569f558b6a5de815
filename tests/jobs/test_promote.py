"""The gate: what lets a model go live, what does not, and that it says why."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.common.artefacts import store
from jobs.common.promotions import champion_twin, verdicts
from jobs.common.settings import Settings
from jobs.promote import PAGE, main
from jobs.transforms.ranking import NO_NUMBERS
from model.evaluation.beyond import beyond
from model.evaluation.protocol import evaluate_lists
from model.generation import Generation, Manifest

DAY = dt.datetime(2024, 5, 1, tzinfo=dt.UTC)
OTHER_DAY = dt.datetime(2024, 4, 24, tzinfo=dt.UTC)
LOSSES = {"title": [9.0, 9.0, 9.0], "next_item": [2.0, 1.0, 0.5]}
"""The second epoch was kept."""
OF_DAY = {"ds": "2024-05-01"}
USERS = 40
IDS = pa.array(["a", "b"])
RECIPE = {
    "model": {"method": "semantic_convergence", "finetune": {"epochs": 2}},
    "codebook": {"text_encoder": {"name": "minilm"}, "tokenizer": {"levels": 4}},
    "behaviour": {"text_encoder": {"name": "minilm"}, "behaviour": {"kind": "sasrec", "dim": 64}},
    "training_set": {"window_items": 40},
}


def evaluated(**hits: int) -> dict[str, Any]:
    """The figures of methods that find so many of the 40 users' items, of listed ones that all exist."""
    keys = [f"u{user:02}" for user in range(USERS)]
    tables = [
        pa.table(
            {
                "method": [method] * USERS,
                "masked": [masked] * USERS,
                "user_id": keys,
                "key": keys,
                "rank": pa.array([0] * found + [-1] * (USERS - found)),
            }
        )
        for method, found in hits.items()
        for masked in (True, False)
    ]
    cases = pa.table({"key": keys, "user_id": keys, "history_length": [1] * USERS, "target_count": [3] * USERS})
    lists = pa.record_batch({"key": keys, "rank": [0] * USERS, "item_ids": [["a"]] * USERS})
    shown = {method: beyond([lists], cases, IDS, np.array([1, 1])) for method in hits}
    return evaluate_lists(pa.concat_tables(tables)) | {"beyond": shown, "problems": {method: {} for method in hits}}


class Lake:
    """A judged model and its twin of all data, and perhaps a live one."""

    def __init__(self, settings: Settings, file: Path, champion: bool) -> None:
        self.settings, self.file = settings, file
        self.before = self.went_live() if champion else None
        self.champion = champion_twin(settings)

    def went_live(self) -> Generation:
        model, twin = self.model("all"), self.model("temporal")
        self.commit(
            "promotion", Manifest({}, {}, {"promoted": True}, {}, {"live": model.identity, "twin": twin.identity})
        )
        store(self.settings, "model", "all").point_to(model)
        return model

    def commit(self, name: str, manifest: Manifest) -> Generation:
        return store(self.settings, *name.split("/")).begin().commit(manifest)

    def model(
        self,
        split: str,
        losses: dict[str, list[float]] = LOSSES,
        best_epoch: int = 2,
        changed: dict[str, Any] | None = None,
        day: dt.datetime = DAY,
    ) -> Generation:
        """A model and what it was made from; `changed`: settings of some of these that are not RECIPE's."""
        key, settings = {"ds": day.date().isoformat(), "split": split}, RECIPE | (changed or {})
        settings["training_set"] = settings["training_set"] | {"holdout_days": 28 if split == "temporal" else 0}
        parents: dict[str, str] = {}
        for role in ("training_set", "behaviour", "codebook"):
            manifest = Manifest(key, {}, {"collisions_after": 0}, settings[role], dict(parents))
            parents[role] = self.commit(f"{role}/{split}", manifest).identity
        metrics = {"loss": losses, "best_epoch": best_epoch}
        return self.commit(f"model/{split}", Manifest(key, {}, metrics, settings["model"], parents))

    def judge(self, metrics: dict[str, Any], **candidate: Any) -> tuple[Generation, dict[str, Any], str]:
        """The model on all data, the verdict on it, and the page."""
        self.commit("evaluation", self.judgement(metrics))
        model = self.model("all", **candidate)
        main(DAY, str(self.file))
        verdict = verdicts(self.settings).latest()
        assert verdict is not None
        return model, verdict.manifest.metrics, Path(verdict.path(PAGE)).read_text()

    def judgement(self, metrics: dict[str, Any]) -> Manifest:
        parents = {"challenger": self.model("temporal").identity}
        if self.champion is not None:
            parents["champion"] = self.champion.identity
        return Manifest(OF_DAY, metrics=metrics, parents=parents)

    @property
    def live(self) -> str | None:
        live = store(self.settings, "model", "all").current()
        return live and live.identity


def failed(verdict: dict[str, Any]) -> list[str]:
    return [reason["text"] for reason in verdict["reasons"] if not reason["passed"]]


def test_what_beats_champion_and_baseline_goes_live(settings: Settings, settings_file: Path) -> None:
    lake = Lake(settings, settings_file, champion=True)
    model, verdict, page = lake.judge(evaluated(challenger=30, champion=15, popularity=5))
    assert (lake.live, verdict["promoted"], failed(verdict)) == (model.identity, True, [])
    assert f"{model.identity} goes live" in page
    assert page.count("✓") == len(verdict["reasons"]) == 9
    assert lake.before is not None
    assert f"jobs.cli.models use {lake.before.identity}" in page
    assert 'src="http' not in page


def test_what_is_not_better_than_the_champion_beyond_noise_stays_out(settings: Settings, settings_file: Path) -> None:
    lake = Lake(settings, settings_file, champion=True)
    model, verdict, page = lake.judge(evaluated(challenger=16, champion=15, popularity=1))
    assert lake.before is not None
    assert (lake.live, verdict["promoted"]) == (lake.before.identity, False)
    assert len(failed(verdict)) == 2
    assert all("champion" in text for text in failed(verdict))
    assert f"{model.identity} does not go live" in page
    assert f"{lake.before.identity} stays live" in page
    assert "jobs.cli.models use" not in page, "nothing is to be undone"
    assert page.count('<li class="fail">✗') == 2


def test_what_does_not_beat_a_baseline_stays_out(settings: Settings, settings_file: Path) -> None:
    lake = Lake(settings, settings_file, champion=True)
    _, verdict, _ = lake.judge(evaluated(challenger=30, champion=5, popularity=31))
    assert {text.split("'s,")[0] for text in failed(verdict)} == {"HR@10 - popularity", "NDCG@10 - popularity"}


def test_the_first_model_need_but_be_healthy(settings: Settings, settings_file: Path) -> None:
    lake = Lake(settings, settings_file, champion=False)
    model, verdict, page = lake.judge(evaluated(challenger=5, popularity=31))
    assert (lake.live, verdict["promoted"]) == (model.identity, True)
    assert page.count('<li class="moot">✗') == len(failed(verdict)) > 0
    assert "nothing was live, and then a healthy model is enough" in page


def test_an_evaluation_that_knows_nothing_of_the_live_model_lets_nothing_go_live(
    settings: Settings, settings_file: Path
) -> None:
    lake = Lake(settings, settings_file, champion=False)
    evaluation = lake.commit("evaluation", lake.judgement(evaluated(challenger=40, popularity=0)))
    live = lake.went_live()
    lake.model("all")
    main(DAY, str(settings_file))
    verdict = verdicts(settings).latest()
    assert verdict is not None
    assert verdict.manifest.parents["evaluation"] == evaluation.identity
    assert lake.live == live.identity
    [reason] = failed(verdict.manifest.metrics)
    assert reason.startswith("the evaluation compared with no champion, not with model/temporal/000002, the twin of")


def test_what_is_live_already_is_not_decided_on_again(settings: Settings, settings_file: Path) -> None:
    lake = Lake(settings, settings_file, champion=False)
    model, _, _ = lake.judge(evaluated(challenger=5, popularity=31))
    before = verdicts(settings).attempts()
    main(DAY, str(settings_file))
    assert lake.live == model.identity
    assert verdicts(settings).attempts() == before


@pytest.mark.parametrize(("popularity", "told"), [(0, "stays live"), (31, "would not go live again")])
def test_what_is_live_may_be_judged_anew_and_need_not_beat_itself(
    settings: Settings, settings_file: Path, popularity: int, told: str
) -> None:
    lake = Lake(settings, settings_file, champion=False)
    model, _, _ = lake.judge(evaluated(challenger=30, popularity=0))
    twin = champion_twin(settings)
    assert twin is not None
    parents = {"challenger": twin.identity, "champion": twin.identity}
    metrics = evaluated(challenger=30, champion=30, popularity=popularity)
    lake.commit("evaluation", Manifest(OF_DAY, metrics=metrics, parents=parents))
    main(DAY, str(settings_file))
    verdict = verdicts(settings).latest()
    assert verdict is not None
    assert lake.live == model.identity
    assert bool(popularity) == bool(failed(verdict.manifest.metrics)) != verdict.manifest.metrics["promoted"]
    page = Path(verdict.path(PAGE)).read_text()
    assert f"<h1>{model.identity} {told}</h1>" in page
    assert f"models use {model.identity}" not in page


def test_under_the_rule_always_what_is_worse_goes_live_and_the_page_says_why(
    settings: Settings, settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(settings, settings_file, champion=True)
    monkeypatch.setenv("PRECOG_PROMOTION__RULE", "always")
    model, verdict, page = lake.judge(evaluated(challenger=5, champion=30, popularity=31))
    assert (lake.live, verdict["promoted"]) == (model.identity, True)
    assert page.count('<li class="moot">✗') == len(failed(verdict)) > 0
    assert "under the rule “always” every model goes live" in page


@pytest.mark.parametrize(
    ("candidate", "problems", "reason"),
    [
        (
            {"changed": {"model": {"finetune": {"epochs": 9}}}},
            {},
            "the recipe is not that of model/temporal/000001, which was judged (model.finetune.epochs was 2, is 9; ",
        ),
        (
            {"changed": {"codebook": RECIPE["codebook"] | {"tokenizer": {"levels": 3}}}},
            {},
            "the recipe is not that of model/temporal/000001, which was judged (codebook.tokenizer.levels was 4, is 3)",
        ),
        (
            {"changed": {"behaviour": {"text_encoder": {"name": "e5"}, "behaviour": {"kind": "dccf"}}}},
            {},
            "the recipe is not that of model/temporal/000001, which was judged (behaviour.behaviour.dim was 64, is "
            "None; behaviour.behaviour.kind was sasrec, is dccf; behaviour.text_encoder.name was minilm, is e5)",
        ),
        ({"losses": {"next_item": [2.0, 1.11, 0.5]}}, {}, "loss on all data 1.110, of the judged model 1.000, "),
        ({"best_epoch": 1}, {}, "loss on all data 2.000, of the judged model 1.000, each of the epoch that was kept: "),
        ({"losses": {"title": [1.0, 1.0]}}, {}, "no loss says how well the next item is predicted (next_item, "),
        ({}, {NO_NUMBERS: 3}, "lists of model/temporal/000001 for which the scores are no numbers: 3 of 40"),
    ],
)
def test_an_unhealthy_model_stays_out_however_good(
    settings: Settings, settings_file: Path, candidate: dict[str, Any], problems: dict[str, int], reason: str
) -> None:
    lake = Lake(settings, settings_file, champion=False)
    figures = evaluated(challenger=40, popularity=0)
    figures["problems"]["challenger"] |= problems
    _, verdict, _ = lake.judge(figures, **candidate)
    assert (lake.live, verdict["promoted"]) == (None, False)
    assert any(text.startswith(reason) for text in failed(verdict))


def test_what_another_day_judged_or_trained_does_not_go_live(settings: Settings, settings_file: Path) -> None:
    lake = Lake(settings, settings_file, champion=False)
    lake.judge(evaluated(challenger=40, popularity=0))
    live = lake.live
    with pytest.raises(
        ValueError, match=r"evaluation \(the newest is of 2024-05-01\). Run: .* jobs\.evaluate --ds 2024-04"
    ):
        main(OTHER_DAY, str(settings_file))
    lake.model("all", day=OTHER_DAY)
    with pytest.raises(
        ValueError, match=r"model/all \(the newest is of 2024-04-24\). Run: .* jobs\.finetune --ds 2024-05"
    ):
        main(DAY, str(settings_file))
    assert lake.live == live
