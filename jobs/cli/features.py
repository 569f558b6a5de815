"""The Feast definitions of `feature_repo`, for people: what would change, and the change; Feast's own commands do both.

    python -m jobs.cli.features plan
    python -m jobs.cli.features apply
    eval "$(python -m jobs.cli.features env)" && feast -c feature_repo serve

`env` prints what the yaml files read, so that any Feast command works in a shell.
"""

from __future__ import annotations

import shlex

import typer

from jobs.common import feature_store
from jobs.common.settings import load_settings
from jobs.common.step import SettingsFile, run_app

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Feast definitions: plan, apply, env.")


@app.command()
def plan(settings_file: SettingsFile = None) -> None:
    """Show what `apply` would change. (Feast 0.67 lists every view as updated when only its own time stamps differ.)"""
    feature_store.run_feast(load_settings(settings_file), "plan", "--skip-source-validation")


@app.command()
def apply(settings_file: SettingsFile = None) -> None:
    """Register the definitions. Steps do so themselves when the definitions have changed."""
    changed = feature_store.apply(load_settings(settings_file))
    print("registered" if changed else "registered already")


@app.command()
def env(settings_file: SettingsFile = None) -> None:
    """Print the environment of Feast's own command line, as shell exports."""
    for name, value in feature_store.environment(load_settings(settings_file)).items():
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    run_app(app)
