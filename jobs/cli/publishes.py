"""The publishes of a lake, newest first: what each put online, which one's lists are online, and which can come back.

python -m jobs.cli.publishes
"""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.table import Table

from jobs.common.ledger import Begun, Record
from jobs.common.publishing import last_lists, ledger_of
from jobs.common.settings import load_settings
from jobs.common.step import SettingsFile, run_app
from model.generation import Generation

app = typer.Typer(add_completion=False)


@app.command()
def show(settings_file: SettingsFile = None) -> None:
    """Every publish, newest first. `python -m jobs.rollback --to-publish N` brings back one that was replaced."""
    settings = load_settings(settings_file)
    ledger = ledger_of(settings)
    records = {record.number: record for record in ledger.records()}
    kept = {publication.attempt: publication for publication in ledger.publications.complete()}
    online = last_lists(ledger)
    table = Table("publish", "what", "lists of", "is", "users with a list", "model", "recommendations")
    for begun in ledger.begun():
        publication = kept.get(begun.number)
        state = _state(begun, records.get(begun.number), online, publication)
        table.add_row(str(begun.number), begun.kind, *_cells(publication, state))
    if not table.rows:
        raise ValueError(f"Nothing was published in {settings.lake_uri} yet. Run jobs.publish first.")
    Console(width=None if sys.stdout.isatty() else 180).print(table)


def _state(begun: Begun, record: Record | None, online: Record | None, publication: Generation | None) -> str:
    if record is None:
        return "not finished"
    if begun.kind == "retract":
        return "done"
    if record == online:
        return "online"
    return "replaced" if publication else "deleted"


def _cells(publication: Generation | None, state: str) -> list[str]:
    if publication is None:
        return ["", state]
    manifest = publication.manifest
    users = manifest.counts.get("users_with_list")
    count = "" if users is None else f"{users:,}"
    return [manifest.key["ds"], state, count, manifest.parents["model"], manifest.parents["recommendations"]]


if __name__ == "__main__":
    run_app(app)
