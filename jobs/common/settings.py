"""The one settings object: strict, typed, read from a TOML file, units in the names.

Order of precedence: environment (`PRECOG_LAKE_URI`, nested as `PRECOG_MODEL__FINETUNE__EPOCHS`), then the file. Unknown
keys are errors, and all errors are shown at once. Wiring takes this object; transforms take plain arguments.
"""

from __future__ import annotations

import json
import os
import tomllib
from contextlib import suppress
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from model.config import LANGUAGE_MODEL, OTHER_LANGUAGE_MODELS, ModelConfig

DEFAULT_FILE = "conf/sample.toml"
PREFIX = "PRECOG_"
NO_SUCH = ("extra_forbidden", "unexpected_keyword_argument")
"""What pydantic calls a key that a model, and one that a dataclass does not know."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class EventType(Strict):
    """What one `event_type` means everywhere: in ingest, histories, targets and masks."""

    weight: float = Field(1.0, ge=0)
    """Strength of the event in popularity counts."""
    target: bool = True
    """Whether a model is trained and judged on predicting such an event's item."""
    masks_seen: bool = True
    """Whether the event's item is left out of its user's recommendations."""


class Input(Strict):
    """Where the raw data lies and how its columns are called. Any format that Spark reads."""

    events_uri: str
    catalogue_uri: str
    format: str = "parquet"
    options: dict[str, str] = {}
    """Options of Spark's reader, e.g. {header = "true"} for CSV."""
    event_columns: dict[str, str] = {}
    """Contract column -> SQL expression over the raw columns, e.g. {user_id = "CustomerID"}; absent = same name. Use
    try_cast and try_to_timestamp: what they cannot read goes to quarantine, what cast cannot read stops the job."""
    catalogue_columns: dict[str, str] = {}
    event_filter: str = "true"
    """SQL condition on raw rows; the others are no events (price adjustments, say) and are left out, counted."""
    catalogue_filter: str = "true"
    """SQL condition on raw rows; the others describe no item (a log's remarks, say) and are left out, counted."""


class Quality(Strict):
    """Bounds for a day's raw data."""

    max_clock_skew_minutes: int = Field(60, ge=0)
    """An event that claims to be so much later than it arrived is refused. Needs the event column `arrived_at`."""
    volume_days: int = Field(7, ge=1)
    """A day's events are compared with the mean of so many days before it, if all of those were ingested."""
    min_volume_ratio: float = Field(0.2, ge=0)
    """Gate: fewer events than this share of that mean stop the day."""
    max_volume_ratio: float = Field(5.0, gt=0)
    """Gate: more events than so many times that mean stop the day."""


class Feast(Strict):
    project: str = "precog"
    repo: str = "feature_repo"
    """Folder of the Feast definitions."""
    config: str = "feature_store.yaml"
    """The store's yaml inside `repo`: another online store is another file."""
    user_key: str = "user_id"
    item_key: str = "item_id"


class Spark(Strict):
    master: str = ""
    """Empty: what spark-submit was given, or local[*] by hand."""
    shuffle_partitions: int = Field(4, ge=1)
    driver_memory: str = "2g"


class Training(Strict):
    """Where the training runs: a single process without a GPU in the job itself, others by TorchDistributor."""

    processes: int = Field(1, ge=1)
    on_executors: bool = False
    """false: all on the driver's machine. true: one per Spark task, on the executors."""
    use_gpu: bool = False
    mlflow_tracking_uri: str = ""
    """Where to log each fine-tuning; needs mlflow or mlflow-skinny. Empty: nowhere."""


class Inference(Strict):
    """How `recommend`, `evaluate` and `embed_item_text` run models on the executors."""

    partitions: int = Field(2, ge=1)
    """Of the users, or texts: each is one worker's share, and loads the model once."""
    gpus_per_task: float = Field(0, ge=0)
    """Of a GPU, what one such worker takes; its stage alone asks the cluster for GPUs. 0: on the CPU."""
    full_every_days: int = Field(7, ge=1)
    """While the model stays the same, a user's list is used again as long as history and seen items are unchanged,
    but no longer than so many days. 1: everyone is ranked every day."""


class Promotion(Strict):
    rule: Literal["gate", "always"] = "gate"
    """`gate`: the challenger must beat champion and baselines beyond noise. `always`: the verdict is printed only."""
    baselines: list[Literal["popularity", "item_knn", "successor", "cooccurrence", "ease"]] = Field(
        ["popularity", "cooccurrence"], min_length=1
    )
    """What a model must beat: see model/evaluation/cooccurrence.py and ease.py."""
    holdout_days: int = Field(28, ge=1)
    """H: the temporal split trains to ds - H days and tests on the H days."""
    max_test_users: int = Field(2000, ge=1)
    max_targets_per_user: int = Field(10, ge=1)
    """Each test user's share of the test: so many of the later events, drawn by a hash."""


