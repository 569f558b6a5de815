"""One self-contained HTML page about the day's run: volumes, quality, verdict, training, codes, ten users.

Reads   recommendations, events and quarantine of the day, and what was published of them; the live model, its codebook,
        verdict and evaluation
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
from jobs.common.artefacts import by_identity, store
from jobs.common.code_version import code_version
from jobs.common.codebook_plots import plot_picture, plot_usage
from jobs.common.contracts import daily_table
from jobs.common.pages import png, render
from jobs.common.promotions import live_verdict
from jobs.common.publishing import ledger_of
from jobs.common.settings import Settings, load_settings
from jobs.common.spark import open_spark
from jobs.common.step import Day, SettingsFile, run
from jobs.transforms.snapshot import newest_per_key
from model.evaluation.protocol import METRICS
from model.generation import Generation, Manifest, write_atomically
from model.recommender.tasks import TASKS

log = logging.getLogger("report")

SHOWN_USERS, SHOWN_ITEMS = 10, 5


def main(ds: Day, settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    day = ds.date()
    lists = _of_day(settings, "recommendations", day)
    model = by_identity(settings, lists.manifest.parents["model"])
    codebook = by_identity(settings, lists.manifest.parents["codebook"])
    verdict = live_verdict(settings, model)
    evaluation = by_identity(settings, verdict.manifest.parents["evaluation"])
    twin = by_identity(settings, verdict.manifest.parents["twin"])
    with open_spark(settings, "report") as spark:
        users, fallbacks = _users(spark, settings, day)
        problems = _problems(spark, settings, day)
    counts = _of_day(settings, "events", day).manifest.counts
    page = render(
        "report.html.j2",
        day=day,
        model=model,
        codebook=codebook,
        tiles={
            "events of the day": f"{counts['events']:,}",
            "users with a list": f"{lists.manifest.counts['rows'] - fallbacks:,}",
            "users on the fallback": f"{fallbacks:,}",
            "items with a code": f"{codebook.manifest.metrics['items']:,}",
        },
        lists=_made(lists),
        published=_published(settings, lists),
        problems=problems,
        quarantined={reason: n for reason, n in counts.items() if reason.startswith("quarantined: ")},
        quality=evaluation.manifest.metrics,
        metric_names=list(METRICS),
        verdict=verdict.manifest.metrics,
        loss_plot=_plot_losses({"judged": twin, "live": model}),
        trained={"judged": twin.manifest.metrics, "live": model.manifest.metrics},
        health=codebook.manifest.metrics,
        codebook_plot=plot_usage(codebook.manifest.metrics),
        codebook_picture=_picture(codebook),
        users=users,
        seconds=timings.of_day(settings, day),
        parents=lists.manifest.parents,
    )
    draft = store(settings, "report").begin()
    write_atomically(draft.path("report.html"), page.encode())
    parents = {"recommendations": lists.identity, "evaluation": evaluation.identity, "model": model.identity}
    draft.commit(Manifest(key={"ds": day.isoformat()}, parents=parents, code_version=code_version()))
    log.info("report: %s", draft.path("report.html"))


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


def _users(spark: SparkSession, settings: Settings, day: dt.date) -> tuple[list[dict[str, Any]], int]:
    """Ten users, drawn by a hash, with titles; and the number of users without a list of the model's."""
    lists = daily_table(settings, "recommendations").read(spark, day, day)
    fallbacks = lists.where("source = 'fallback'").count()
    shown = lists.where("source = 'model'").orderBy(F.xxhash64("user_id"), "user_id").limit(SHOWN_USERS)
    histories = daily_table(settings, "user_history").read(spark, None, day).join(shown, "user_id", "left_semi")
    newest = newest_per_key(histories, "user_id").select("user_id", F.reverse("item_ids").alias("history"))
    titles = newest_per_key(daily_table(settings, "item_text").read(spark, None, day), "item_id")
    named = {
        column: _titles(frame, column, titles).orderBy("user_id").collect()
        for frame, column in ((newest, "history"), (shown.withColumnRenamed("item_ids", "recommended"), "recommended"))
    }
    return [
        {"name": past["name"], "history": past["titles"], "recommended": future["titles"]}
        for past, future in zip(named["history"], named["recommended"], strict=True)
    ], fallbacks


def _titles(lists: DataFrame, column: str, titles: DataFrame) -> DataFrame:
    """(user_id, name, titles): the first titles of each list; `name` is the user's id, hashed."""
    placed = lists.select("user_id", F.posexplode(F.slice(column, 1, SHOWN_ITEMS)).alias("place", "item_id"))
    ordered = F.array_sort(F.collect_list(F.struct("place", "title")))["title"]
    name = F.substring(F.sha2("user_id", 256), 1, 8)
    return placed.join(titles, "item_id").groupBy("user_id").agg(name.alias("name"), ordered.alias("titles"))


def _picture(codebook: Generation) -> str | None:
    """None for a codebook of an older version, which kept none."""
    file = "picture.safetensors"
    return plot_picture(codebook.path(file)) if file in codebook.manifest.checksums else None


def _plot_losses(models: dict[str, Generation]) -> str:
    """A panel per family of tasks: loss over epochs, the judged model (dashed) beside the live one."""
    panels: dict[str, list[str]] = {}
    for model in models.values():
        for task in model.manifest.metrics["loss"]:
            family = TASKS[task].family.value if task in TASKS else task  # a model of an older version knows others
            panels[family] = [*dict.fromkeys([*panels.get(family, []), task])]
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    for axes, (family, tasks) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for (name, model), style in zip(models.items(), ("--", "-"), strict=True):
            for number, task in enumerate(tasks):
                values = model.manifest.metrics["loss"].get(task, [])
                label = task if name == "live" else None
                axes.plot(range(1, len(values) + 1), values, style, color=f"C{number}", marker=".", label=label)
        axes.set(title=family, xlabel="epoch", ylabel="loss, nats per token")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize="x-small")
    return png(figure)


if __name__ == "__main__":
    run(main)
