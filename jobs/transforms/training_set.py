"""Training sequences: per user and active day, what was known at 00:00 and then the day's own events (ours).

The events of a long day are cut into windows of W items. Window k covers the positions [k (W - H), k (W - H) + W) of
context + day, so it begins with the H items before its first target, and every event is a target in exactly one window:

    context (c <= H)  day
    ccc               dddddddd|dddd|dd        targets of windows 0, 1, 2
    [        W       ]
            [   H    |W-H ]

H = history_items, W = window_items.

Every window also names what its user takes on its day or later, which are no negatives for its targets. Of the users
who were active last the newest target is kept out of the windows, as a case to validate on.
"""

from __future__ import annotations

from collections.abc import Iterable

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from jobs.common.contracts import EVENT_ORDER
from model.data.targets import LATER_ITEMS, TOO_MANY

PAD = -1


def active_days(events: DataFrame) -> DataFrame:
    """The moments to ask for histories: user_id, event_timestamp (00:00 of each day that the user was active)."""
    return events.select("user_id", F.col("ds").cast("timestamp").alias("event_timestamp")).distinct()


def before_last_targets(events: DataFrame, target_types: Iterable[str], held_out: int) -> DataFrame:
    """Each user's events before the `held_out` last of a target type; a user with fewer of them has none left."""
    is_target = F.col("event_type").isin(*target_types)
    newest_first = Window.partitionBy("user_id").orderBy(*(F.desc(name) for name in EVENT_ORDER))
    targets_after = F.sum(is_target.cast("int")).over(newest_first.rowsBetween(Window.unboundedPreceding, -1))
    return (
        events.withColumn("targets_after", F.coalesce(targets_after, F.lit(0)))
        .where(F.col("targets_after") >= held_out)
        .drop("targets_after")
    )


def training_items(item_text: DataFrame) -> DataFrame:
    """Rows of the training set's items: item_index 0..N-1 in the order of item_id. `item_text` has one row per item."""
    # One task numbers all items: a catalogue fits, and the index must have no holes.
    index = F.row_number().over(Window.orderBy("item_id")) - 1
    return item_text.select(index.cast("int").alias("item_index"), "item_id", "title", "text", "text_hash")


def day_sequences(
    events: DataFrame, histories: DataFrame, items: DataFrame, target_types: Iterable[str], history_items: int
) -> DataFrame:
    """Per user and active day: context, then the day's events in order, without items that have no index.

    `histories`: user_id, event_timestamp (00:00 of the active day), item_ids (oldest first; null for a new user).
    Columns: user_id, ds, entries (array of struct position, item_index, is_context, is_target), context (its length).
    """
    days = events.groupBy("user_id", "ds").agg(F.array_sort(F.collect_list(F.struct(*EVENT_ORDER))).alias("day"))
    before = histories.select("user_id", F.to_date("event_timestamp").alias("ds"), "item_ids")
    known = F.coalesce("item_ids", F.array().cast("array<string>"))
    newest = F.slice(known, F.greatest(F.size(known) - history_items, F.lit(0)) + 1, history_items)
    context = F.transform(
        newest,
        lambda item: F.struct(item.alias("item_id"), F.lit(True).alias("is_context"), F.lit(False).alias("is_target")),
    )
    own = F.transform(
        "day",
        lambda event: F.struct(
            event["item_id"].alias("item_id"),
            F.lit(False).alias("is_context"),
            event["event_type"].isin(*target_types).alias("is_target"),
        ),
    )
    return (
        days.join(before, ["user_id", "ds"], "left")
        .select("user_id", "ds", F.posexplode(F.concat(context, own)).alias("position", "entry"))
        .select("user_id", "ds", "position", "entry.*")
        .join(items.select("item_id", "item_index"), "item_id")
        .groupBy("user_id", "ds")
        .agg(
            F.array_sort(F.collect_list(F.struct("position", "item_index", "is_context", "is_target"))).alias(
                "entries"
            ),
            F.count_if("is_context").cast("int").alias("context"),
        )
    )