class Publishing(Strict):
    valid_for_days: int = Field(2, ge=1)
    active_window_days: int = Field(365, ge=1)
    """A user without an event for so long gets a tombstone instead of a list."""
    popularity_days: int = Field(90, ge=1)
    """Window of the popularity list."""
    min_users_share: float = Field(0.5, ge=0, le=1)
    """Gate: the least number of users with a list, as a share of the last publish's."""
    min_full_share: float = Field(0.9, ge=0, le=1)
    """Gate: the least share of the users with a list who have all decoding.top_k items."""
    min_list_overlap: float = Field(0.05, ge=0, le=1)
    """Gate: the least share of a list's items, on average, that stood in the user's list of the last publish, too."""
    max_popular_share: float = Field(0.8, ge=0, le=1)
    """Gate: the most that the decoding.top_k most popular items may make up of all lists."""
    lease_seconds: float = Field(600, gt=0)
    """A publisher that was silent for so long is taken for dead."""


class Histories(Strict):
    max_items: int = Field(50, ge=1)
    """Newest events kept in a row of `user_history`."""


class Settings(BaseSettings):
    """All settings. `--settings FILE` or `PRECOG_SETTINGS` names the file; the default is conf/sample.toml."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    lake_uri: str = "lake"
    """Root of everything we write: local folder, s3://…, hdfs://…."""
    catalogue_id: str = "current"
    input: Input
    event_types: dict[str, EventType]
    quality: Quality = Quality()
    feast: Feast = Feast()
    spark: Spark = Spark()
    histories: Histories = Histories()
    training: Training = Training()
    inference: Inference = Inference()
    promotion: Promotion = Promotion()
    publishing: Publishing = Publishing()
    cost_per_hour: float = Field(0, ge=0)
    """What an hour of the machines costs, in any currency: the report says what each step did. 0: it does not."""
    method: Literal["semantic_convergence", "ttds", "rsllm"] = "semantic_convergence"
    """What is trained; a model that is live goes on with its own. See also model.ttds, model.rsllm."""
    model: ModelConfig = ModelConfig()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @field_validator("model", mode="before")
    @classmethod
    def _of_environment(cls, value: Any) -> Any:
        """Lists and tables come from the environment as JSON; pydantic-settings does not read it within dataclasses."""
        if isinstance(value, dict):
            return {name: cls._of_environment(each) for name, each in value.items()}
        with suppress(ValueError):  # what is no JSON is refused in its place
            return json.loads(value) if isinstance(value, str) and value[:1] in ("[", "{") else value
        return value

    @model_validator(mode="after")
    def _targets_exist(self) -> Settings:
        if not any(kind.target for kind in self.event_types.values()):
            raise ValueError("event_types: no type has target = true, so there is nothing to learn.")
        return self

    @model_validator(mode="after")
    def _one_language_model(self) -> Settings:
        if named := [name for name in OTHER_LANGUAGE_MODELS if name in self.model.fusion.signals]:
            raise ValueError(
                f"model.fusion.signals names {', '.join(named)}, but a day trains one language model, that of "
                f'`method`, and its signal is "{LANGUAGE_MODEL}": leave the others out.'
            )
        return self

    def store_uri(self, *parts: str) -> str:
        """URI of a generation store, e.g. store_uri("codebook", "all")."""
        return "/".join((self.lake_uri.rstrip("/"), *parts))

    def model_json(self) -> dict[str, Any]:
        """The model's settings as plain JSON values, for manifests and other processes."""
        value: dict[str, Any] = json.loads(json.dumps(asdict(self.model)))
        return value


def load_settings(file: str | None = None) -> Settings:
    """Read the settings file (argument, else `PRECOG_SETTINGS`, else conf/sample.toml).

    Relative paths are the working folder's. Raises ValueError that names the file and lists every wrong key at once.
    """
    path = Path(file or os.environ.get("PRECOG_SETTINGS") or DEFAULT_FILE)
    if not path.is_file():
        raise ValueError(f"Settings file {path} does not exist. Name one by --settings FILE or PRECOG_SETTINGS.")

    if misspelt := _misspelt():
        raise ValueError("\n".join(misspelt))

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    try:
        return FromFile()  # type: ignore[call-arg]  # the fields come from the file
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"Settings file {path} is no TOML: {error}.") from None
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, e['loc'])) or '(whole file)'}: "
            + (_no_such(*e["loc"]) if e["type"] in NO_SUCH else e["msg"].removeprefix("Value error, "))
            for e in error.errors()
        ]
        told = f"Settings file {path} has {len(lines)} error(s), those in PRECOG_… of the environment among them:"
        raise ValueError("\n".join([told, *lines])) from None


def _misspelt() -> list[str]:
    """A line for each variable that is nearly a setting's; what else begins with PRECOG_ may be somebody's own."""
    told = []
    for variable in sorted(name for name in os.environ if name.upper().startswith(PREFIX)):
        top, *below = variable[len(PREFIX) :].lower().split("__")
        near = get_close_matches(top, Settings.model_fields, n=1, cutoff=0.8)
        if near and near[0] != top:
            meant = PREFIX + "__".join([near[0], *below]).upper()
            told.append(f"{variable} in the environment: there is no such setting; did you mean {meant}?")
    return told


def _no_such(*place: int | str) -> str:
    owner: Any = Settings
    for part in place[:-1]:
        owner = get_args(owner)[1] if get_origin(owner) is dict else get_type_hints(owner)[str(part)]
    name = str(place[-1])
    if owner is not Settings and name in Settings.model_fields:
        return f"there is no such setting here; {name} stands at the top of the file, before the first [table]"
    near = get_close_matches(name, get_type_hints(owner), n=1)
    return "there is no such setting" + (f"; did you mean {near[0]}?" if near else "")
