"""What features are about. Join keys are settings: features can join the Feast project that a team has."""

import os

from feast import Entity, ValueType

OWNER = "recommendations"

user = Entity(
    name="user",
    join_keys=[os.environ.get("PRECOG_FEAST_USER_KEY", "user_id")],
    value_type=ValueType.STRING,
    description="A person or account that acts on items. Ids are opaque strings.",
    owner=OWNER,
    tags={"source": "events"},
)
item = Entity(
    name="item",
    join_keys=[os.environ.get("PRECOG_FEAST_ITEM_KEY", "item_id")],
    value_type=ValueType.STRING,
    description="Something of the catalogue that can be recommended.",
    owner=OWNER,
    tags={"source": "catalogue"},
)
catalogue = Entity(
    name="catalogue",
    join_keys=["catalogue_id"],
    value_type=ValueType.STRING,
    description='The catalogue as a whole, by its only id "current": Feast writes no view without an entity.',
    owner=OWNER,
    tags={"source": "catalogue"},
)
