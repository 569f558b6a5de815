"""The models of a lake: which is live, what each was made from and how it was judged; and the way back to an older one.

    python -m jobs.cli.models list
    python -m jobs.cli.models use model/all/000002

`use` makes a model live again that was live before: the next `recommend` ranks with it, everyone anew.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jobs.common.artefacts import by_identity, store
from jobs.common.promotions import live_verdict, verdicts
from jobs.common.settings import Settings, load_settings
from jobs.common.step import MISTAKE, SettingsFile
from model.generation import Generation

JUDGED_BY = "NDCG@10"

app = typer.Typer(add_completion=False, no_args_is_help=True, help="The models of a lake: list, use.")


@app.command("list")
def show(settings_file: SettingsFile = None) -> None:
    """Every model that learned from all data, newest first: its part, its twin that was judged, and its parents."""
    settings = load_settings(settings_file)
    models = store(settings, "model", "all")
    live, judged = models.current(), {one.manifest.parents["live"]: one for one in verdicts(settings).complete()}
    table = Table("model", "of", "is", "judged by its twin", f"{JUDGED_BY} masked", "codebook", "training set")
    for model in reversed(models.complete()):
        verdict, parents = judged.get(model.identity), model.manifest.parents
        table.add_row(
            model.identity,
            model.manifest.key["ds"],
            part_of(model, live, verdict),
            verdict.manifest.parents["twin"] if verdict else "",
            _score(settings, verdict) if verdict else "",
            parents["codebook"],
            parents["training_set"],
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@app.command()
def use(
    identity: Annotated[str, typer.Argument(metavar="MODEL", help='As `list` names it: "model/all/000002".')],
    settings_file: SettingsFile = None,
) -> None:
    """Make a model live again that a verdict made live before."""
    settings = load_settings(settings_file)
    models = store(settings, "model", "all")
    model = next((one for one in models.complete() if one.identity == identity), None)
    if model is None:
        known = ", ".join(one.identity for one in models.complete()) or "none"
        raise ValueError(f"There is no model {identity} in {settings.lake_uri}. Models there: {known}.")
    live_verdict(settings, model)
    models.point_to(model)
    print(f"{identity} is live: python -m jobs.recommend --ds DAY, then jobs.publish, put its lists online.")


def part_of(model: Generation, live: Generation | None, verdict: Generation | None) -> str:
    """What a model is to the lake, by its newest verdict."""
    if live is not None and model.identity == live.identity:
        return "live"
    if verdict is None:
        return "not judged"
    return "was live" if verdict.manifest.metrics["promoted"] else "refused"


def _score(settings: Settings, verdict: Generation) -> str:
    try:
        evaluation = by_identity(settings, verdict.manifest.parents["evaluation"])
    except ValueError:
        return "pruned"
    value = evaluation.manifest.metrics["methods"]["challenger"]["masked"][JUDGED_BY]
    return f"{value['mean']:.4f} [{value['low']:.4f}, {value['high']:.4f}]"


if __name__ == "__main__":
    try:
        app()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(MISTAKE) from None
