"""How long the steps of a day took, for its report. The only wall time that the lake holds, and no step reads it.

<lake>/timings/2016-10-16/finetune temporal.json    {"seconds": 75.3}
"""

from __future__ import annotations

import datetime as dt
import json
from pathlib import PurePosixPath

import fsspec

from jobs.common.settings import Settings
from model.generation import write_atomically


def keep(settings: Settings, day: dt.date, label: str, seconds: float) -> None:
    """The newest run of a step counts."""
    content = json.dumps({"seconds": round(seconds, 1)})
    write_atomically(settings.store_uri("timings", day.isoformat(), f"{label}.json"), content.encode())


def of_day(settings: Settings, day: dt.date) -> dict[str, float]:
    """Seconds of each step that ended, by its label; the longest first."""
    fs, folder = fsspec.url_to_fs(settings.store_uri("timings", day.isoformat()))
    found = {PurePosixPath(file).stem: json.loads(fs.cat_file(file))["seconds"] for file in fs.glob(f"{folder}/*.json")}
    return dict(sorted(found.items(), key=lambda step: (-step[1], step[0])))
