"""The training set, through Feast's own point-in-time join: no leak, each target once, the split ends in time."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.build_item_text import build_item_text
from jobs.build_training_set import FILES, build_training_set
from jobs.build_user_histories import build_user_histories
from jobs.common.artefacts import store
from jobs.common.contracts import TRAINING_ITEM, TRAINING_SEQUENCE, TRAINING_VALIDATION, daily_table
from jobs.common.settings import Settings
from jobs.common.step import Split
from jobs.ingest import ingest
from model.data.targets import LATER_ITEMS
from model.generation import Generation, Manifest
from tests.jobs.raw_data import D1, D2, D3, D4, at, event, film, write_catalogue, write_events

REPO = Path(__file__).parents[2] / "feature_repo"
H, W = 2, 4


class Window(NamedTuple):
    user: str
    ds: str
    context: list[str]
    targets: list[str]


class Lake:
    def __init__(self, spark: SparkSession, folder: Path) -> None:
        self.spark = spark
        self.settings = Settings(
            lake_uri=str(folder / "lake"),
            input={"events_uri": str(folder / "raw/events"), "catalogue_uri": str(folder / "raw/catalogue")},
            event_types={"buy": {}, "view": {"target": False}},
            feast={"repo": str(REPO), "user_key": "customer"},
            promotion={"holdout_days": 1},
            model={"history_items": H, "window_items": W},
        )

    def build_tables(self, start: dt.date, end: dt.date) -> None:
        for step in (ingest, build_user_histories, build_item_text):
            step(self.spark, self.settings, start, end)

    def build(self, ds: dt.date, split: Split = Split.all) -> Generation:
        return build_training_set(self.spark, self.settings, ds, split)


def items_of(generation: Generation) -> list[dict[str, Any]]:
    rows = pyarrow.dataset.dataset(generation.path("items")).to_table().to_pylist()
    return sorted(rows, key=lambda row: row["item_index"])


def windows_of(generation: Generation) -> list[Window]:
    """The windows by item id, context apart from targets; every other event of a day counts as context."""
    names = [item["item_id"] for item in items_of(generation)]
    found = []
    for row in pyarrow.dataset.dataset(generation.path("sequences")).to_table().to_pylist():
        assert len(row["items"]) == len(row["targets"]) == W
        pairs = list(zip(row["items"], row["targets"], strict=True))
        shown = {hit: [names[item] for item, flag in pairs if flag == hit and item >= 0] for hit in (0, 1)}
        assert not any(flag for item, flag in pairs if item < 0)
        found.append(Window(row["user_id"], row["ds"], shown[0], shown[1]))
    return sorted(found)


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Three days: u buys on all of them, v only views on the first, w comes on the third with a long day."""
    lake = Lake(spark, tmp_path_factory.mktemp("training_set"))
    write_catalogue(lake.settings, *(film(item, at(D1)) for item in "abcde"), film("late", at(D3)))
    write_events(
        lake.settings,
        event("u", "a", at(D1, 1)),
        event("u", "b", at(D1, 2)),
        event("u", "c", at(D2, 1)),
        event("u", "d", at(D3, 1), "view"),
        event("u", "late", at(D3, 2)),
        event("v", "a", at(D1), "view"),
        event("v", "b", at(D3)),
        *(event("w", item, at(D3, hour)) for hour, item in enumerate("abcdeab")),
    )
    lake.build_tables(D1, D3)
    return lake


@pytest.fixture(scope="module")
def everything(lake: Lake) -> Generation:
    return lake.build(D3)


DAY_1_AND_2 = [
    Window("u", "2020-01-01", [], ["a", "b"]),
    Window("u", "2020-01-02", ["a", "b"], ["c"]),
]
DAY_3 = [
    Window("u", "2020-01-03", ["b", "c", "d"], ["late"]),
    Window("v", "2020-01-03", ["a"], ["b"]),
    Window("w", "2020-01-03", [], ["a", "b", "c", "d"]),
    Window("w", "2020-01-03", ["c", "d"], ["e", "a"]),
    Window("w", "2020-01-03", ["e", "a"], ["b"]),
]


