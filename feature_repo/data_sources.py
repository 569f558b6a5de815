"""Where features come from: Spark views that jobs/common/feature_store.py registers before each Feast call."""

from entities import OWNER
from feast import RequestSource
from feast.field import Field
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.types import Array, String


def spark_view(name: str, description: str) -> SparkSource:
    """A temporary Spark view over finished generations; its rows are valid from `event_timestamp` on."""
    return SparkSource(
        name=name,
        table=name,
        timestamp_field="event_timestamp",
        description=description,
        owner=OWNER,
        tags={"kind": "generation"},
    )


user_history_source = spark_view("user_history", "One row per user and active day: the newest events up to its end.")
item_text_source = spark_view("item_text", "One row per item and day of a catalogue update.")
item_codes_source = spark_view("item_codes", "The live codebook: one row per item.")
user_codes_source = spark_view("user_codes", "The user codes of one publication, tombstones included.")
user_recommendations_source = spark_view("user_recommendations", "The rows of one publication, tombstones included.")
catalogue_state_source = spark_view("catalogue_state", "The one row of a publication that holds for all users.")

recommendations_request = RequestSource(
    name="recommendations_request",
    schema=[
        Field(
            name="exclude_item_ids",
            dtype=Array(String),
            description="Items that this answer must not hold, e.g. what the page shows already. Null for none.",
        )
    ],
    description="What a request for recommendations says beside the user.",
    owner=OWNER,
    tags={"kind": "request"},
)
