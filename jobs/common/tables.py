"""Daily tables: rows that belong to days, kept as generations that each cover a range of days.

A bootstrap writes one generation for years, a daily run one for its day. A day is read from the newest finished
generation that covers it, so a rebuilt day replaces the old one in the moment its manifest appears, readers never see
half a day, and the order in which days were built does not matter.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Container
from functools import reduce

from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from model.generation import Draft, Generation, GenerationStore, Manifest

DAY_COLUMN = "ds"


def write_rows(
    df: DataFrame,
    draft: Draft,
    name: str,
    *sort: str,
    options: dict[str, str] | None = None,
    required: Collection[str] = (),
) -> tuple[int, str]:
    """Write a table of a draft as Parquet. Returns the row count and an order-free checksum, both taken on the way.

    `sort` orders the rows inside each file, for small files and good pruning. `options` are those of Parquet's writer.
    ValueError when a column of `required` holds a null: the draft must not be committed then.
    """
    observation = Observation()
    checksum = F.sum(F.xxhash64(*sorted(df.columns)).cast("decimal(20,0)"))
    nulls = [F.count_if(F.col(column).isNull()).alias(f"null {column}") for column in required]
    observed = df.observe(observation, F.count(F.lit(1)).alias("rows"), checksum.alias("checksum"), *nulls)
    ordered = observed.sortWithinPartitions(*sort) if sort else observed
    ordered.write.options(**(options or {})).parquet(draft.path(name))
    found = [
        f"{observation.get[f'null {column}']} in {column}" for column in required if observation.get[f"null {column}"]
    ]
    if found:
        raise ValueError(f"{draft.identity} would hold nulls where its contract allows none: {', '.join(found)}.")
    return int(observation.get["rows"]), f"sum(xxhash64):{observation.get['checksum'] or 0}"


def _days(generation: Generation) -> tuple[dt.date, dt.date]:
    """The first and the last day that a generation of a daily table covers."""
    key = generation.manifest.key
    return dt.date.fromisoformat(key["from"]), dt.date.fromisoformat(key["to"])


class DailyTable:
    """One daily table in the lake. Its schema is explicit, and has the day as the date column `ds`."""

    def __init__(self, lake_uri: str, name: str, schema: StructType) -> None:
        assert DAY_COLUMN in schema.fieldNames()
        self.name, self.schema = name, schema
        self.store = GenerationStore(lake_uri, name)

    def write(self, df: DataFrame, start: dt.date, end: dt.date, manifest: Manifest, *sort: str) -> Generation:
        """Write the rows of the days start..end (both included) as one generation. An empty day is a finished day.

        ValueError, and nothing is written that anybody reads, when a column that is not nullable holds a null.
        """
        draft = self.store.begin()
        columns = [F.col(field.name).cast(field.dataType) for field in self.schema]
        required = [field.name for field in self.schema if not field.nullable]
        rows, checksum = write_rows(df.select(*columns), draft, "rows", *(sort or (DAY_COLUMN,)), required=required)
        finished = Manifest(
            key={"from": start.isoformat(), "to": end.isoformat()},
            counts={"rows": rows, **manifest.counts},
            metrics=manifest.metrics,
            settings=manifest.settings,
            parents=manifest.parents,
            code_version=manifest.code_version,
            checksums={"rows": checksum},
        )
        return draft.commit(finished)

    def owners(
        self, start: dt.date | None, end: dt.date, among: Container[str] | None = None
    ) -> list[tuple[Generation, dt.date, dt.date]]:
        """Which generation each stretch of days up to `end` is read from, oldest day first.

        `among` (identities) asks how it was when only those generations existed.
        """
        free = [(start or dt.date.min, end)]
        taken = []
        for generation in reversed(self.store.complete()):
            if among is not None and generation.identity not in among:
                continue
            first, last = _days(generation)
            rest = []
            for low, high in free:
                inner_low, inner_high = max(low, first), min(high, last)
                if inner_low > inner_high:
                    rest.append((low, high))
                    continue
                taken.append((generation, inner_low, inner_high))
                if low < inner_low:
                    rest.append((low, inner_low - dt.timedelta(days=1)))
                if inner_high < high:
                    rest.append((inner_high + dt.timedelta(days=1), high))
            free = rest
        return sorted(taken, key=lambda owner: owner[1])

    def read(
        self, spark: SparkSession, start: dt.date | None, end: dt.date, among: Container[str] | None = None
    ) -> DataFrame:
        """Rows of the days start..end, both included; `start` None: from the beginning. Missing days have no rows.

        `among`: see `owners`.
        """
        whole, parts = [], []
        for generation, low, high in self.owners(start, end, among):
            path = generation.path("rows")
            if (low, high) == _days(generation):
                whole.append(path)
            else:
                in_days = F.col(DAY_COLUMN).between(F.lit(low), F.lit(high))
                parts.append(spark.read.schema(self.schema).parquet(path).where(in_days))
        # One scan for all that are read whole: a plan with one for each would grow by every day that was ever built.
        if whole or not parts:
            parts.append(
                spark.read.schema(self.schema).parquet(*whole) if whole else spark.createDataFrame([], self.schema)
            )
        return reduce(DataFrame.unionByName, parts)

    def was_read(self, parents: Collection[str], until: dt.date, end: dt.date) -> bool:
        """Whether what was made from `parents` (identities), of the days up to `until`, saw every row up to `end`."""
        return until >= end and all(generation.identity in parents for generation, _, _ in self.owners(None, end))

    def parents(self, start: dt.date | None, end: dt.date) -> dict[str, str]:
        """For manifests: the generations that `read` with these days reads from."""
        names = sorted({generation.identity for generation, _, _ in self.owners(start, end)})
        return {f"{self.name}[{i}]": name for i, name in enumerate(names)}