def test_each_day_is_predicted_from_what_was_known_at_midnight(everything: Generation) -> None:
    assert windows_of(everything) == sorted(DAY_1_AND_2 + DAY_3)
    assert everything.manifest.counts == {"sequences": 7, "targets": 12, "users": 3, "items": 6, "validation": 0}
    assert set(everything.manifest.parents.values()) == {"events/000001", "user_history/000001", "item_text/000001"}


def test_tables_have_the_columns_of_the_contract(spark: SparkSession, everything: Generation) -> None:
    contracts = {"items": TRAINING_ITEM, "sequences": TRAINING_SEQUENCE, "validation": TRAINING_VALIDATION}
    for name, contract in contracts.items():
        assert spark.read.parquet(everything.path(name)).dtypes == [
            (field.name, field.dataType.simpleString()) for field in contract
        ]
    assert set(everything.manifest.checksums) == set(contracts)


def test_windows_name_what_their_user_takes_later(everything: Generation) -> None:
    """Views as well, and all of the day's own, whatever window they stand in."""
    rows = pyarrow.dataset.dataset(everything.path("sequences")).to_table().to_pylist()
    names = [item["item_id"] for item in items_of(everything)]
    later = {(row["user_id"], row["ds"]): [names[item] for item in row["later"] if item >= 0] for row in rows}
    assert later == {
        ("u", "2020-01-01"): ["a", "b", "c", "d", "late"],
        ("u", "2020-01-02"): ["c", "d", "late"],
        ("u", "2020-01-03"): ["d", "late"],
        ("v", "2020-01-03"): ["b"],
        ("w", "2020-01-03"): ["a", "b", "c", "d", "e"],
    }
    assert {len(row["later"]) for row in rows} == {LATER_ITEMS}


def test_items_are_those_known_before_the_end_numbered_by_id(everything: Generation) -> None:
    assert [(row["item_index"], row["item_id"], row["text"]) for row in items_of(everything)] == [
        (index, item, "A film") for index, item in enumerate(["a", "b", "c", "d", "e", "late"])
    ]


def test_the_temporal_split_ends_before_the_holdout(lake: Lake) -> None:
    temporal = lake.build(D3, Split.temporal)
    assert windows_of(temporal) == DAY_1_AND_2
    assert [row["item_id"] for row in items_of(temporal)] == list("abcde"), "a later item is unknown"
    assert temporal.manifest.key == {"ds": "2020-01-03", "split": "temporal", "from": "2020-01-01", "to": "2020-01-02"}


def test_building_again_gives_the_same_files(lake: Lake, everything: Generation) -> None:
    again = lake.build(D3)
    assert again.attempt > everything.attempt
    assert again.manifest.checksums == everything.manifest.checksums
    tables = [
        [pq.read_table(file) for file in sorted(Path(generation.path("sequences")).glob("part-*.parquet"))]
        for generation in (everything, again)
    ]
    assert len(tables[0]) <= FILES
    assert all(one.equals(other) for one, other in zip(*tables, strict=True))


def test_events_of_the_future_change_no_row_of_the_past(lake: Lake, everything: Generation) -> None:
    write_events(
        lake.settings, event("u", "e", at(D3, 23)), event("u", "e", at(D4)), event("v", "e", at(D4)), part="planted"
    )
    lake.build_tables(D3, D4)
    planted = windows_of(lake.build(D4))
    assert [window for window in planted if window.ds < "2020-01-03"] == DAY_1_AND_2
    others = [window for window in planted if window.ds == "2020-01-03" and window.user != "u"]
    assert others == [window for window in DAY_3 if window.user != "u"]
    assert [window for window in planted if window.user == "u" and window.ds >= "2020-01-03"] == [
        Window("u", "2020-01-03", ["b", "c", "d"], ["late"]),
        Window("u", "2020-01-03", ["d", "late"], ["e"]),
        Window("u", "2020-01-04", ["late", "e"], ["e"]),
    ]


def test_a_planted_leak_is_caught(lake: Lake) -> None:
    """A history that claims to be known a day too early, at 00:00 of the very day whose events it holds."""
    table = daily_table(lake.settings, "user_history")
    honest = table.read(lake.spark, D2, D2).persist()
    early = honest.withColumn("event_timestamp", F.col("event_timestamp") - F.expr("INTERVAL 1 DAY"))
    table.write(early, D2, D2, Manifest())
    trained = len(store(lake.settings, "training_set", Split.all).complete())
    with pytest.raises(ValueError, match=r"1 histories hold events from after the moment.* first at 2020-01-02"):
        lake.build(D3)
    assert len(store(lake.settings, "training_set", Split.all).complete()) == trained
    table.write(honest, D2, D2, Manifest())


