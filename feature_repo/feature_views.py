"""The features: what is stored online, and the view that makes an app's final list of it."""

from data_sources import (
    catalogue_state_source,
    item_codes_source,
    item_text_source,
    recommendations_request,
    user_codes_source,
    user_history_source,
    user_recommendations_source,
)
from entities import OWNER, catalogue, item, user
from feast import Entity, FeatureView, Field
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Float32, Int64, String, UnixTimestamp

FOREVER = None
"""No time to live: Feast does not apply one to online reads. `valid_until` is served and checked instead."""


def stored_view(entity: Entity, source: SparkSource, description: str, fields: list[Field]) -> FeatureView:
    """A view that bears its source's name, with an explicit schema."""
    key = Field(name=entity.join_key, dtype=String, description=entity.description)
    return FeatureView(
        name=source.name,
        entities=[entity],
        schema=[key, *fields],
        source=source,
        ttl=FOREVER,
        online=True,
        description=description,
        owner=OWNER,
        tags={"stored": "online"},
    )


CODE_FIELDS = [
    Field(name="codes", dtype=String, description='The code "u-v-x-y".'),
    Field(name="codebook_version", dtype=String, description="Identity of the codebook."),
]

user_history = stored_view(
    user,
    user_history_source,
    "A user's newest events, oldest first; the lists are parallel.",
    [
        Field(name="item_ids", dtype=Array(String), description="Items of the events."),
        Field(name="event_types", dtype=Array(String), description="Types of the events."),
        Field(name="event_times", dtype=Array(UnixTimestamp), description="Times of the events, UTC."),
        Field(
            name="seconds_since_previous",
            dtype=Array(Int64),
            description="Session gaps: seconds since the event before; 0 for the user's first.",
        ),
        Field(name="events_total", dtype=Int64, description="Number of all the user's events so far."),
    ],
)
item_text = stored_view(
    item,
    item_text_source,
    "An item as text encoders read it.",
    [
        Field(name="title", dtype=String, description="Title, normalised."),
        Field(name="text", dtype=String, description="Title, categories and description in one text."),
        Field(name="text_hash", dtype=String, description="sha2-256 of `text`, hexadecimal."),
        Field(name="available", dtype=Bool, description="Whether the item may be recommended."),
    ],
)
item_codes = stored_view(
    item,
    item_codes_source,
    "An item's code in the live codebook.",
    CODE_FIELDS,
)
user_codes = stored_view(
    user,
    user_codes_source,
    "A user's own code, of methods that give users codes; many users may share one. Null for users who have none.",
    CODE_FIELDS,
)
user_recommendations = stored_view(
    user,
    user_recommendations_source,
    "A user's published list, best first; the lists are parallel, and empty for users who vanished. "
    "Apps read the service recommendations_v1 instead.",
    [
        Field(name="stored_item_codes", dtype=Array(String), description='Codes "u-v-x-y".'),
        Field(name="stored_item_ids", dtype=Array(String), description="Items, decoded at publish time."),
        Field(name="stored_scores", dtype=Array(Float32), description="The ranker's scores."),
        Field(name="stored_model_version", dtype=String, description="Identity of the model."),
        Field(name="stored_codebook_version", dtype=String, description="Identity of the codebook."),
        Field(name="stored_generated_at", dtype=UnixTimestamp, description="End of the day that the list is for."),
        Field(name="stored_valid_until", dtype=UnixTimestamp, description="From then on the list is not served."),
        Field(name="stored_source", dtype=String, description="model | fallback."),
    ],
)
catalogue_state = stored_view(
    catalogue,
    catalogue_state_source,
    "What holds for all users: the popularity list and the retracted items.",
    [
        Field(name="stored_popular_item_codes", dtype=Array(String), description="Codes of the popularity list."),
        Field(name="stored_popular_item_ids", dtype=Array(String), description="The popularity list, best first."),
        Field(name="stored_popular_scores", dtype=Array(Float32), description="Its weighted event counts."),
        Field(name="stored_popular_codebook_version", dtype=String, description="Identity of its codebook."),
        Field(name="stored_popular_generated_at", dtype=UnixTimestamp, description="End of the last day it counts."),
        Field(name="stored_popular_valid_until", dtype=UnixTimestamp, description="When it is due to be replaced."),
        Field(name="stored_retracted_item_ids", dtype=Array(String), description="Items that no list may show."),
    ],
)


@on_demand_feature_view(
    name="recommendations",
    sources=[user_recommendations, catalogue_state, recommendations_request],
    # Feast 0.67 loses the descriptions of these on the way to the registry, and then rejects them: they stand below.
    schema=[
        Field(name="item_codes", dtype=Array(String)),
        Field(name="item_ids", dtype=Array(String)),
        Field(name="scores", dtype=Array(Float32)),
        Field(name="model_version", dtype=String),
        Field(name="codebook_version", dtype=String),
        Field(name="generated_at", dtype=UnixTimestamp),
        Field(name="valid_until", dtype=UnixTimestamp),
        Field(name="source", dtype=String),
    ],
    mode="python",
    description="The final list: without retracted and excluded items; popular items where nothing valid is left. "
    'item_codes: codes "u-v-x-y", best first; item_ids and scores: parallel. '
    'model_version: identity of the model, "popularity" for a fallback. codebook_version: identity of the codebook. '
    "generated_at: end of the day that the list is for. valid_until: until when it counts as fresh. "
    "source: model | fallback.",
    owner=OWNER,
    tags={"stored": "no"},
)
def recommendations(inputs: dict[str, list]) -> dict[str, list]:
    """One value per requested row in each list. Feast runs this from its source text alone: imports stay inside."""
    import datetime as dt  # noqa: PLC0415

    def served(row: dict, prefix: str) -> list[tuple]:
        """The (code, item, score) triples of a stored list that may be shown; none where nothing is stored."""
        hidden = {*(row["stored_retracted_item_ids"] or []), *(row["exclude_item_ids"] or [])}
        stored = [row[f"{prefix}_{name}"] or [] for name in ("item_codes", "item_ids", "scores")]
        return [triple for triple in zip(*stored, strict=True) if triple[1] not in hidden]

    now = dt.datetime.now(dt.UTC)
    answers = []
    for values in zip(*inputs.values(), strict=True):
        row = dict(zip(inputs, values, strict=True))
        valid_until = row["stored_valid_until"]
        own = served(row, "stored") if valid_until is not None and now < valid_until else []
        shown = own or served(row, "stored_popular")
        origin = "stored" if own else "stored_popular"
        answers.append(
            {
                "item_codes": [code for code, _, _ in shown],
                "item_ids": [item_id for _, item_id, _ in shown],
                "scores": [score for _, _, score in shown],
                "model_version": row["stored_model_version"] if own else "popularity",
                "codebook_version": row[f"{origin}_codebook_version"],
                "generated_at": row[f"{origin}_generated_at"],
                "valid_until": row[f"{origin}_valid_until"],
                "source": row["stored_source"] if own else "fallback",
            }
        )
    return {name: [answer[name] for answer in answers] for name in answers[0]}
