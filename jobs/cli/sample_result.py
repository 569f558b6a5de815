"""What `make run` ends with: how good the model is, and what an app reads for five users from the online store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow.dataset as pads
from rich.console import Console
from rich.table import Table

from jobs.common import feature_store
from jobs.common.artefacts import store
from jobs.common.contracts import daily_table
from jobs.common.promotions import verdicts
from jobs.common.settings import Settings
from model.evaluation.protocol import format_table

USERS, LAST_ITEMS, TOP = 5, 3, 5


def show_result(settings: Settings, console: Console) -> None:
    """Print the evaluation, the users' last items and best recommendations as read online, and where to look next."""
    user_ids = newest_users(settings, USERS)
    with feature_store.quiet():
        lists = feature_store.read_online(settings, user_ids)
        histories = _read(settings, ["user_history:item_ids"], settings.feast.user_key, user_ids)["item_ids"]
        last = [list(reversed((items or [])[-LAST_ITEMS:])) for items in histories]
        best = [row["item_ids"][:TOP] for row in lists]
        item_ids = sorted({item for items in (*last, *best) for item in items})
        titles = _read(settings, ["item_text:title"], settings.feast.item_key, item_ids)["title"]
    title_of = dict(zip(item_ids, titles, strict=True))

    table = Table("user", "last seen, newest first", "recommended, best first", "from", show_lines=True)
    for user_id, seen, shown, row in zip(user_ids, last, best, lists, strict=True):
        table.add_row(
            user_id, "\n".join(title_of[i] for i in seen), "\n".join(title_of[i] for i in shown), row["source"]
        )
    evaluation = store(settings, "evaluation").latest()
    if evaluation is not None:
        console.print(
            "\nThe model (challenger) on the held-out days, beside the baselines; means over users, 95% intervals:\n"
            + format_table(evaluation.manifest.metrics),
            markup=False,
            soft_wrap=True,
        )
    verdict = verdicts(settings).latest()
    if verdict is not None and verdict.manifest.metrics["promoted"] and not verdict.manifest.metrics["passed"]:
        console.print('It is live because the settings say promotion.rule = "always"; the gate would have refused it.')
    console.print("\nWhat an app reads from the online store:")
    console.print(table, markup=False)
    report = store(settings, "report").latest()
    if report is not None:
        console.print(f"Report:              {report.path('report.html')}")
    console.print('The same over HTTP:  eval "$(.venv/bin/python -m jobs.cli.features env)"')
    console.print("                     .venv/bin/feast -c feature_repo serve\n")


def newest_users(settings: Settings, number: int) -> list[str]:
    """The users whose newest history row is the newest; ties by id."""
    newest: dict[str, Any] = {}
    table = daily_table(settings, "user_history")
    for generation in table.store.complete():
        rows = pads.dataset(generation.path("rows")).to_table(["user_id", "ds"])
        for user_id, day in zip(rows["user_id"].to_pylist(), rows["ds"].to_pylist(), strict=True):
            newest[user_id] = max(day, newest.get(user_id, day))
    return sorted(newest, key=lambda user_id: (-newest[user_id].toordinal(), user_id))[:number]


def _read(settings: Settings, features: list[str], key: str, ids: Sequence[str]) -> dict[str, list[Any]]:
    """Columns of the online store for some keys, in their order; None for a key that has no row."""
    online = feature_store.open_store(settings)
    columns: dict[str, list[Any]] = online.get_online_features(features, [{key: value} for value in ids]).to_dict()
    return columns