def test_missing_days_are_named_with_the_command(lake: Lake) -> None:
    ahead = dt.date(2020, 1, 9)
    with pytest.raises(ValueError, match=r"jobs\.ingest --from 2020-01-0. --to 2020-01-09"):
        lake.build(ahead)
    ingest(lake.spark, lake.settings, D4, ahead)
    with pytest.raises(ValueError, match=r"jobs\.build_user_histories --from 2020-01-0. --to 2020-01-09"):
        lake.build(ahead)
    with pytest.raises(ValueError, match=r"no day up to 2019-12-31.*holdout_days"):
        lake.build(D1, Split.temporal)


def test_nothing_to_learn_is_an_error_that_says_where_it_looked(lake: Lake) -> None:
    """The first day has a sale, and no event of the type `refund`."""
    settings = Settings(**lake.settings.model_dump() | {"event_types": {"refund": {}, "buy": {"target": False}}})
    with pytest.raises(ValueError, match=r"target type \(refund\) on 2020-01-01.*--split all"):
        build_training_set(lake.spark, settings, D1, Split.all)


def test_a_window_without_room_for_targets_is_a_mistake(lake: Lake) -> None:
    settings = Settings(**lake.settings.model_dump() | {"model": {"history_items": 4, "window_items": 4}})
    with pytest.raises(ValueError, match=r"model\.window_items = 4.*model\.history_items = 4"):
        build_training_set(lake.spark, settings, D1, Split.all)


def test_a_number_of_users_below_none_is_a_mistake(lake: Lake) -> None:
    settings = Settings(**lake.settings.model_dump() | {"model": {"validation_users": -1}})
    with pytest.raises(ValueError, match=r"model\.validation_users = -1"):
        build_training_set(lake.spark, settings, D1, Split.all)


def test_a_tenth_of_the_users_at_most_is_kept_to_validate_on(spark: SparkSession, tmp_path: Path) -> None:
    """Each of 31 users buys a, b, c and then an item that nobody buys twice."""
    lake = Lake(spark, tmp_path)
    own = {f"u{n:02}": f"own{n:02}" for n in range(31)}
    write_catalogue(lake.settings, *(film(item, at(D1)) for item in ["a", "b", "c", *own.values()]))
    write_events(
        lake.settings,
        *(event(user, each, at(D1, hour)) for user, item in own.items() for hour, each in enumerate(["a", "b"])),
        *(event(user, each, at(D2, hour)) for user, item in own.items() for hour, each in enumerate(["c", item])),
    )
    lake.build_tables(D1, D2)
    kept = lake.build(D2)
    names = [item["item_id"] for item in items_of(kept)]
    cases = pyarrow.dataset.dataset(kept.path("validation")).to_table().to_pylist()
    assert kept.manifest.counts == {"sequences": 62, "targets": 121, "users": 31, "items": 34, "validation": 3}
    assert kept.manifest.settings["validation_users"] == 200
    assert [[names[item] for item in case["items"]] for case in cases] == [["b", "c"]] * 3
    targets = {names[case["target"]] for case in cases}
    found = windows_of(kept)
    for user, item in own.items():
        newest = Window(user, "2020-01-02", ["a", "b"], ["c"] if item in targets else ["c", item])
        assert newest in found
        assert Window(user, "2020-01-01", [], ["a", "b"]) in found
    later = {
        (row["user_id"], names[item])
        for row in pyarrow.dataset.dataset(kept.path("sequences")).to_table().to_pylist()
        for item in row["later"]
        if item >= 0
    }
    assert later >= set(own.items()), "what is kept out of the windows is no negative either"

    settings = Settings(
        **lake.settings.model_dump() | {"model": {"history_items": H, "window_items": W, "validation_users": 2}}
    )
    fewer = build_training_set(spark, settings, D2, Split.all)
    assert fewer.manifest.counts["validation"] == 2
    assert {repr(case) for case in pyarrow.dataset.dataset(fewer.path("validation")).to_table().to_pylist()} < {
        repr(case) for case in cases
    }
