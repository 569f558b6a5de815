"""What a prune deletes, and that what it keeps can still be gone back to."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from jobs.cli import models
from jobs.common.artefacts import store
from jobs.common.ledger import Kind, Ledger
from jobs.common.promotions import champion_twin, live_verdict, verdicts
from jobs.common.settings import Settings
from jobs.prune import main
from jobs.rollback import find_target
from model.generation import Generation, Manifest


class Lake:
    """Models of three weeks, all promoted in their turn; lists were made with the first and the third."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.models = [self.trained_and_promoted() for _ in range(3)]
        for day, model in (("2024-05-01", self.models[0]), ("2024-05-15", self.models[2])):
            manifest = Manifest({"from": day, "to": day}, parents={"model": model.identity})
            self.commit("recommendations", manifest)

    def commit(self, name: str, manifest: Manifest) -> Generation:
        return store(self.settings, *name.split("/")).begin().commit(manifest)

    def trained_and_promoted(self) -> Generation:
        champion = champion_twin(self.settings)
        twin, model = (self.trained(split) for split in ("temporal", "all"))
        judged = {"challenger": twin.identity} | ({"champion": champion.identity} if champion else {})
        evaluation = self.commit("evaluation", Manifest(parents=judged))
        parents = {"live": model.identity, "twin": twin.identity, "evaluation": evaluation.identity}
        self.commit("promotion", Manifest(metrics={"promoted": True}, parents=parents))
        store(self.settings, "model", "all").point_to(model)
        return model

    def trained(self, split: str) -> Generation:
        codebook = self.commit(f"codebook/{split}", Manifest())
        self.commit(f"codebook_additions/{codebook.identity.replace('/', '-')}", self.child(codebook=codebook))
        return self.commit(f"model/{split}", self.child(codebook=codebook))

    @staticmethod
    def child(**parents: Generation) -> Manifest:
        return Manifest(parents={role: parent.identity for role, parent in parents.items()})

    def holds(self, name: str) -> list[int]:
        return store(self.settings, *name.split("/")).attempts()


@pytest.fixture
def lake(settings: Settings) -> Lake:
    return Lake(settings)


def test_a_model_that_is_kept_can_go_live_again(lake: Lake, settings: Settings, settings_file: Path) -> None:
    main(delete=True, settings_file=str(settings_file))
    first, _, third = lake.models
    for model in (first, third):
        models.use(model.identity, str(settings_file))
        parents = live_verdict(settings, model).manifest.parents
        twin = champion_twin(settings)
        assert twin is not None
        assert twin.identity == parents["twin"]
        assert parents["evaluation"] in {one.identity for one in store(settings, "evaluation").complete()}


def test_what_nothing_kept_needs_goes(lake: Lake, settings: Settings, settings_file: Path) -> None:
    everything = {"model/all", "model/temporal", "codebook/all", "codebook/temporal", "evaluation", "promotion"}
    everything |= {f"codebook_additions/codebook-{split}-00000{n}" for split in ("all", "temporal") for n in (1, 2, 3)}
    before = {name: lake.holds(name) for name in everything}
    main(settings_file=str(settings_file))
    assert {name: lake.holds(name) for name in everything} == before
    main(delete=True, settings_file=str(settings_file))
    # The second made no list; the third's evaluation compared it with the second's twin.
    for name in ("model/all", "codebook/all", "promotion", "evaluation"):
        assert lake.holds(name) == [1, 3], name
    for name in ("model/temporal", "codebook/temporal"):
        assert lake.holds(name) == [1, 2, 3], name
    for name in sorted(everything):
        if name.startswith("codebook_additions/"):
            assert lake.holds(name) == ([] if name.endswith("all-000002") else [1]), name
    assert len(verdicts(settings).complete()) == 2


def test_retractions_push_no_publish_out_and_a_smaller_number_can_be_followed_by_a_greater(
    settings: Settings, settings_file: Path
) -> None:
    ledger = Ledger(settings.lake_uri, 60)
    with ledger.lease("test") as lease:
        kinds: list[Kind] = ["publish", "publish", "publish", "retract", "retract"]
        for kind in kinds:
            begun, draft = ledger.begin(lease, kind, dt.datetime(2024, 5, 1, tzinfo=dt.UTC))
            ledger.finish(lease, begun, draft.commit(Manifest()), "recommendations/000001")
    main(keep_publishes=2, delete=True, settings_file=str(settings_file))
    assert [one.attempt for one in ledger.publications.complete()] == [2, 3, 4, 5]
    main(keep_publishes=1, delete=True, settings_file=str(settings_file))
    main(keep_publishes=7, delete=True, settings_file=str(settings_file))
    assert [one.attempt for one in ledger.publications.complete()] == [3, 4, 5]
    assert find_target(ledger, 3).number == 3
    with pytest.raises(ValueError, match=r"Publish 2 was deleted by prune\. Publishes that can come back: 3\."):
        find_target(ledger, 2)


def test_reports_stay(settings: Settings, settings_file: Path) -> None:
    for name in ("report", "data_report"):
        for day in ("2024-05-01", "2024-05-02"):
            store(settings, name).begin().commit(Manifest({"ds": day}, parents={"model": "model/all/000001"}))
    main(delete=True, settings_file=str(settings_file))
    assert [store(settings, name).attempts() for name in ("report", "data_report")] == [[1, 2], [1, 2]]
