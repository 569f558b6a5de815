"""The names of the alignment tasks, and how often each is drawn unless settings say otherwise."""

from __future__ import annotations

from typing import Literal, get_args

TaskName = Literal[
    "next_item",
    "next_item_fits",
    "choose_next_item",
    "title_to_item",
    "text_to_item",
    "item_to_title",
    "titles_to_next_item",
    "items_to_next_title",
    "title_fits",
    "choose_title",
    "query_to_item",
    "history_and_query_to_item",
    "history_to_interests",
    "query_fits",
    "next_item_of_user",
    "history_to_user",
    "interests_to_user",
    "user_to_interests",
    "buyers_to_user",
]
"""The alignment tasks; model/recommender/tasks.py says what each asks. The last five need codes for users."""
USER_TASKS: tuple[TaskName, ...] = get_args(TaskName)[-5:]


def default_mixture() -> dict[TaskName, float]:
    of_items = (name for name in get_args(TaskName) if name not in USER_TASKS)
    return dict.fromkeys(of_items, 0.1) | {"next_item": 1.0}


def default_user_mixture() -> dict[TaskName, float]:
    return dict.fromkeys(USER_TASKS, 0.1) | {"next_item_of_user": 1.0}
