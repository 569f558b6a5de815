"""One self-contained HTML page about the day's run: what changed, volumes, quality, verdict, training, codes, users.

Reads   recommendations, events and quarantine of the day and of the day before, and what was published of them; the
        live model, its codebook, verdict and evaluation
Writes  report: report.html

    python -m jobs.report --ds 2016-10-16
"""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.common import timings
from jobs.common.artefacts import additions_store, by_identity, store
from jobs.common.code_version import code_version
from jobs.common.codebook_plots import plot_churn, plot_picture, plot_usage
from jobs.common.contracts import daily_table
from jobs.common.pages import WIDTH, png, render
from jobs.common.promotions import live_verdict
from jobs.common.publishing import ledger_of
from jobs.common.quality_plots import estimate, plot_methods, plot_segments
from jobs.common.settings import Settings, load_settings
from jobs.common.spark import open_spark
from jobs.common.step import Day, SettingsFile, run
from jobs.transforms.snapshot import newest_per_key
from model.evaluation.protocol import METRICS
from model.generation import Generation, Manifest, write_atomically
from model.recommender.tasks import TASKS

log = logging.getLogger("report")

SHOWN_USERS, SHOWN_ITEMS = 10, 5
SHOWN_METRICS = ("HR@10", "NDCG@10")
"""On a phone."""
TILES = ("events", "users with a list", "users on the fallback", "items with a code")
QUARANTINED = "quarantined: "


