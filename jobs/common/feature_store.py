"""The one way to Feast: its environment, its definitions, the Spark views that it reads, and what goes online.

Feast reads generations through temporary Spark views, which are registered from the current manifests before each call.
A row goes online only if its `event_timestamp` is later than what is stored (Redis ignores it otherwise), so callers
take that time from the ledger. Importing Feast takes seconds: it is imported where it is used.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib
import io
import logging
import os
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pyspark.sql import DataFrame, SparkSession

from jobs.common.contracts import daily_table
from jobs.common.settings import Settings
from model.generation import digest, sha256, write_atomically

if TYPE_CHECKING:
    from feast import FeatureStore

log = logging.getLogger("feature_store")

RECOMMENDATIONS_SERVICE = "recommendations_v1"
TRAINING_SERVICE = "training_v1"

HISTORY_VIEWS = ("user_history", "item_text")
"""Feature views whose rows are those of the daily table of the same name."""


def import_ahead() -> None:
    """Import Feast in a thread, beside the start of Spark. Whoever needs it first waits for the rest."""
    threading.Thread(target=importlib.import_module, args=("feast",), name="import feast", daemon=True).start()


def environment(settings: Settings) -> dict[str, str]:
    """What the definitions and yaml files of `feature_repo` read: for our own steps, and for a shell.

    ValueError when the yaml file names a variable that is neither among them nor in the environment.
    """
    fs, path = fsspec.url_to_fs(settings.store_uri("feast"))
    home = path if isinstance(fs, LocalFileSystem) else settings.store_uri("feast")
    yaml = _yaml(settings)
    ours = {
        "PRECOG_FEAST_PROJECT": settings.feast.project,
        "PRECOG_FEAST_HOME": home,
        "PRECOG_FEAST_USER_KEY": settings.feast.user_key,
        "PRECOG_FEAST_ITEM_KEY": settings.feast.item_key,
        "FEAST_FS_YAML_FILE_PATH": str(yaml),
    }
    asked = {name for line in yaml.read_text().splitlines() for name in re.findall(r"^[^#]*\$\{(\w+)\}", line)}
    if missing := sorted(asked - ours.keys() - os.environ.keys()):
        raise ValueError(f"{yaml} reads {', '.join(missing)} from the environment: set what it says there.")
    return ours


def _yaml(settings: Settings) -> Path:
    file = Path(settings.feast.repo, settings.feast.config).resolve()
    if not file.is_file():
        raise ValueError(f"{file} does not exist: look at the settings feast.repo and feast.config.")
    return file


def run_feast(settings: Settings, *arguments: str, quiet: bool = False) -> None:
    """Run Feast's own command line on our definitions, in a process of its own: it changes folder and imports by path.

    `quiet` shows its output only when it fails. ValueError when it does.
    """
    home = environment(settings)["PRECOG_FEAST_HOME"]
    fsspec.url_to_fs(home)[0].makedirs(home, exist_ok=True)
    command = [sys.executable, "-W", "ignore", "-m", "feast.cli.cli", "-c", settings.feast.repo, *arguments]
    done = subprocess.run(  # noqa: S603  our own arguments
        command,
        env=os.environ | environment(settings),
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ValueError(f"feast {' '.join(arguments)} failed.\n{done.stdout or ''}".rstrip())


def apply(settings: Settings) -> bool:
    """Register the definitions with Feast unless these very ones are registered already: that costs seconds.

    Sources are not validated: that would SELECT from views of data that may not exist yet. Schemas are explicit.
    """
    files = [_yaml(settings), *sorted(_yaml(settings).parent.glob("*.py"))]
    current = digest([settings.feast.model_dump(), *((path.name, sha256(str(path))) for path in files)])
    marker = settings.store_uri("feast", "applied.txt")
    fs, path = fsspec.url_to_fs(marker)
    if fs.exists(path) and fs.cat_file(path) == current.encode():
        return False
    run_feast(settings, "apply", "--skip-source-validation", quiet=True)
    write_atomically(marker, current.encode())
    log.info("registered the definitions of %s", settings.feast.repo)
    return True


def open_store(settings: Settings) -> FeatureStore:
    """The feature store of the settings. Its offline side runs in the Spark session that is active here."""
    from feast import FeatureStore  # noqa: PLC0415

    os.environ.update(environment(settings))
    return FeatureStore(repo_path=str(_yaml(settings).parent), fs_yaml_file=_yaml(settings))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Feast's coloured progress and its warning, for each view anew, that Spark is experimental.

    What is printed inside is lost.
    """
    from feast.infra.offline_stores.contrib.spark_offline_store import spark  # noqa: F401, PLC0415  sets its own filter

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def register_view(settings: Settings, name: str, rows: DataFrame) -> None:
    """Make rows what Feast reads under that name; our key columns get the join keys of the settings."""
    keys = {"user_id": settings.feast.user_key, "item_id": settings.feast.item_key}
    rows.withColumnsRenamed(keys).createOrReplaceTempView(name)


def register_views(spark: SparkSession, settings: Settings, until: dt.date) -> None:
    """Make user_history and item_text up to that day readable for point-in-time joins, from the current generations."""
    for name in HISTORY_VIEWS:
        register_view(settings, name, daily_table(settings, name).read(spark, None, until))


def write_online(
    store: FeatureStore, settings: Settings, name: str, rows: DataFrame, event_timestamp: dt.datetime
) -> None:
    """Write rows, one for each key and all of that event_timestamp, online from the executors."""
    register_view(settings, name, rows)
    started = time.monotonic()
    with quiet():
        store.materialize(event_timestamp, event_timestamp, feature_views=[name])
    log.info("%s went online in %.1f s", name, time.monotonic() - started)


def read_online(settings: Settings, user_ids: Sequence[str], exclude: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The final lists of some users as an app reads them, in that order: one dict of the service's fields per user."""
    store = open_store(settings)
    rows = [
        {
            settings.feast.user_key: user_id,
            "catalogue_id": settings.catalogue_id,
            "exclude_item_ids": list(exclude) or None,  # Feast cannot tell the type of an empty list
        }
        for user_id in user_ids
    ]
    columns = store.get_online_features(store.get_feature_service(RECOMMENDATIONS_SERVICE), rows).to_dict()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
