"""An app that shows recommendations: one look-up at Feast's feature server, and nothing else.

    feast -c feature_repo serve --port 6571                       the README says with which environment
    PRECOG_FEATURES=http://localhost:6571 uvicorn --app-dir docs example_app:app --port 8000
    curl 'localhost:8000/users/547?without=318&without=2571'

Whatever happened to the user or to the items, the answer is a list: who is unknown, has vanished, or whose list has
expired or was used up gets what is popular, and `personal` is false. It is empty only for who excludes that as well.
"""

from __future__ import annotations

import datetime as dt
import os
from typing import Annotated, Any

import requests
from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel

FEATURES = os.environ.get("PRECOG_FEATURES", "http://localhost:6571")
TIMEOUT_SECONDS = 2.0


class Recommendations(BaseModel):
    """A user's list, best first."""

    item_ids: list[str]
    scores: list[float]
    personal: bool
    """Whether the model made it for this user."""
    generated_at: dt.datetime
    """End of the newest day that it knows of."""


app = FastAPI(title="Recommendations")
session = requests.Session()  # keeps the connection open: a look-up is one round trip


@app.get("/users/{user_id}")
def recommendations(user_id: str, without: Annotated[list[str] | None, Query()] = None) -> Recommendations:
    """The user's list, without the items that the page shows already."""
    entities: dict[str, Any] = {"user_id": [user_id], "catalogue_id": ["current"], "exclude_item_ids": [without]}
    query: dict[str, Any] = {"feature_service": "recommendations_v1", "entities": entities}
    try:
        answer = session.post(f"{FEATURES}/get-online-features", json=query, timeout=TIMEOUT_SECONDS)
        answer.raise_for_status()
    except requests.RequestException as error:
        raise HTTPException(503, f"The feature server at {FEATURES} does not answer.") from error
    found: dict[str, Any] = answer.json()
    row = {
        name: result["values"][0]
        for name, result in zip(found["metadata"]["feature_names"], found["results"], strict=True)
    }
    return Recommendations(**row, personal=row["source"] == "model")
