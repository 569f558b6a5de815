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
from jobs.common.step import SettingsFile, Split, run_app
from model.generation import Generation

JUDGED_BY = "NDCG@10"

app = typer.Typer(add_completion=False, no_args_is_help=True, help="The models of a lake: list, use.")


@app.command("list")
def show(settings_file: SettingsFile = None) -> None:
    """Every model, newest first, with its part, its twin, its score and its parents.

    First those that learned from all data, of which one is live. Then those that were held back from days to be judged
    on: one without a twin lost, or its training on all data did not come to an end.
    """
    settings = load_settings(settings_file)
    live, judged = store(settings, "model", Split.all).current(), verdicts(settings).complete()
    # Of several verdicts the one counts that made a model live, else the newest.
    judged.sort(key=lambda one: one.manifest.metrics["promoted"])
    of_model, of_twin = ({one.manifest.parents[role]: one for one in judged} for role in ("live", "twin"))
    evaluations = store(settings, "evaluation").complete()
    of_challenger = {one.manifest.parents["challenger"]: one for one in evaluations}
    table = Table("model", "of", "is", "twin", f"{JUDGED_BY} masked", "codebook", "training set")
    for model in reversed(store(settings, "model", Split.all).complete()):
        verdict = of_model.get(model.identity)
        twin = verdict.manifest.parents["twin"] if verdict else ""
        table.add_row(*_cells(model, part_of(model, live, verdict), twin, _score(settings, verdict)))
    for split in (Split.temporal, Split.leave_one_out):
        for model in reversed(store(settings, "model", split).complete()):
            verdict, evaluation = of_twin.get(model.identity), of_challenger.get(model.identity)
            twin = verdict.manifest.parents["live"] if verdict else ""
            part = "judged" if verdict or evaluation else "not judged"
            table.add_row(*_cells(model, part, twin, _figure(evaluation) if evaluation else ""))
    if not table.row_count:
        print(f"No model in {settings.lake_uri} yet: the train DAG makes the first.")
        return
    Console(width=None if sys.stdout.isatty() else 180).print(table)


def _cells(model: Generation, part: str, twin: str, score: str) -> list[str]:
    parents = model.manifest.parents
    return [model.identity, model.manifest.key["ds"], part, twin, score, parents["codebook"], parents["training_set"]]


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
    """What a model is to the lake, by the verdict on it."""
    if live is not None and model.identity == live.identity:
        return "live"
    if verdict is None:
        return "not judged"
    return "was live" if verdict.manifest.metrics["promoted"] else "refused"


def _score(settings: Settings, verdict: Generation | None) -> str:
    if verdict is None:
        return ""
    try:
        return _figure(by_identity(settings, verdict.manifest.parents["evaluation"]))
    except ValueError:
        return "pruned"


def _figure(evaluation: Generation) -> str:
    value = evaluation.manifest.metrics["methods"]["challenger"]["masked"][JUDGED_BY]
    return f"{value['mean']:.4f} [{value['low']:.4f}, {value['high']:.4f}]"


if __name__ == "__main__":
    run_app(app)
