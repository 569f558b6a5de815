"""Delete generations that nothing live descends from. Prints what would go; deletes with --delete.

Kept: what each store's pointer names, its newest generation, what owns a day of a daily table, the newest publishes of
lists (so that a roll-back finds them) and the retractions since, the text vectors; every parent of these; and what goes
with one of them: the codes added to a codebook, the verdicts on a model, with the twin and the evaluation that they
name, so that it can go live again. Reports are pages, and stay. An unfinished attempt goes once a later one has
finished; the newest may still be in the writing.

    python -m jobs.prune --keep-publishes 7 --delete
"""

from __future__ import annotations

import datetime as dt
import logging
from typing import Annotated

import fsspec
import typer

from jobs.common.artefacts import store
from jobs.common.contracts import DAILY_TABLES, daily_table
from jobs.common.ledger import Ledger
from jobs.common.settings import Settings, load_settings
from jobs.common.step import SettingsFile, run
from model.generation import Generation, GenerationStore

log = logging.getLogger("prune")

PAGES = ("report", "data_report")
GOES_WITH = {"codebook_additions": "codebook", "promotion": "live"}
"""Store -> the parent that its generations stay and go with."""

KeepPublishes = Annotated[int, typer.Option("--keep-publishes", min=1, help="Newest publishes of lists that stay.")]
Delete = Annotated[bool, typer.Option("--delete", help="Delete. Without it, only print.")]


def main(keep_publishes: KeepPublishes = 7, delete: Delete = False, settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    stores = _stores(settings)
    dead = dead_attempts(settings, stores, keep_publishes)
    for uri in dead:
        log.info("%s %s", "delete" if delete else "would delete", uri)
        if delete:
            fs, path = fsspec.url_to_fs(uri)
            # The manifest first: from then on nobody reads the rest.
            if fs.exists(f"{path}/manifest.json"):
                fs.rm(f"{path}/manifest.json")
            fs.rm(path, recursive=True)
    told = "deleted" if delete else "to delete; add --delete to do it"
    log.info("%d generations of %d stores in %s %s", len(dead), len(stores), settings.lake_uri, told)


def dead_attempts(settings: Settings, stores: list[GenerationStore], keep_publishes: int) -> list[str]:
    """URIs of the attempts that nothing live needs, sorted. Their claims stay, so that no number is given twice."""
    finished = {one.identity: one for store_ in stores for one in store_.complete()}
    live = _descended_from({one.identity for one in _roots(settings, stores, keep_publishes)}, finished)
    dead = {
        generation.uri
        for identity, generation in finished.items()
        if identity not in live and identity.partition("/")[0] not in PAGES
    }
    for store_ in stores:
        latest = store_.latest()
        finished_here = {generation.attempt for generation in store_.complete()}
        dead |= {
            store_.attempt_uri(attempt)
            for attempt in store_.attempts()
            if latest is not None and attempt < latest.attempt and attempt not in finished_here
        }
    return sorted(dead)


def _stores(settings: Settings) -> list[GenerationStore]:
    """Every store in the lake: a folder that holds claims."""
    fs, root = fsspec.url_to_fs(settings.lake_uri)
    claims = [path for depth in ("*", "*/*") for path in fs.glob(f"{root}/{depth}/*.claim")]
    parents = sorted({path.rpartition("/")[0].removeprefix(root).strip("/") for path in claims})
    return [store(settings, parent) for parent in parents]


def _roots(settings: Settings, stores: list[GenerationStore], keep_publishes: int) -> list[Generation]:
    roots = []
    for store_ in stores:
        kind = store_.name.partition("/")[0]
        if kind == "item_vectors":  # a cache for all
            roots += store_.complete()
        elif kind not in GOES_WITH:
            roots += [one for one in (store_.current(), store_.latest()) if one is not None]
    for name in DAILY_TABLES:
        roots += [owner for owner, _, _ in daily_table(settings, name).owners(None, dt.date.max)]
    return roots + _kept_publications(Ledger(settings.lake_uri, settings.publishing.lease_seconds), keep_publishes)


def _kept_publications(ledger: Ledger, keep_publishes: int) -> list[Generation]:
    """Of the newest publishes of lists and all since the oldest of these; those that an earlier prune left."""
    there = {publication.attempt: publication for publication in ledger.publications.complete()}
    kept: list[Generation] = []
    lists = 0
    for record in ledger.records():
        if lists == keep_publishes:
            break
        lists += record.kind != "retract"
        kept += [there[record.number]] if record.number in there else []
    return kept


def _descended_from(roots: set[str], finished: dict[str, Generation]) -> set[str]:
    """The roots, all their ancestors, and what goes with any of these."""
    owners = {
        identity: one.manifest.parents[role]
        for identity, one in finished.items()
        if (role := GOES_WITH.get(identity.partition("/")[0]))
    }
    live: set[str] = set()
    frontier = roots
    while frontier:
        live |= frontier
        parents = {p for one in frontier & finished.keys() for p in finished[one].manifest.parents.values()}
        children = {identity for identity, owner in owners.items() if owner in frontier}
        frontier = (parents | children) - live
    return live


if __name__ == "__main__":
    run(main)
