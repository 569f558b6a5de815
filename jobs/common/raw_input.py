"""The raw sources, as the settings describe them."""

from __future__ import annotations

import fsspec
from pyspark.sql import DataFrame, SparkSession

from jobs.common.contracts import RAW_CATALOGUE, RAW_EVENT
from jobs.common.settings import Input, Settings
from jobs.transforms.validate import Source, map_columns, with_event_day
from model.generation import digest


def events_source(settings: Input) -> Source:
    return Source(
        settings.events_uri,
        "input.events_uri",
        RAW_EVENT,
        settings.event_columns,
        "input.event_columns",
        settings.event_filter,
        "input.event_filter",
    )


def catalogue_source(settings: Input) -> Source:
    return Source(
        settings.catalogue_uri,
        "input.catalogue_uri",
        RAW_CATALOGUE,
        settings.catalogue_columns,
        "input.catalogue_columns",
        settings.catalogue_filter,
        "input.catalogue_filter",
    )


def read_raw_events(spark: SparkSession, settings: Settings) -> DataFrame:
    """The raw events, as `map_columns` and `with_event_day` give them."""
    mapped = _read(spark, settings.input, events_source(settings.input))
    return with_event_day(mapped, settings.quality.max_clock_skew_minutes)


def read_raw_catalogue(spark: SparkSession, settings: Settings) -> DataFrame:
    """The raw catalogue, as `map_columns` gives it."""
    return _read(spark, settings.input, catalogue_source(settings.input))


def _read(spark: SparkSession, settings: Input, source: Source) -> DataFrame:
    return map_columns(spark.read.format(settings.format).options(**settings.options).load(source.uri), source)


def fingerprint(source: Source) -> str:
    """ "URI@digest" over the names and sizes of its files, for manifests: shows whether the input is still the same.

    ValueError, naming the setting, when there are no files.
    """
    fs, path = fsspec.url_to_fs(source.uri)
    listing = fs.glob(path, detail=True) if any(sign in path for sign in "*?[") else fs.find(path, detail=True)
    files = sorted(
        (name.removeprefix(path), info["size"])
        for name, info in listing.items()
        if not name.rpartition("/")[2].startswith(("_", "."))
    )
    if not files:
        raise ValueError(
            f"{source.uri} does not exist or holds no files. It is what the setting {source.uri_setting} names."
        )
    return f"{source.uri}@{digest(files)}"