def windows(sequences: DataFrame, history_items: int, window_items: int) -> DataFrame:
    """Windows of what `day_sequences` gives, numbered by `k` in their day; those without a target are left out.

    Columns: user_id, ds (string), k, items (array<int>, W), targets (array<int>, W).
    """
    assert 0 < history_items < window_items
    step = window_items - history_items
    last = F.greatest(F.ceil((F.size("entries") - window_items) / step), F.lit(0))
    cut = sequences.select("*", F.explode(F.sequence(F.lit(0), last.cast("int"))).alias("k")).select(
        "user_id",
        "ds",
        "k",
        F.slice("entries", F.col("k") * step + 1, window_items).alias("window"),
        F.when(F.col("k") == 0, F.col("context")).otherwise(history_items).alias("first_target"),
    )
    item_indices = F.transform("window", lambda entry: entry["item_index"])
    targets = F.transform("window", lambda entry, i: (entry["is_target"] & (i >= F.col("first_target"))).cast("int"))
    padded = cut.select(
        "user_id",
        F.col("ds").cast("string").alias("ds"),
        "k",
        _padded(item_indices, window_items).alias("items"),
        _padded(targets, window_items, 0).alias("targets"),
    )
    return padded.where(F.array_contains("targets", 1))


def last_days(events: DataFrame, items: DataFrame) -> DataFrame:
    """Per user: user_id, taken (array of struct item_index, ds: the last day that the user took it on), by item_index.

    Of any event type. One more than LATER_ITEMS of the newest last days, however many a user has: whether an item was
    taken from some day on follows from its last day, and more of them than that are too many to name on that day too.
    """
    taken = events.join(items.select("item_id", "item_index"), "item_id").groupBy("user_id", "item_index")
    newest_first = Window.partitionBy("user_id").orderBy(F.desc("ds"), "item_index")
    return (
        taken.agg(F.max("ds").alias("ds"))
        .withColumn("place", F.row_number().over(newest_first))
        .where(F.col("place") <= LATER_ITEMS + 1)
        .groupBy("user_id")
        .agg(F.array_sort(F.collect_list(F.struct("item_index", "ds"))).alias("taken"))
    )


def with_later(cut: DataFrame, days: DataFrame) -> DataFrame:
    """Adds `later` (array<int>, LATER_ITEMS; see there) to windows, from what `last_days` gives of all their users.

    All of the window's day counts, what stands before the window as well.
    """
    from_then = F.filter("taken", lambda item: item["ds"] >= F.col("ds").cast("date"))["item_index"]
    named = F.when(F.size("named") > LATER_ITEMS, F.array(F.lit(TOO_MANY))).otherwise(F.col("named"))
    return (
        cut.join(days, "user_id", "left")
        .withColumn("named", from_then)
        .withColumn("later", _padded(named, LATER_ITEMS))
        .drop("taken", "named")
    )


def drawn_windows(cut: DataFrame, most_users: int) -> DataFrame:
    """The newest windows (user_id, ds, k) of the `most_users` users whose windows are newest; a hash breaks ties.

    What is learnt on these cases is for the days to come, so they are the latest that there are. Only windows with at
    least two targets: with one alone, a window whose last target is taken away would teach nothing.
    """
    targets = F.size(F.filter("targets", lambda target: target == 1)).alias("targets")
    newest = cut.groupBy("user_id").agg(F.max(F.struct("ds", "k", targets)).alias("newest"))
    return (
        newest.where("newest.targets >= 2")
        .select("user_id", "newest.ds", "newest.k")
        .orderBy(F.desc("ds"), F.xxhash64("user_id"), "user_id")
        .limit(most_users)
    )


def without_last_target(cut: DataFrame, drawn: DataFrame) -> DataFrame:
    """The windows, of which the drawn ones end before their last target."""
    marked = cut.join(F.broadcast(drawn.withColumn("is_drawn", F.lit(True))), ["user_id", "ds", "k"], "left")
    end = F.when(F.col("is_drawn"), _last_target()).otherwise(F.size("items"))
    return (
        marked.withColumn("end", end)
        .withColumn("items", F.transform("items", lambda item, i: F.when(i < F.col("end"), item).otherwise(PAD)))
        .withColumn("targets", F.transform("targets", lambda hit, i: F.when(i < F.col("end"), hit).otherwise(0)))
        .drop("is_drawn", "end")
    )


def validation_cases(cut: DataFrame, drawn: DataFrame, history_items: int) -> DataFrame:
    """The last target of each drawn window: items (array<int>, H: what stands before it, oldest first), target."""
    length = F.least(F.col("end"), F.lit(history_items))
    before = F.slice("items", F.col("end") - length + 1, length)
    return (
        cut.join(F.broadcast(drawn), ["user_id", "ds", "k"])
        .withColumn("end", _last_target())
        .select(_padded(before, history_items).alias("items"), F.get("items", F.col("end")).alias("target"))
    )


def _last_target() -> Column:
    """0-based place of a window's last target."""
    return (F.size("targets") - F.array_position(F.reverse("targets"), 1)).cast("int")


def _padded(values: Column, length: int, fill: int = PAD) -> Column:
    return F.concat(values, F.array_repeat(F.lit(fill), length - F.size(values)))
