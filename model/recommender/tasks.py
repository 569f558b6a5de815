"""The alignment tasks as data [paper: the families and their negative counterparts; wording and mixture are ours].

A task is a name, a family and a few templates. "=>" ends the prompt; the loss is on what follows. A slot in braces is
where an item's or a user's own content goes. To add a task: a line here, its name in `config.TaskName`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import get_args

from model.task_names import TaskName


class Family(StrEnum):
    SEQUENTIAL = "sequential"
    TEXTUAL = "textual"
    QUERY = "query"
    USER = "user"


class Slot(StrEnum):
    WINDOW = "window"
    """Codes of all items of a window; those of its targets are labels, each predicted from what stands before it."""
    HISTORY = "history"
    """Codes of the items before the target, oldest first."""
    TITLES = "titles"
    """Titles of the newest of them."""
    INTERESTS = "interests"
    """The key terms that weigh most in the history."""
    ITEM = "item"
    """Codes of the item in question: a window's target, or any item for tasks without a history."""
    TITLE = "title"
    TEXT = "text"
    QUERY = "query"
    """Key terms of the item's text."""
    CANDIDATE = "candidate"
    """Codes of the item or, as often, of another."""
    CANDIDATE_TITLE = "candidate_title"
    CANDIDATES = "candidates"
    """Codes of the item among those of others, in random order."""
    CANDIDATE_TITLES = "candidate_titles"
    ANSWER = "answer"
    """Whether the candidate is the item: yes or no."""
    USER = "user"
    """Codes of a user with that history: what it was before the item, or before a window's first target."""
    BUYERS = "buyers"
    """Codes of other users who took the item, as they were before they did."""
    END = "end"


OF_HISTORY = {Slot.WINDOW, Slot.HISTORY, Slot.TITLES, Slot.INTERESTS, Slot.USER}
OF_QUERY = {Slot.QUERY, Slot.INTERESTS}
OF_USER = {Slot.USER, Slot.BUYERS}


@dataclass(frozen=True)
class Template:
    """Fixed text and slots, in order."""

    prompt: tuple[str | Slot, ...]
    response: tuple[str | Slot, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        prompt, response = (
            tuple(Slot(part[1:-1]) if part.startswith("{") else part for part in re.split(r"({\w+})", side) if part)
            for side in text.split("=>")
        )
        return cls(prompt, response)

    @property
    def slots(self) -> set[Slot]:
        return {part for part in self.prompt + self.response if isinstance(part, Slot)}


@dataclass(frozen=True)
class Task:
    name: TaskName
    family: Family
    wordings: tuple[str, ...]
    others: int = 0
    """Other items than the one in question that an example needs: its negatives."""
    templates: tuple[Template, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "templates", tuple(map(Template.parse, self.wordings)))

    def uses(self, slots: set[Slot]) -> bool:
        return any(template.slots & slots for template in self.templates)


INSTRUCTION = "Items in order:"
"""What inference begins with, too."""

TASKS: dict[TaskName, Task] = {
    task.name: task
    for task in (
        Task(
            "next_item",
            Family.SEQUENTIAL,
            (INSTRUCTION + "=>{window}", "A customer took:=>{window}", "History:=>{window}"),
        ),
        Task(
            "next_item_fits",
            Family.SEQUENTIAL,
            (
                INSTRUCTION + "{history}\nNext:{candidate}\nLikely?=>{answer}",
                "A customer took:{history}\nWill{candidate} be next?=>{answer}",
            ),
            others=1,
        ),
        Task(
            "choose_next_item",
            Family.SEQUENTIAL,
            (
                INSTRUCTION + "{history}\nOne of:{candidates}\nNext:=>{item}",
                "Candidates:{candidates}\nA customer took:{history}\nNext:=>{item}",
            ),
            others=3,
        ),
        Task("title_to_item", Family.TEXTUAL, ("Title:{title}\nItem:=>{item}", "Which item is{title}?=>{item}")),
        Task("text_to_item", Family.TEXTUAL, ("Description:{text}\nItem:=>{item}", "{text}\nItem:=>{item}")),
        Task("item_to_title", Family.TEXTUAL, ("Item:{item}\nTitle:=>{title}{end}", "What is{item}?=>{title}{end}")),
        Task(
            "titles_to_next_item",
            Family.TEXTUAL,
            ("Titles in order:{titles}\nNext item:=>{item}", "A customer took:{titles}\nNext:=>{item}"),
        ),
        Task(
            "items_to_next_title",
            Family.TEXTUAL,
            (
                INSTRUCTION + "{history}\nNext title:=>{title}{end}",
                "A customer took:{history}\nTitle of the next:=>{title}{end}",
            ),
        ),
        Task(
            "title_fits",
            Family.TEXTUAL,
            (
                "Item:{item}\nTitle:{candidate_title}\nRight?=>{answer}",
                "Is{item} called{candidate_title}?=>{answer}",
            ),
            others=1,
        ),
        Task(
            "choose_title",
            Family.TEXTUAL,
            (
                "Item:{item}\nOne of:{candidate_titles}\nTitle:=>{title}{end}",
                "Titles:{candidate_titles}\nThat of{item}:=>{title}{end}",
            ),
            others=3,
        ),
        Task("query_to_item", Family.QUERY, ("Looking for:{query}\nItem:=>{item}", "Query:{query}\nItem:=>{item}")),
        Task(
            "history_and_query_to_item",
            Family.QUERY,
            (
                INSTRUCTION + "{history}\nLooking for:{query}\nNext:=>{item}",
                "Query:{query}\nA customer took:{history}\nNext:=>{item}",
            ),
        ),
        Task(
            "history_to_interests",
            Family.QUERY,
            (
                INSTRUCTION + "{history}\nInterests:=>{interests}{end}",
                "A customer took:{history}\nPreferences:=>{interests}{end}",
            ),
        ),
        Task(
            "query_fits",
            Family.QUERY,
            (
                "Looking for:{query}\nItem:{candidate}\nFits?=>{answer}",
                "Query:{query}\nIs{candidate} a match?=>{answer}",
            ),
            others=1,
        ),
        Task("next_item_of_user", Family.USER, (INSTRUCTION + "{user}=>{window}",)),
        Task(
            "history_to_user",
            Family.USER,
            (INSTRUCTION + "{history}\nCustomer:=>{user}", "{history} were taken by=>{user}"),
        ),
        Task(
            "interests_to_user",
            Family.USER,
            ("Interests:{interests}\nCustomer:=>{user}", "Who likes{interests}?=>{user}"),
        ),
        Task(
            "user_to_interests",
            Family.USER,
            ("Customer:{user}\nInterests:=>{interests}{end}", "What does{user} like?=>{interests}{end}"),
        ),
        Task(
            "buyers_to_user",
            Family.USER,
            ("Item:{item}\nTaken by:{buyers}\nAnd by:=>{user}", "{buyers} took{item}. So did:=>{user}"),
        ),
    )
}
assert tuple(TASKS) == get_args(TaskName)
