"""Raw events and catalogues as a source would lay them out, for tests of the steps that read them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.common.settings import Settings

D1, D2, D3, D4 = (dt.date(2020, 1, day) for day in (1, 2, 3, 4))

EVENTS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("event_time", pa.timestamp("us", tz="UTC")),
        ("event_type", pa.string()),
        ("event_seq", pa.int64()),
    ]
)
CATALOGUE = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("description", pa.string()),
        ("categories", pa.list_(pa.string())),
        ("available", pa.bool_()),
        ("updated_at", pa.timestamp("us", tz="UTC")),
    ]
)


def at(day: dt.date, hour: int = 12, minute: int = 0) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(hour, minute), tzinfo=dt.UTC)


def event(
    user: str | None, item: str | None, time: Any, kind: str | None = "buy", seq: int | None = None
) -> tuple[Any, ...]:
    return user, item, time, kind, seq


def film(item: str | None, updated_at: Any, title: str | None = "A film", **other: Any) -> tuple[Any, ...]:
    return item, title, other.get("description"), other.get("categories", []), other.get("available", True), updated_at


def write_events(settings: Settings, *events: tuple[Any, ...], part: str = "part-0") -> None:
    _write(settings.input.events_uri, part, EVENTS, events)


def write_catalogue(settings: Settings, *films: tuple[Any, ...], part: str = "part-0") -> None:
    _write(settings.input.catalogue_uri, part, CATALOGUE, films)


def _write(folder: str, part: str, schema: pa.Schema, rows: tuple[tuple[Any, ...], ...]) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays = [pa.array(list(column), field.type) for column, field in zip(columns, schema, strict=True)]
    pq.write_table(pa.table(arrays, schema=schema), Path(folder, f"{part}.parquet"))