def main(ds: Day, settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    day = ds.date()
    lists, earlier = _of_day(settings, "recommendations", day), _day_before(settings, day)
    model = by_identity(settings, lists.manifest.parents["model"])
    codebook = by_identity(settings, lists.manifest.parents["codebook"])
    verdict = live_verdict(settings, model)
    evaluation = by_identity(settings, verdict.manifest.parents["evaluation"])
    twin = by_identity(settings, verdict.manifest.parents["twin"])
    with open_spark(settings, "report") as spark:
        users = _users(spark, settings, day, earlier)
        facts, facts_before = (_facts(spark, settings, one) if one else {} for one in (day, earlier))
        problems = _problems(spark, settings, day)
    page = render(
        "report.html.j2",
        day=day,
        model=model,
        codebook=codebook,
        tiles={name: value for name, value in facts.items() if name in TILES},
        earlier=earlier,
        changes=changes(facts_before, facts),
        lists=_made(lists),
        published=_published(settings, lists),
        problems=problems,
        quarantined=_quarantined(_of_day(settings, "events", day)),
        quality=evaluation.manifest.metrics,
        metric_names=list(METRICS),
        shown=SHOWN_METRICS,
        methods_plot=plot_methods(evaluation.manifest.metrics),
        segments_plot=plot_segments(evaluation.manifest.metrics["beyond"])
        if "beyond" in evaluation.manifest.metrics
        else None,
        estimate=estimate,
        verdict=verdict.manifest.metrics,
        loss_plot=plot_losses({"judged": twin, "live": model}),
        trained={"judged": twin.manifest.metrics, "live": model.manifest.metrics},
        health=codebook.manifest.metrics,
        codebook_plot=plot_usage(codebook.manifest.metrics),
        codebook_picture=_picture(codebook),
        churn_plot=plot_churn(codebook.manifest.metrics) if codebook.manifest.metrics.get("towers") else None,
        users=users,
        seconds=timings.of_day(settings, day),
        cost_per_hour=settings.cost_per_hour,
        parents=lists.manifest.parents,
    )
    draft = store(settings, "report").begin()
    write_atomically(draft.path("report.html"), page.encode())
    parents = {"recommendations": lists.identity, "evaluation": evaluation.identity, "model": model.identity}
    draft.commit(Manifest(key={"ds": day.isoformat()}, parents=parents, code_version=code_version()))
    log.info("report: %s", draft.path("report.html"))


def changes(before: dict[str, int | str], now: dict[str, int | str]) -> list[tuple[str, str, str, str]]:
    """(fact, before, now, change) of what both days know; the change in percent, of a name whether it is another."""
    rows = []
    for name, value in now.items():
        old = before.get(name)
        if isinstance(value, int) and isinstance(old, int):
            change = f"{100 * (value - old) / old:+.1f}%" if old else ("" if value == old else "new")
            rows.append((name, f"{old:,}", f"{value:,}", change))
        elif old is not None:
            rows.append((name, str(old), str(value), "" if value == old else "changed"))
    return rows


def _day_before(settings: Settings, day: dt.date) -> dt.date | None:
    """The newest day before that has lists."""
    owners = daily_table(settings, "recommendations").owners(None, day - dt.timedelta(days=1))
    return owners[-1][2] if owners else None


def _facts(spark: SparkSession, settings: Settings, day: dt.date) -> dict[str, int | str]:
    """What a day's lists were made of."""
    lists = _of_day(settings, "recommendations", day).manifest
    rows = daily_table(settings, "recommendations").read(spark, day, day)
    fallbacks = rows.where("source = 'fallback'").count()
    facts: dict[str, int | str] = {"users with a list": rows.count() - fallbacks, "users on the fallback": fallbacks}
    for events, _, _ in daily_table(settings, "events").owners(day, day):
        facts |= {"events": events.manifest.counts["events"]}
        facts |= {"rows in quarantine": sum(_quarantined(events).values())}
    found = daily_table(settings, "item_text").read(spark, None, day)
    facts["items in the catalogue"] = newest_per_key(found, "item_id").where("available").count()
    identity = lists.parents["codebook"]
    facts["items with a code"] = coded_items(settings, by_identity(settings, identity), day)
    return facts | {"model": lists.parents["model"], "codes": identity}


def coded_items(settings: Settings, codebook: Generation, day: dt.date) -> int:
    """How many items had a code at the end of a day: the codebook's own, and those added up to it."""
    added = (one.manifest for one in additions_store(settings, codebook).complete())
    until = day.isoformat()
    return int(codebook.manifest.metrics["items"]) + sum(one.counts["items"] for one in added if one.key["ds"] <= until)


def _quarantined(events: Generation) -> dict[str, int]:
    return {reason: n for reason, n in events.manifest.counts.items() if reason.startswith(QUARANTINED)}


def _problems(spark: SparkSession, settings: Settings, day: dt.date) -> dict[str, int]:
    """Users by what is wrong with their lists."""
    flagged = daily_table(settings, "recommendations").read(spark, day, day).where("problem is not null")
    return {row.problem: row["count"] for row in flagged.groupBy("problem").count().orderBy("problem").collect()}


def _made(lists: Generation) -> dict[str, int]:
    """How many lists were made and how many used again; nothing where an older version did not count."""
    counts = lists.manifest.counts
    again = counts.get("used again")
    return {} if again is None else {"ranked": counts["rows"] - again, "used_again": again}


def _published(settings: Settings, lists: Generation) -> dict[str, Any] | None:
    """What the gate found of the lists; None unless they were published, nothing where an older version did so."""
    newest_first = reversed(ledger_of(settings).publications.complete())
    own = (one.manifest for one in newest_first if one.manifest.parents["recommendations"] == lists.identity)
    return next((one.metrics for one in own if one.key["kind"] == "publish"), None)


def _of_day(settings: Settings, table: str, day: dt.date) -> Generation:
    """The generation that holds a day. ValueError when there is none."""
    owners = daily_table(settings, table).owners(day, day)
    if not owners:
        raise ValueError(f"There are no {table} of {day}: run the day's steps before its report.")
    return owners[0][0]


def _users(spark: SparkSession, settings: Settings, day: dt.date, earlier: dt.date | None) -> list[dict[str, Any]]:
    """Ten users, those ranked on this day first, then by a hash: the titles of their history, of their list, and of the
    list before it. They are not named.
    """
    table = daily_table(settings, "recommendations")
    lists = table.read(spark, day, day).where("source = 'model'")
    anew = F.col("made_ds") == F.col("ds")
    shown = lists.orderBy(anew.desc(), F.xxhash64("user_id"), "user_id").limit(SHOWN_USERS)
    histories = daily_table(settings, "user_history").read(spark, None, day).join(shown, "user_id", "left_semi")
    newest = newest_per_key(histories, "user_id").select("user_id", F.reverse("item_ids").alias("item_ids"))
    titles = newest_per_key(daily_table(settings, "item_text").read(spark, None, day), "item_id")
    frames = {"history": newest, "recommended": shown}
    if earlier is not None:
        frames["before"] = table.read(spark, earlier, earlier).join(shown, "user_id", "left_semi")
    users: dict[str, dict[str, Any]] = {}
    for part, frame in frames.items():
        for row in _titles(frame, titles).orderBy("user_id").collect():
            users.setdefault(row["user_id"], {"before": []})[part] = row["titles"]
    first = [row["user_id"] for row in shown.collect()]
    return [users[user] for user in first if user in users]


def _titles(lists: DataFrame, titles: DataFrame) -> DataFrame:
    """(user_id, titles): the first titles of each list."""
    placed = lists.select("user_id", F.posexplode(F.slice("item_ids", 1, SHOWN_ITEMS)).alias("place", "item_id"))
    ordered = F.array_sort(F.collect_list(F.struct("place", "title")))["title"]
    return placed.join(titles, "item_id").groupBy("user_id").agg(ordered.alias("titles"))


def _picture(codebook: Generation) -> str | None:
    """None for a codebook of an older version, which kept none."""
    file = "picture.safetensors"
    return plot_picture(codebook.path(file)) if file in codebook.manifest.checksums else None


def plot_losses(models: dict[str, Generation]) -> str:
    """A panel per family of tasks: loss over epochs, the judged model (dashed) beside the live one. Two to a row, so
    that a phone shows them in a size that can be read.
    """
    panels: dict[str, list[str]] = {}
    for model in models.values():
        for task in model.manifest.metrics["loss"]:
            family = TASKS[task].family.value if task in TASKS else task  # a model of an older version knows others
            panels[family] = [*dict.fromkeys([*panels.get(family, []), task])]
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(WIDTH, 3.5 * rows), layout="constrained")
    places = figure.subfigures(rows, 2, squeeze=False).flat
    for (family, tasks), place in zip(panels.items(), places, strict=False):
        axes = place.subplots()
        for (name, model), style in zip(models.items(), ("--", "-"), strict=True):
            for number, task in enumerate(tasks):
                values = model.manifest.metrics["loss"].get(task, [])
                label = task if name == "live" else None
                axes.plot(range(1, len(values) + 1), values, style, color=f"C{number}", marker=".", label=label)
        axes.set(title=family, xlabel="epoch", ylabel="nats per token")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        place.legend(fontsize="x-small", loc="outside lower center")
    return png(figure)


if __name__ == "__main__":
    run(main)
